"""Faults injected into real processes: hanging, not starting, not going, and the core's own end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import trio
from fake_worker import STEPS
from pool_harness import FAKE, House, exists, fake_slot, gone, house

from appliance.workers.events import BatchFinished, ModelFailed, ModelLoaded, WorkerDown, WorkerUp
from appliance.workers.restart import RestartPolicy
from appliance.workers.slot import HostedModel

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000
AT_ONCE = RestartPolicy(first_backoff_ns=0)


async def test_a_stopped_worker_is_found_killed_and_replaced() -> None:
    async with house(fake_slot(hang_floor_ns=1000 * SECOND)) as home:
        worker = await home.up()
        pid = home.pid()
        os.kill(pid, signal.SIGSTOP)
        home.pool.stage(worker, home.batch(b"a", batch_id=4))
        assert home.pool.statistics()[0].hang_bound_ns == 1000 * SECOND
        home.clock.advance(1001)
        down = await home.next(WorkerDown)
        assert down.cause == "hung: batch 4 of echo runs for more than 1000 s"
        assert not exists(pid)
        assert await home.run(await home.up(), b"again") == [b"again"]


async def test_a_worker_that_stops_within_a_batch_is_hung() -> None:
    async with house(fake_slot(hang_floor_ns=1000 * SECOND)) as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(b"a", b"stop"))
        home.clock.advance(1001)
        assert (await home.next(WorkerDown)).cause.startswith("hung: ")


async def test_a_worker_that_stops_with_nothing_to_do_is_found_too() -> None:
    async with house(fake_slot(hang_floor_ns=SECOND)) as home:
        await home.up()
        pid = home.pid()
        for _ in range(3):  # it is asked, and answers, and nothing comes of it
            home.clock.advance(2)
            await trio.sleep(0.2)
        assert home.pid() == pid
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_time, home)
            down = await home.next(WorkerDown)
            nursery.cancel_scope.cancel()
        assert down.cause.startswith("hung: it had nothing to do, and gave no sign of life for 5 s")
        assert not exists(pid)
        assert await home.run(await home.up(), b"again") == [b"again"]


async def pass_time(home: House) -> None:
    """Let two seconds pass in each round of the check."""
    while True:
        home.clock.advance(2)
        await trio.sleep(0.2)


async def test_a_staged_batch_is_never_hung() -> None:
    async with house(fake_slot(hang_floor_ns=1000 * SECOND)) as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(b"a", go=False, batch_id=1))
        home.clock.advance(1001)
        await trio.sleep(0.3)  # three rounds of the check, which must find nothing
        home.pool.go(worker, 1)
        assert isinstance(await home.event(), BatchFinished)


async def test_a_done_that_the_core_was_late_to_read_is_not_a_hang() -> None:
    async with house(fake_slot(hang_floor_ns=1000 * SECOND)) as home:
        worker = await home.up()
        for _ in range(8):  # Trio wakes the check and the receiver in random order
            home.pool.stage(worker, home.batch(b"a"))
            bound_ns = home.pool.statistics()[0].hang_bound_ns
            assert bound_ns is not None
            time.sleep(0.3)  # noqa: ASYNC251 - is to hold up the event loop, past Done and check
            home.clock.advance(bound_ns / 1e9 + 1)
            assert isinstance(await home.event(), BatchFinished)


async def test_slow_start_with_progress(tmp_path: Path) -> None:
    fifo = tmp_path / "steps"
    os.mkfifo(fifo)
    slow = HostedModel(name="steps", version="1", directory=str(fifo))
    async with house(fake_slot(slow, start_timeout_ns=1000 * SECOND)) as home:
        with fifo.open("r+b", buffering=0) as steps:
            for step in range(STEPS):
                steps.write(b".")
                await home.until(lambda now, step=step: now.progress >= (step + 1) / STEPS - 0.01)
                assert home.pool.statistics()[0].state == "loading"
                home.clock.advance(900)
            steps.write(b".")
            assert isinstance(await home.event(), ModelLoaded)
            assert isinstance(await home.event(), WorkerUp)


async def test_slow_start_without_progress() -> None:
    async with house(fake_slot("echo", "stall", start_timeout_ns=1000 * SECOND)) as home:
        await home.until(lambda now: now.step == "stall: reading")
        home.clock.advance(1001)
        down = await home.next(WorkerDown)
        assert down.cause == (
            "did not start: no progress for 1000 s while loading (stall: reading)"
        )


async def test_a_worker_that_says_nothing() -> None:
    async with house(fake_slot(switches=["--silent"], start_timeout_ns=1000 * SECOND)) as home:
        await home.until(lambda now: now.pid is not None)
        home.clock.advance(1001)
        down = await home.next(WorkerDown)
        assert down.cause == "did not start: no progress for 1000 s while starting"


async def test_another_protocol() -> None:
    async with house(fake_slot(switches=["--protocol=8"])) as home:
        down = await home.next(WorkerDown)
        assert down.cause == "broke the protocol: the worker speaks protocol 8, not 7"


async def test_a_model_that_ends_its_process_at_load_is_left_out() -> None:
    async with house(fake_slot("echo", "crash", "echo"), restart=AT_ONCE) as home:
        for generation in (1, 2):
            loaded, down = await home.event(), await home.event()
            assert isinstance(loaded, ModelLoaded)
            assert loaded.worker.generation == generation
            assert isinstance(down, WorkerDown)
            assert down.cause == "exited with status 3: boom at load"
        left_out, first, second, up = [await home.event() for _ in range(4)]
        assert isinstance(left_out, ModelFailed)
        assert left_out.model == 1
        assert left_out.message == (
            "left out: its worker process ended 2 times in a row while loading it"
            " (last: exited with status 3: boom at load)"
        )
        assert (first.model, second.model) == (0, 2)
        assert isinstance(up, WorkerUp)
        os.kill(home.pid(), signal.SIGKILL)
        await home.next(WorkerDown)
        assert isinstance(await home.event(), ModelFailed)  # still


async def test_a_command_that_is_not_there() -> None:
    slot = fake_slot(switches=[])
    broken = type(slot)(name="cpu", models=slot.models, command=("/nonexistent/python",))
    async with house(broken, restart=AT_ONCE) as home:
        for _ in range(3):
            down = await home.event()
            assert isinstance(down, WorkerDown)
            assert "cannot be started" in down.cause
            assert "No such file" in down.cause


@pytest.mark.parametrize(("module", "function"), [(os, "pidfd_open"), (socket, "socketpair")])
async def test_running_out_of_descriptors(
    module: ModuleType, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def refuse(*arguments: int) -> int:
        if module is os:
            started.append(arguments[0])
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with house(restart=AT_ONCE) as home:
        with monkeypatch.context() as patch:
            patch.setattr(module, function, refuse)
            down = await home.next(WorkerDown)
            assert down.cause == "cannot be started: [Errno 24] Too many open files"
            assert not any(map(exists, started[:1]))
        await home.up()


async def test_backoff_of_a_worker_that_is_of_no_use() -> None:
    policy = RestartPolicy(first_backoff_ns=3600 * SECOND, longest_backoff_ns=3600 * SECOND)
    async with house(fake_slot(switches=["--protocol=8"]), restart=policy) as home:
        assert (await home.next(WorkerDown)).worker.generation == 1
        assert (await home.next(WorkerDown)).worker.generation == 2  # the first was at once
        await home.until(lambda now: now.state == "restarting")
        assert home.pool.statistics()[0].pid is None
        # And leaving the house does not wait for the hour to pass.


async def test_a_pool_that_is_cancelled_lets_its_workers_go() -> None:
    async with house(stop_grace_s=60) as home:
        await home.up()
        pid = home.pid()
    assert not exists(pid)
    assert home.pool.statistics()[0].state == "stopped"
    assert (await home.next(WorkerDown)).cause == "stopped"


@pytest.mark.parametrize(
    ("model", "switches", "state"),
    [
        ("echo", ["--ignore-stop"], "ready"),
        ("stall", [], "loading"),
        ("echo", ["--silent"], "starting"),
    ],
)
async def test_a_pool_that_is_cancelled_kills_workers_that_do_not_go(
    model: str, switches: list[str], state: str
) -> None:
    async with house(fake_slot(model, switches=switches), stop_grace_s=0.2) as home:
        await home.until(lambda now: now.pid is not None and now.state == state)
        pid = home.pid()
    assert not exists(pid)
    assert (await home.next(WorkerDown)).cause == "stopped: killed, as it did not go by itself"


async def test_a_stopped_process_does_not_outlive_the_pool() -> None:
    async with house(stop_grace_s=0.2) as home:
        await home.up()
        pid = home.pid()
        os.kill(pid, signal.SIGSTOP)
    assert not exists(pid)


async def test_what_a_worker_started_ends_with_it() -> None:
    async with house(fake_slot(switches=["--child"])) as home:
        await home.up()
        _, child = await home.line()
        assert exists(int(child))
        os.kill(home.pid(), signal.SIGKILL)
        await home.next(WorkerDown)
        await gone(int(child))


CORE = """
import trio
from appliance.workers.arena import Arena
from appliance.workers.events import WorkerUp
from appliance.workers.pool import WorkerPool
from appliance.workers.slot import HostedModel, Slot

def tell(event):
    if isinstance(event, WorkerUp):
        print(next(s.pid for s in pool.statistics() if s.slot == event.worker.slot), flush=True)

models = (HostedModel(name="echo", version="1"),)
slots = [Slot(name=name, models=models, command={command!r}) for name in ("a", "b")]
pool = WorkerPool(slots, Arena(1 << 16), on_event=tell)
trio.run(pool.run)
"""


async def test_workers_go_when_the_core_is_killed() -> None:
    with trio.fail_after(60):
        core = await trio.lowlevel.open_process(
            [sys.executable, "-c", CORE.format(command=FAKE)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        said = b""
        while said.count(b"\n") < 2:
            said += await core.stdout.receive_some()
        core.kill()
        await core.wait()
        for pid in map(int, said.split()):
            await gone(pid)
        await core.stdout.aclose()
