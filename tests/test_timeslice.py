"""The kernel is asked for a time slice, and says which one a thread has."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

import pytest

from appliance.timeslice import SERVING_NS, _SchedulingAttributes, set_time_slice

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


def time_slice_ns() -> int:
    """Return what sched_getattr(2) says of this thread."""
    attributes = _SchedulingAttributes()
    size = ctypes.sizeof(attributes)
    number = SCHED_GETATTR[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), size, 0) == 0
    return attributes.runtime_ns


def in_a_thread(slices_ns: tuple[int, ...]) -> list[int]:
    """Ask for slices one after the other, in a thread that ends; return what it had each time."""
    seen: list[int] = []

    def ask() -> None:
        for slice_ns in slices_ns:
            assert set_time_slice(slice_ns)
            seen.append(time_slice_ns())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return seen


@pytest.mark.skipif(platform.machine() not in SCHED_GETATTR, reason="another architecture")
def test_a_slice_is_taken_and_given_back() -> None:
    default_ns = time_slice_ns()
    if default_ns == 0:
        pytest.skip("this kernel knows no slices")
    assert in_a_thread((SERVING_NS, 0)) == [SERVING_NS, default_ns]


@pytest.mark.skipif(platform.machine() not in SCHED_GETATTR, reason="another architecture")
def test_a_policy_that_somebody_chose_stays() -> None:
    seen: list[object] = []

    def ask() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        seen.extend((set_time_slice(SERVING_NS), os.sched_getscheduler(0)))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [False, os.SCHED_BATCH]


def test_another_architecture_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert set_time_slice(SERVING_NS) is False
