"""An asyncio event loop inside Trio, in Trio's own thread, for a library that knows no other.

asyncio's selector is a file to Trio: when something is ready there, the loop takes a burst of
turns, which never wait. So neither needs a thread, nor a lock, nor waits for the other's; they take
turns.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import selectors
from collections.abc import Callable
from typing import Any

import trio

BURST = 16
"""Turns in a row, while there is something to do, before Trio's other tasks have theirs."""
CALM = 3
"""A burst ends after so many turns in which nothing came. What comes at about the same time is then
handled together: with eight callers that saves a third of the processor time (measured), as each
look costs some microseconds, and a batch of one row costs as much as a batch of many."""


class HostedLoop(asyncio.SelectorEventLoop):
    """See the module's docstring. `turns` runs it; never `run_forever`."""

    def __init__(self) -> None:
        selector = selectors.EpollSelector()
        self._descriptor = selector.fileno()
        self._is_ready = False
        self._left = self._calm = 0
        self._timers_s: list[float] = []
        super().__init__(selector)

    def call_soon(self, *arguments: Any, **more: Any) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        self._is_ready = True
        return super().call_soon(*arguments, **more)

    def call_soon_threadsafe(self, *arguments: Any, **more: Any) -> asyncio.Handle:
        """See `asyncio.loop.call_soon_threadsafe`."""
        handle = super().call_soon_threadsafe(*arguments, **more)
        self._is_ready = True  # the last turn of a burst may have heard of it, and not run it
        return handle

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
            self._burst()
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

    def _burst(self) -> None:
        self._left, self._calm, self._is_ready = BURST, 0, True
        super().call_soon(self._go_on)
        self.run_forever()  # which never waits, as `_go_on` is always ready

    def _go_on(self) -> None:
        """Be the first to run in each turn of a burst, and know if the one before did anything."""
        if self._is_ready:
            self._calm = 0
        else:
            self._calm += 1
            os.sched_yield()  # to the library's own threads, which may have something for us
        if self._calm > CALM or not self._left:
            self.stop()
            return
        self._left -= 1
        self._is_ready = False
        super().call_soon(self._go_on)

    def _due_s(self) -> float | None:
        """Return how long there is nothing to do if nobody comes; None: for ever."""
        now_s = self.time()
        if self._timers_s and self._timers_s[0] <= now_s:
            while self._timers_s and self._timers_s[0] <= now_s:
                heapq.heappop(self._timers_s)
            return 0.0  # it may have become due after the turn had looked
        return self._timers_s[0] - now_s if self._timers_s else None
