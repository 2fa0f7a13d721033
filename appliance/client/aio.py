"""The asyncio face. One event loop uses it; waiting can be cancelled without losing an answer.

The socket's descriptor is edge-triggered and any ZeroMQ call may swallow the edge. Here every call
goes through `pump`, which moves messages until none is left to move, and then wakes the waiters if
something came. A waiter collects its answer only after it has woken, in one step: a cancelled one
leaves it where it was. What time brings (heartbeats, connecting anew, giving up) one timer of the
event loop brings, whether somebody waits or not.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import zmq

from appliance.client.cadence import Cadence
from appliance.client.codec import Value
from appliance.client.connection import (
    GIVE_UP_S,
    WINDOW,
    ConnectionHandle,
    named,
    new_core,
    read_keys,
)
from appliance.client.core import Core
from appliance.client.handle import ModelHandle, answer_of
from appliance.client.images import Images
from appliance.client.link import Link
from appliance.client.result import Result
from appliance.client.ticks import Tick, Ticker
from appliance.keys.files import ClientKeys

if TYPE_CHECKING:
    from typing_extensions import Self

    from appliance.wire.spec import ModelSpec


class WaitingLink(Link):
    """A link that tasks can wait on."""

    async def wait_async(self, ready: Callable[[], bool], timeout_ms: float) -> None:
        """Move messages until `ready()` or the time is up; 0 only looks."""
        raise NotImplementedError


class AsyncLink(WaitingLink):
    """A link whose waiting is done by the running event loop."""

    edge_triggered = True

    def __init__(
        self,
        servers: str | Sequence[str],
        core: Core,
        *,
        reconnect_ivl_ms: int,
        reconnect_max_ms: int,
        keys: ClientKeys | None,
        context: zmq.Context[zmq.Socket[bytes]] | None,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        super().__init__(
            servers,
            core,
            reconnect_ivl_ms=reconnect_ivl_ms,
            reconnect_max_ms=reconnect_max_ms,
            keys=keys,
            context=context,
        )

    def pump(self, *, prompt: bool = False) -> bool:
        """As `Link.pump`; what is left is moved in the loop's next round."""
        arrived = self.arrived
        more = super().pump(prompt=prompt)
        loop = self._attach()
        if loop is not None:
            self._set_timer(loop)
            if more:
                loop.call_soon(self._on_edge)
        if self.arrived != arrived:
            self._wake()
        return more

    async def wait_async(self, ready: Callable[[], bool], timeout_ms: float) -> None:
        """Move messages until `ready()` or the time is up; 0 only looks."""
        self.pump()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while not ready() and (remaining := deadline - loop.time()) > 0:
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            timer = loop.call_later(remaining, _finish, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiters.discard(waiter)
            self.pump()

    def use_encoder(self) -> None:
        """As `Link.use_encoder`."""
        super().use_encoder()
        self._detach()  # the next pump has the loop watch its descriptor, too

    def close(self) -> None:
        """As `Link.close`; who waits hears LocalProtocolError."""
        if self._detach():
            self._wake()
        super().close()

    def _shut(self) -> None:
        """As `Link._shut`; the descriptors are watched no more, the next ones soon."""
        self._detach()
        super()._shut()

    def _attach(self) -> asyncio.AbstractEventLoop | None:
        """Have the running loop watch the descriptors; without one, the next call will do."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        if loop is not self._loop:
            self._detach()
            self._loop = loop
            for descriptor in self.descriptors:
                loop.add_reader(descriptor, self._on_edge)
        return loop

    def _detach(self) -> bool:
        """Leave the loop; return whether there was one that can still run."""
        loop, self._loop = self._loop, None
        timer, self._timer = self._timer, None
        if loop is None or loop.is_closed():
            return False
        if timer is not None:
            timer.cancel()
        for descriptor in self.descriptors:
            loop.remove_reader(descriptor)
        return True

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have it ring when there may be something to do; early rather than often set anew."""
        at = loop.time() + self.idle_ns / 1e9
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._on_edge()
        self._wake()

    def _on_edge(self) -> None:
        if not self.core.closed:
            self.pump(prompt=True)

    def _wake(self) -> None:
        for waiter in self._waiters:
            _finish(waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Ticks:
    """The turns of a control loop.

    Event loops sleep in whole milliseconds; what they slept too long, `Tick.late_ns` says. No
    generator, so that leaving the loop early leaves nothing to be cleaned up.
    """

    def __init__(self, link: Link, hz: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Begin now.

        Raises:
            ValueError: `hz` is not above 0.
        """
        self._link = link
        self._ticker = Ticker(time.monotonic_ns(), hz)
        self._sleep = sleep

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tick:
        next_ns = self._ticker.next_ns
        await self._sleep(max(0, next_ns - time.monotonic_ns()) / 1e9)
        self._link.pump()
        return self._ticker.tick(max(next_ns, time.monotonic_ns()))


class AsyncPace:
    """The instants to observe at, one after the other; see `Model.pace`.

    Args:
        sleep: Of the event loop.
    """

    def __init__(
        self, link: Link, cadence: Cadence, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        assert isinstance(link, WaitingLink)
        self._link = link
        self._cadence = cadence
        self._sleep = sleep

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tick:
        await self._sleep(0)  # others have their turn, however late this loop is
        self._link.pump()
        cadence = self._cadence
        while (due_ns := cadence.due_ns(now_ns := time.monotonic_ns())) > now_ns:
            # Advice that comes meanwhile moves it.
            await self._link.wait_async(
                lambda until_ns=due_ns: cadence.due_ns(until_ns) != until_ns,
                (due_ns - now_ns) / 1e6,
            )
        return cadence.begin(now_ns)


class AsyncModel(ModelHandle):
    """A model, from a task's point of view. `observe_at`, `cancel` and the like never wait."""

    async def _wait_async(self, ready: Callable[[], bool], timeout_ms: float) -> None:
        assert isinstance(self._link, WaitingLink)
        await self._link.wait_async(ready, timeout_ms)

    async def observe(
        self,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **tensors_and_strings: Value,
    ) -> int:
        """Ask for an action; see `observe_at`. Returns at once, with the observation's number."""
        return self.observe_at(
            tensors_and_strings,
            urgency=urgency,
            steps_remaining=steps_remaining,
            priority=priority,
        )

    async def get_result(self, timeout_ms: float = 100) -> Result | None:
        """Return the answer to the latest observation, once, or None; see `Model.get_result`."""
        return answer_of(await self.wait(timeout_ms))

    async def wait(self, timeout_ms: float = 100) -> Result | None:
        """Return the answer or the refusal of the latest observation, once; None: no word yet."""
        await self._wait_async(self._has_latest, timeout_ms)
        return self._core.take_latest(self._channel)

    async def wait_for(self, sequence: int, timeout_ms: float = 100) -> Result | None:
        """Return the answer or the refusal of one observation, once; see `Model.wait_for`."""
        await self._wait_async(lambda: self._is_settled(sequence), timeout_ms)
        return self._channel.take(sequence)

    async def results(self, timeout_ms: float = 100) -> AsyncIterator[Result]:
        """Yield answers and refusals as they come, until none is outstanding or time is up."""
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            await self._wait_async(self._has_any, (deadline - time.monotonic()) * 1000)
            result = self._channel.take_first()
            if result is None:
                return
            yield result

    def ticks(self, hz: float) -> AsyncIterator[Tick]:
        """Yield the turns of a control loop; see `Model.ticks`."""
        return Ticks(self._link, hz, asyncio.sleep)

    def pace(self, hz: float) -> AsyncPace:
        """Return the instants to observe at, for a loop that only observes; see `Model.pace`."""
        return AsyncPace(self._link, self._begin_pace(hz), asyncio.sleep)

    async def describe(self, timeout_ms: float = 1000) -> ModelSpec | None:
        """Ask what the model takes and gives; None: no word, or refused as `last_status` says."""
        self._core.specs.describe(self._channel, self._options.model_version)
        await self._wait_async(self._is_described, timeout_ms)
        return self._channel.spec


class AsyncConnection(ConnectionHandle[WaitingLink]):
    """A connection to an appliance, which need not be there yet, for one event loop.

    Args:
        server: `host:port`, or an address with its transport (`tcp://...`, `ipc://...`).
            Several, best first: the first that answers is used.
        client_id: Who this is, to the appliance; made up if empty.
        client_type: What kind of client this is.
        reconnect_ivl_ms: First pause before connecting again.
        reconnect_max_ms: The pauses double up to this.
        give_up_s: After so long an observation without an answer counts as unanswered.
        heartbeat_ms: How often a sign of life is given at least. One of several appliances that
            gives none for two of these is left for another.
        keys: The key file that `appliance keys new` wrote for this client, or what it holds. Only
            its owner may be able to read the file. Without a `client_id`, this is who it names.
        context: To share one ZeroMQ context between many connections, each of which takes three of
            its MAX_SOCKETS; made here if None.

    Raises:
        ValueError: `server` is no address, or the keys are another client's.
        KeyFileError: The key file cannot be read, others can read it, or it holds no keys.
    """

    link_type: ClassVar[Callable[..., WaitingLink]] = AsyncLink
    model_type: ClassVar[type[AsyncModel]] = AsyncModel

    def __init__(
        self,
        server: str | Sequence[str] = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
        *,
        give_up_s: float = GIVE_UP_S,
        heartbeat_ms: float = 1000,
        keys: ClientKeys | str | os.PathLike[str] | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        own = read_keys(keys, client_id)
        self._link = self.link_type(
            server,
            new_core(named(client_id, own), client_type, give_up_s, heartbeat_ms),
            reconnect_ivl_ms=reconnect_ivl_ms,
            reconnect_max_ms=reconnect_max_ms,
            keys=own,
            context=context,
        )

    def model(
        self,
        model_id: str,
        latency_budget_ms: float = 50.0,
        priority: int = 1,
        *,
        lateness: str | None = None,
        keep: str | None = None,
        window: int = WINDOW,
        observation_period_ms: float | None = None,
        step_period_ms: float | None = None,
        model_version: str = "",
        images: Images | None = None,
    ) -> AsyncModel:
        """Return a handle of a model; see `Connection.model`."""
        return self.model_type(
            self._link,
            model_id,
            latency_budget_ms=latency_budget_ms,
            priority=priority,
            lateness=lateness,
            keep=keep,
            window=window,
            observation_period_ms=observation_period_ms,
            step_period_ms=step_period_ms,
            model_version=model_version,
            images=images,
        )

    async def wait_reachable(self, timeout_ms: float = 1000) -> bool:
        """Wait for a sign of life of the appliance; return whether one came."""
        core = self._link.core
        heard_ns = core.last_heard_ns
        core.greet()
        await self._link.wait_async(lambda: core.last_heard_ns != heard_ns, timeout_ms)
        return core.last_heard_ns != heard_ns

    async def wait_settled(self, timeout_ms: float = 1000) -> bool:
        """Wait until no observation is outstanding; return whether none is."""
        core = self._link.core
        await self._link.wait_async(lambda: not core.outstanding, timeout_ms)
        return not core.outstanding

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
