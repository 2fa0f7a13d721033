"""An asyncio event loop inside Trio, in Trio's own thread, for a library that knows no other.

asyncio's selector is a file to Trio: when something is ready there, the loop takes one turn, which
never waits. So neither needs a thread, nor a lock, nor waits for the other's; they take turns.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable
from typing import Any

import trio

BURST = 16
"""Turns in a row, while there is something to do, before Trio's other tasks have theirs."""


class HostedLoop(asyncio.SelectorEventLoop):
    """See the module's docstring. `turns` runs it; never `run_forever`."""

    def __init__(self) -> None:
        selector = selectors.EpollSelector()
        self._descriptor = selector.fileno()
        self._is_ready = False
        self._timers_s: list[float] = []
        super().__init__(selector)

    def call_soon(self, *arguments: Any, **more: Any) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        self._is_ready = True
        return super().call_soon(*arguments, **more)

    def call_at(self, when: float, *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        heapq.heappush(self._timers_s, when)
        return super().call_at(when, *arguments, **more)

    async def turns(self, after: Callable[[], None]) -> None:
        """Take turns until cancelled.

        Args:
            after: Called after each burst of them: what they left to do is done together.
        """
        while True:
            for _ in range(BURST):
                self._turn()
                if not self._is_ready:
                    break
            after()
            if self._is_ready:
                await trio.lowlevel.checkpoint()
                continue
            due_s = self._due_s()
            if due_s is None:
                await trio.lowlevel.wait_readable(self._descriptor)
            else:
                with trio.move_on_after(due_s):
                    await trio.lowlevel.wait_readable(self._descriptor)

    def _turn(self) -> None:
        super().call_soon(self.stop)
        self._is_ready = False
        self.run_forever()  # until `stop`, which is ready: what was ready runs, once

    def _due_s(self) -> float | None:
        """Return how long there is nothing to do if nobody comes; None: for ever."""
        now_s = self.time()
        if self._timers_s and self._timers_s[0] <= now_s:
            while self._timers_s and self._timers_s[0] <= now_s:
                heapq.heappop(self._timers_s)
            return 0.0  # it may have become due after the turn had looked
        return self._timers_s[0] - now_s if self._timers_s else None
