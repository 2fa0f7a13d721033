"""How soon the kernel lets a thread run that has just been woken.

A thread that wakes up while all processors are busy waits until one of the others has used up its
time slice, several milliseconds: what an answer takes in all. Since Linux 6.12 a thread that asks
for a shorter slice is let in before that; its share of the time stays the same. The core asks for
one, and each worker once it serves: who loads a model does not hold up who answers.
"""

from __future__ import annotations

import ctypes
import os
import platform

SERVING_NS = 100_000
"""The shortest there is."""

LOADING_NS = 100_000_000
"""The longest there is: whoever wakes up is let in before this thread's is used up."""

_NUMBERS = {"x86_64": 314, "aarch64": 274}
"""Of the system call sched_setattr, for which older C libraries have no function."""


class _SchedulingAttributes(ctypes.Structure):
    """`struct sched_attr` of sched_setattr(2); all zeros is the ordinary policy."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def set_time_slice(slice_ns: int, pid: int = 0) -> bool:
    """Ask for a time slice for a thread, and for the threads and processes that it will start.

    Args:
        slice_ns: 100,000 to 100,000,000; 0 is the kernel's default.
        pid: Of a thread, or of a process, whose main thread is meant; 0 is the calling thread.

    Returns:
        Whether the kernel took it. An older one takes it and changes nothing. A thread whose
        scheduling policy was chosen by somebody else is left alone.
    """
    number = _NUMBERS.get(platform.machine())
    if number is None or os.sched_getscheduler(pid) != os.SCHED_OTHER:
        return False
    attributes = _SchedulingAttributes(
        size=ctypes.sizeof(_SchedulingAttributes),
        nice=os.getpriority(os.PRIO_PROCESS, pid),
        runtime_ns=slice_ns,
    )
    return ctypes.CDLL(None).syscall(number, pid, ctypes.byref(attributes), 0) == 0
