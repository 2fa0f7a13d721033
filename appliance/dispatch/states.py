"""Recurrent state: what one request of an episode leaves for the next, in the arena.

A state is given up when its episode ends or goes on, but its memory only when no worker may read
it any more: until then a batch that was staged still points there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from attrs import define, field

from appliance.dispatch.ticket import StateKey, Ticket
from appliance.workers.allocator import Block

MAX_EPISODES = 16
"""States kept per (session, model); beyond it the oldest episode is forgotten."""


@define(eq=False)
class State:
    """The state of one episode, as one request left it.

    Attributes:
        client: Whose share of the arena it takes.
        holds: Batches sent to workers that may still read it.
        current: The next request of the episode starts from it.
    """

    client: str
    blocks: list[Block]
    holds: int = 0
    current: bool = True


@define(eq=False)
class States:
    """Every episode's current state.

    Args:
        free: Gives a client's blocks back.
    """

    free: Callable[[str, list[Block]], None]
    _current: dict[StateKey, State] = field(factory=dict[StateKey, State], init=False)
    _running: dict[StateKey, Ticket] = field(factory=dict[StateKey, Ticket], init=False)

    def start(self, key: StateKey, ticket: Ticket) -> State | None:
        """A request is sent to a worker: return, held, what it starts from; None is zeros."""
        self._running[key] = ticket
        state = self._current.get(key)
        if state is not None:
            state.holds += 1
        return state

    def release(self, state: State) -> None:
        """A worker cannot read a held state any more."""
        state.holds -= 1
        self._free_if_done(state)

    @property
    def running(self) -> bool:
        """Whether a request is under way that will leave a state."""
        return bool(self._running)

    def keep(self, key: StateKey, ticket: Ticket) -> None:
        """A request succeeded: what it produced is current, unless its episode is over by now."""
        if self._running.pop(key, None) is not ticket:
            return
        self._drop(key)
        episodes = [other for other in self._current if other[:2] == key[:2]]
        if len(episodes) >= MAX_EPISODES:
            self._drop(episodes[0])
        self._current[key] = State(ticket.client, ticket.state_out)
        ticket.state_out = []

    def end(self, key: StateKey, ticket: Ticket) -> None:
        """A request ended, however it did."""
        if self._running.get(key) is ticket:
            del self._running[key]

    def has(self, model: str) -> bool:
        """Return whether any episode of a model has begun and is not over."""
        return any(key[1] == model for key in (*self._current, *self._running))

    def forget_episode(self, key: StateKey) -> None:
        """An episode is over; what still runs of it leaves no state."""
        self._running.pop(key, None)
        self._drop(key)

    def forget_session(self, session: Hashable) -> None:
        """A session is over, and every episode of it."""
        for key in [key for key in (*self._current, *self._running) if key[0] == session]:
            self.forget_episode(key)

    def forget_model(self, model: str) -> None:
        """A model is served no more."""
        for key in [key for key in (*self._current, *self._running) if key[1] == model]:
            self.forget_episode(key)

    def _drop(self, key: StateKey) -> None:
        state = self._current.pop(key, None)
        if state is not None:
            state.current = False
            self._free_if_done(state)

    def _free_if_done(self, state: State) -> None:
        if not state.current and state.holds == 0:
            self.free(state.client, state.blocks)
