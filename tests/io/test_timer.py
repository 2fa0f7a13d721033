"""Timer: a real timerfd. What is asserted about time are orders and lower bounds."""

import time
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.io.timer import Timer

MS = 1_000_000
FAR = 3600 * 1_000_000_000


async def test_never_fires_early_and_fires_once() -> None:
    with Timer() as timer:
        deadline_ns = time.monotonic_ns() + 3 * MS
        timer.set(deadline_ns)
        assert timer.deadline_ns == deadline_ns
        with trio.fail_after(10):
            await timer.wait()
        assert time.monotonic_ns() >= deadline_ns
        assert timer.deadline_ns is None
        with trio.move_on_after(0.02) as scope:
            await timer.wait()
        assert scope.cancelled_caught


@pytest.mark.parametrize("deadline_ns", [-5, 0, 1])
async def test_a_past_deadline_fires_at_once(deadline_ns: int) -> None:
    with Timer() as timer, trio.fail_after(10):
        timer.set(deadline_ns)
        await timer.wait()


async def test_each_timer_fires_at_its_own_deadline() -> None:
    """A later timer is still waiting when an earlier one, made and set after it, has fired."""
    with Timer() as later, Timer() as sooner, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            later.set(time.monotonic_ns() + FAR)
            nursery.start_soon(later.wait)
            sooner.set(time.monotonic_ns() + MS)
            await sooner.wait()
            assert sooner.deadline_ns is None
            assert later.deadline_ns is not None
            later.set(1)
        assert later.deadline_ns is None


async def test_an_earlier_deadline_wakes_the_waiter_earlier() -> None:
    with Timer() as timer, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            timer.set(time.monotonic_ns() + FAR)
            nursery.start_soon(timer.wait)
            await wait_all_tasks_blocked()
            timer.set(time.monotonic_ns() + MS)


class AfterIoWait(trio.abc.Instrument):
    """Calls `act` once, when the kernel has reported events and no task has run for them yet."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def after_io_wait(self, timeout: float) -> None:
        trio.lowlevel.remove_instrument(self)
        self.act()


async def test_a_deadline_moved_between_firing_and_waking_wakes_nobody() -> None:
    with Timer() as timer, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.wait)
            await wait_all_tasks_blocked()
            timer.set(1)
            far_ns = time.monotonic_ns() + FAR
            trio.lowlevel.add_instrument(AfterIoWait(lambda: timer.set(far_ns)))
            await wait_all_tasks_blocked(0.01)
            assert timer.deadline_ns == far_ns
            assert len(nursery.child_tasks) == 1
            timer.set(1)


async def test_a_deadline_moved_after_it_passed_wakes_nobody() -> None:
    woken = []
    with Timer() as timer, trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await timer.wait()
                woken.append(time.monotonic_ns())

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            timer.set(1)
            timer.set(time.monotonic_ns() + FAR)
            await wait_all_tasks_blocked(0.01)
            assert not woken
            timer.set(None)
            await wait_all_tasks_blocked(0.01)
            assert not woken
            timer.set(1)
    assert len(woken) == 1


async def test_closing_wakes_the_waiter() -> None:
    timer = Timer()
    timer.set(time.monotonic_ns() + FAR)
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.wait)
            await wait_all_tasks_blocked()
            timer.close()
            timer.close()
    with pytest.raises(trio.ClosedResourceError):
        await timer.wait()
    with pytest.raises(trio.ClosedResourceError):
        timer.set(1)


async def test_one_waiter() -> None:
    with Timer() as timer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.wait)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await timer.wait()
            nursery.cancel_scope.cancel()


async def test_no_deadline_is_met_early_whatever_its_fraction_of_a_millisecond() -> None:
    """A lower bound only: how late it is depends on the machine, and is a benchmark's business."""
    with Timer() as timer, trio.fail_after(20):
        for fraction_ns in range(1, 1_000_000, 49_999):
            deadline_ns = time.monotonic_ns() + MS + fraction_ns
            timer.set(deadline_ns)
            await timer.wait()
            assert time.monotonic_ns() >= deadline_ns
