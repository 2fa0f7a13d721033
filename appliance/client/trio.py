"""The Trio face: the calls of the asyncio face, in structured concurrency.

Messages are moved by one task in a nursery that lives as long as the `async with` block, and by
every call. Needs Trio, which the base install does not bring.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import trio

from appliance.client.aio import AsyncConnection, AsyncModel, AsyncPace, Ticks, WaitingLink
from appliance.client.ticks import Tick

if TYPE_CHECKING:
    from typing_extensions import Self


class TrioLink(WaitingLink):
    """A link whose waiting is done by Trio."""

    edge_triggered = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._arrival = trio.Event()
        super().__init__(*arguments, **options)

    def pump(self, *, prompt: bool = False) -> bool:
        """As `Link.pump`; who waits looks again when something came."""
        arrived = self.arrived
        more = super().pump(prompt=prompt)
        if self.arrived != arrived:
            self._wake()
        return more

    async def run(self) -> None:
        """Move messages until cancelled."""
        while True:
            with trio.move_on_after(self.idle_ns / 1e9):
                await trio.lowlevel.wait_readable(self.fileno())
            while self.pump(prompt=True):
                await trio.lowlevel.checkpoint()
            self._wake()  # also what was given up is news

    async def wait_async(self, ready: Callable[[], bool], timeout_ms: float) -> None:
        """Wait until `ready()` or the time is up; 0 only looks."""
        await trio.lowlevel.checkpoint()
        self.pump()
        with trio.move_on_after(max(0.0, timeout_ms) / 1000):
            while not ready():
                await self._arrival.wait()

    def _wake(self) -> None:
        self._arrival.set()
        self._arrival = trio.Event()


class TrioModel(AsyncModel):
    """A model, from a Trio task's point of view."""

    def ticks(self, hz: float) -> AsyncIterator[Tick]:
        """Yield the turns of a control loop; see `Model.ticks`."""
        return Ticks(self._link, hz, trio.sleep)

    def pace(self, hz: float) -> AsyncPace:
        """Return the instants to observe at, for a loop that only observes; see `Model.pace`."""
        return AsyncPace(self._link, self._begin_pace(hz), trio.sleep)


class TrioConnection(AsyncConnection):
    """As `AsyncConnection`, to be used by `async with` in Trio."""

    link_type = TrioLink
    model_type = TrioModel

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self.close)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            assert isinstance(self._link, TrioLink)
            nursery.start_soon(self._link.run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()  # an error of the block passes by, and is in no group
