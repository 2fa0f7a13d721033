"""A timer that fires within about 0.1 ms: a timerfd on CLOCK_MONOTONIC, waited for by Trio.

`trio.sleep_until` wakes 0.3 to 1.2 ms late, because epoll counts whole milliseconds.
Python has `os.timerfd_create` since 3.13; before, libc is called directly.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from types import TracebackType

import trio

_TFD_TIMER_ABSTIME = 1
_SECOND_NS = 1_000_000_000


if sys.version_info >= (3, 13):

    def _create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _arm(fd: int, deadline_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=deadline_ns)

else:

    class _Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    class _Itimerspec(ctypes.Structure):
        _fields_ = (("interval", _Timespec), ("value", _Timespec))

    _libc = ctypes.CDLL(None, use_errno=True)

    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _create() -> int:
        return _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))

    def _arm(fd: int, deadline_ns: int) -> None:
        value = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(deadline_ns, _SECOND_NS)))
        _checked(_libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None))


class Timer:
    """One deadline at a time, waited for by one task; anybody on the loop may move it."""

    def __init__(self) -> None:
        self._fd = _create()
        self._deadline_ns: int | None = None

    @property
    def deadline_ns(self) -> int | None:
        """When it will fire, monotonic nanoseconds; None: it is not set, or has fired."""
        return self._deadline_ns

    def set(self, deadline_ns: int | None) -> None:
        """Fire at `deadline_ns` (`time.monotonic_ns`), at once if that is past; None: never.

        Replaces the deadline before; whoever waits goes on waiting, for the new one.

        Raises:
            trio.ClosedResourceError: The timer is closed.
        """
        if self._fd < 0:
            raise trio.ClosedResourceError
        if deadline_ns == self._deadline_ns:
            return
        # The kernel takes 0 for "never", and refuses what lies before the clock's start.
        _arm(self._fd, 0 if deadline_ns is None else max(deadline_ns, 1))
        self._deadline_ns = deadline_ns

    async def wait(self) -> None:
        """Wait until the deadline that is then set; afterwards none is set.

        Raises:
            trio.BusyResourceError: Another task waits already.
            trio.ClosedResourceError: The timer is closed, or is while this waits.
        """
        while True:
            if self._fd < 0:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._fd)
            if self._take():
                return

    def _take(self) -> bool:
        """Take note that it fired; False: it was moved between its firing and our waking."""
        if self._fd < 0:
            raise trio.ClosedResourceError
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        self._deadline_ns = None
        return True

    def close(self) -> None:
        """Close it; whoever waits gets `trio.ClosedResourceError`. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        trio.lowlevel.notify_closing(fd)
        os.close(fd)

    def __enter__(self) -> Timer:  # noqa: PYI034  # Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
