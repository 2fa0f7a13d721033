"""The arena as requests see it: each client's share, rows on arrival, recurrent state.

Owner of every input and state block. A block goes back to the allocator when its request has
ended and no worker may still read it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from attrs import define, field

from appliance.admission.tensors import Feed
from appliance.dispatch.ticket import StateKey, Ticket
from appliance.errors import Outcome, Rejected
from appliance.wire.pb import worker_pb2
from appliance.workers.allocator import Block, Quota
from appliance.workers.arena import Arena, packed_bytes

MAX_EPISODES = 16
"""Recurrent states kept per (session, model); beyond it the oldest episode is forgotten."""
RETRY_NS = 10_000_000


@define(eq=False)
class Memory:
    """See the module's docstring."""

    arena: Arena
    _quotas: dict[str, Quota] = field(factory=dict[str, Quota], init=False)
    _states: dict[StateKey, tuple[str, list[Block]]] = field(
        factory=dict[StateKey, "tuple[str, list[Block]]"], init=False
    )

    # ---------------------------------------------------------------------------------- rows

    def store(self, ticket: Ticket, feeds: list[Feed], share: int) -> None:
        """Copy a request's tensors into the arena, once, and describe them for a worker.

        Args:
            share: Bytes the client may hold in all.

        Raises:
            Rejected: QUEUE_FULL, its share or the arena is used up.
        """
        assert ticket.spec is not None
        buffers = [feed.data for feed in feeds if feed.data is not None]
        size = packed_bytes([len(buffer) for buffer in buffers]) or 1
        ticket.block = self._allocate(ticket.client, size, share)
        try:
            for length in ticket.spec.state_bytes:
                ticket.state_out.append(self._allocate(ticket.client, length, share))
        except Rejected:
            self._free_ticket(ticket)
            raise
        offsets = iter(self.arena.write(ticket.block, *buffers))
        row = ticket.row = worker_pb2.Row()
        for feed in feeds:
            if feed.data is None:
                row.feeds.add(absent=True)
            else:
                row.feeds.add(
                    offset=next(offsets),
                    length=len(feed.data),
                    dtype=int(feed.dtype),  # pyright: ignore[reportArgumentType]
                    encoding=int(feed.encoding),  # pyright: ignore[reportArgumentType]
                    shape=feed.shape,
                )

    def hold(self, ticket: Ticket) -> None:
        """A worker may read the ticket's rows from now on."""
        ticket.holds += 1

    def release(self, ticket: Ticket) -> None:
        """A worker cannot read the ticket's rows any more."""
        ticket.holds -= 1
        self._free_if_done(ticket)

    def end(self, ticket: Ticket) -> None:
        """The request has ended."""
        ticket.ended = True
        self._free_if_done(ticket)

    def _free_if_done(self, ticket: Ticket) -> None:
        if ticket.ended and ticket.holds == 0 and ticket.block is not None:
            self._free_ticket(ticket)

    def _free_ticket(self, ticket: Ticket) -> None:
        assert ticket.block is not None
        self._free(ticket.client, [ticket.block, *ticket.state_out])
        ticket.block = None
        ticket.state_out = []

    # --------------------------------------------------------------------------------- state

    def state(self, key: StateKey) -> list[Block]:
        """Return where the state of an episode lies; empty before its first answer."""
        return self._states.get(key, ("", []))[1]

    def keep_state(self, key: StateKey, ticket: Ticket) -> None:
        """Make the state a request produced the one its successor starts from."""
        _, old = self._states.pop(key, ("", []))
        self._free(ticket.client, old)
        episodes = [other for other in self._states if other[:2] == key[:2]]
        if len(episodes) >= MAX_EPISODES:
            self.forget_states([episodes[0]])
        self._states[key] = (ticket.client, ticket.state_out)
        ticket.state_out = []

    def forget_episode(self, session: Hashable, model: str, episode: int) -> None:
        """An episode is over."""
        self.forget_states([(session, model, episode)])

    def forget_session(self, session: Hashable) -> None:
        """A session is over."""
        self.forget_states([key for key in self._states if key[0] == session])

    def forget_states(self, keys: Iterable[StateKey]) -> None:
        """Give the memory of these states back, where they are kept."""
        for key in keys:
            client, blocks = self._states.pop(key, ("", []))
            self._free(client, blocks)

    # ------------------------------------------------------------------------------- blocks

    def _allocate(self, client: str, size: int, share: int) -> Block:
        quota = self._quotas.get(client)
        if quota is None:
            quota = self._quotas[client] = Quota(share)
        if not quota.charge(size):
            raise Rejected(
                Outcome.QUEUE_FULL,
                f"client {client!r} holds {quota.used} of its {share} bytes of memory",
                retry_after_ns=RETRY_NS,
            )
        block = self.arena.allocator.allocate(size)
        if block is None:
            self._release(client, size)
            raise Rejected(
                Outcome.QUEUE_FULL,
                f"the arena has no room for {size} bytes",
                retry_after_ns=RETRY_NS,
            )
        return block

    def _free(self, client: str, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self._release(client, block.bytes)
            self.arena.allocator.free(block)

    def _release(self, client: str, size: int) -> None:
        quota = self._quotas[client]
        quota.release(size)
        if quota.used == 0:
            del self._quotas[client]
