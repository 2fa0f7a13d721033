"""asyncio inside Trio: they take turns in one thread, and neither waits for the other's work."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from appliance.io.hosted_loop import HostedLoop


@asynccontextmanager
async def hosted() -> AsyncIterator[HostedLoop]:
    loop = HostedLoop()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.turns, lambda: None)
            yield loop
            nursery.cancel_scope.cancel()
    loop.close()


async def result(task: asyncio.Task[object]) -> object:
    """Wait in Trio for what a task of asyncio's returns."""
    done = trio.Event()
    task.add_done_callback(lambda _: done.set())
    await done.wait()
    return task.result()


async def test_a_task_runs_in_the_same_thread() -> None:
    async def work() -> tuple[int, bool]:
        await asyncio.sleep(0)
        return threading.get_ident(), asyncio.get_running_loop() is loop

    async with hosted() as loop:
        assert await result(loop.create_task(work())) == (threading.get_ident(), True)


async def test_timers_are_in_time_and_idle_time_is_none() -> None:
    turns = 0

    async def work() -> float:
        begin_s = loop.time()
        await asyncio.gather(asyncio.sleep(0.05), asyncio.sleep(0.2))
        return loop.time() - begin_s

    def count() -> None:
        nonlocal turns
        turns += 1

    loop = HostedLoop()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.turns, count)
            took_s = await result(loop.create_task(work()))
            nursery.cancel_scope.cancel()
    loop.close()
    assert isinstance(took_s, float)
    assert took_s >= 0.2
    assert turns < 20  # it does not spin meanwhile


async def test_sockets_wake_it() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)

    async def echo() -> bytes:
        data = await loop.sock_recv(ours, 100)
        await loop.sock_sendall(ours, data * 2)
        return data

    async with hosted() as loop:
        task = loop.create_task(echo())
        await trio.testing.wait_all_tasks_blocked(0.01)
        theirs.sendall(b"hello")
        assert await result(task) == b"hello"
        assert theirs.recv(100) == b"hellohello"
    ours.close()
    theirs.close()


async def test_trio_wakes_it_and_so_do_threads() -> None:
    async with hosted() as loop:
        event = asyncio.Event()

        async def wait() -> str:
            await event.wait()
            return "woken"

        for wake in (
            lambda: loop.call_soon_threadsafe(event.set),
            lambda: threading.Thread(target=loop.call_soon_threadsafe, args=(event.set,)).start(),
        ):
            event.clear()
            task = loop.create_task(wait())
            await trio.testing.wait_all_tasks_blocked(0.01)
            wake()
            assert await result(task) == "woken"


async def test_others_have_their_turns_beside_a_loop_that_never_rests() -> None:
    async def busy() -> None:
        while True:  # noqa: ASYNC110  it never rests
            await asyncio.sleep(0)

    async with hosted() as loop:
        task = loop.create_task(busy())
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        task.cancel()
        ended = trio.Event()
        task.add_done_callback(lambda _: ended.set())
        await ended.wait()
        assert task.cancelled()


async def test_what_comes_after_each_turns_is_told() -> None:
    seen: list[int] = []
    inbox: list[int] = []

    def take() -> None:
        seen.extend(inbox)
        inbox.clear()

    async def work() -> None:
        for number in range(3):
            inbox.append(number)
            await asyncio.sleep(0.01)

    loop = HostedLoop()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.turns, take)
            await result(loop.create_task(work()))
            nursery.cancel_scope.cancel()
    loop.close()
    assert seen == [0, 1, 2]


async def test_a_timer_that_becomes_due_behind_a_turn_fires() -> None:
    loop = HostedLoop()
    fired = trio.Event()
    loop.call_later(0.01, fired.set)
    is_first = True

    def after() -> None:
        nonlocal is_first
        while is_first and loop.time() < begin_s + 0.02:
            pass  # as a long turn of the dispatcher
        is_first = False

    begin_s = loop.time()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.turns, after)
            await fired.wait()
            nursery.cancel_scope.cancel()
    loop.close()
