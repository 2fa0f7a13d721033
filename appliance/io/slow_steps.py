"""Reports tasks that hold the event loop for too long: everybody else waits meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio


class SlowSteps(trio.abc.Instrument):
    """A Trio instrument; pass it to `trio.run`.

    Args:
        limit_ns: A step longer than this is reported.
        report: Called with the task's name and the length of the step, nanoseconds.
    """

    def __init__(self, limit_ns: int, report: Callable[[str, int], None]) -> None:
        self._limit_ns = limit_ns
        self._report = report
        self._started_ns = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # as declared
        """Note when the step began."""
        self._started_ns = time.monotonic_ns()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Report it if it was long."""
        took_ns = time.monotonic_ns() - self._started_ns
        if took_ns > self._limit_ns:
            self._report(task.name, took_ns)
