"""Workers are copies of a fork server."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio
from attrs import evolve
from pool_harness import PATIENCE_S, House, exists, gone, house
from support.repository import add_python_model
from test_real_engine import run, slot

from appliance.engines import forkserver as engine_side
from appliance.wire.pb import worker_pb2
from appliance.workers import forkserver
from appliance.workers.events import STOPPED, WorkerDown, WorkerUp
from appliance.workers.process import start_program
from appliance.workers.restart import RestartPolicy
from appliance.workers.slot import Slot

ROOT = Path(__file__).parents[2]
AT_ONCE = RestartPolicy(first_backoff_ns=1)

DRAWS = """
    import os
    import numpy as np

    print(os.environ["GREETING"], flush=True)

    class Policy:
        def __call__(self, inputs):
            return {"y": np.random.random(inputs["x"].shape).astype(np.float32)}
"""

LEAVES_CHILDREN = """
    import subprocess, sys

    script = "sleep 0.01 & echo $!; exec >/dev/null; setsid sleep 0.02 &"
    subprocess.run(["sh", "-c", script])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print(child.pid, flush=True)
    print(child.pid, flush=True)

    class Policy:
        def __call__(self, inputs):
            return {"y": inputs["x"]}
"""


def empty_slot(name: str = "cpu", **others: object) -> Slot:
    return Slot(name=name, models=(), **others)  # pyright: ignore[reportArgumentType]


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def fork_server(home: House) -> int:
    """Return its process id."""
    running = home.pool._fork_server._running
    assert running is not None
    return running.process.pid


async def test_a_worker_is_in_a_session_of_its_own() -> None:
    async with house(empty_slot("arm")) as home:
        await home.up()
        pid = home.pid()
        assert status_of(pid)["PPid"] == str(fork_server(home))
        assert status_of(pid)["Name"] == "arm"
        assert os.getsid(pid) == os.getpgid(pid) == pid
        assert status_of(fork_server(home))["Threads"] == "1"
        pipes = [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "pipe" in str(fd.readlink())]
        assert len(pipes) == 3, "it holds pipes of others"
    assert not exists(pid)


async def test_many_workers_are_copies_of_one(tmp_path: Path) -> None:
    add_python_model(tmp_path, "draws", DRAWS)
    slots = [
        evolve(slot(tmp_path), name=f"cpu-{number}", environment={"GREETING": f"I am {number}"})
        for number in range(3)
    ]
    drawn = []
    async with house(*slots) as home:
        servers = set()
        for worker in [await home.up() for _ in slots]:
            servers.add(fork_server(home))
            _, (numbers,) = await run(home, worker, np.zeros((1, 4), np.float32))
            drawn.append(tuple(numbers[0]))
        said = {await home.line() for _ in slots}
    assert said == {(f"cpu-{number}", f"I am {number}") for number in range(3)}
    assert len(servers) == 1
    assert len(set(drawn)) == 3, "two copies draw the same numbers"
    assert not any(map(exists, servers))


async def test_a_dead_fork_server_costs_no_worker() -> None:
    async with house(empty_slot("a"), restart=AT_ONCE) as home:
        await home.up()
        first, worker = fork_server(home), home.pid()
        os.kill(first, signal.SIGKILL)
        await gone(first)
        assert exists(worker)
        os.kill(worker, signal.SIGKILL)
        down = await home.next(WorkerDown)
        assert down.cause == "ended, and so did the fork server, which would know how"
        assert (await home.next(WorkerUp)).worker.generation == 2, "no start was in vain"
        assert fork_server(home) != first
        assert not exists(first)


async def test_worker_and_fork_server_killed_together_again_and_again() -> None:
    async with house(empty_slot("a"), restart=AT_ONCE) as home:
        for generation in range(1, 9):
            up = await home.next(WorkerUp)
            assert up.worker.generation == generation
            os.kill(home.pid(), signal.SIGKILL)
            os.kill(fork_server(home), signal.SIGKILL)
            await home.next(WorkerDown)
        await home.up()
        assert not children_that_ended()


async def test_a_fork_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "_PATIENCE_S", 0.05)
    async with house(empty_slot("a"), restart=AT_ONCE) as home:
        await home.up()
        stuck, worker = fork_server(home), home.pid()
        os.kill(stuck, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        down = await home.next(WorkerDown)
        assert down.cause == "ended, and so did the fork server, which would know how"
        await home.up()
        assert not exists(stuck)


async def test_what_models_leave_behind_is_no_concern_of_the_core(tmp_path: Path) -> None:
    add_python_model(tmp_path, "parent", LEAVES_CHILDREN)
    async with house(slot(tmp_path), restart=AT_ONCE) as home:
        await home.up()
        ended, _, lives = [int((await home.line())[1]) for _ in range(3)]
        await gone(ended)
        assert not children_that_ended()
        os.kill(home.pid(), signal.SIGKILL)
        await home.next(WorkerDown)
        await gone(lives)
        assert not children_that_ended()


def children_that_ended() -> list[int]:
    """Return the zombies among the children of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if status_of(int(pid))["State"].startswith("Z")]


async def test_nothing_is_left_open_when_descriptors_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipes = itertools.count(1)
    make = os.pipe

    def pipe() -> tuple[int, int]:
        if next(pipes) % 3 == 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make()

    server = forkserver.ForkServer()
    before = set(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(OSError, match="Too many"):
        await server.start_worker("x", 0, 0, {})
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1  # of the listing itself


@pytest.mark.parametrize("fds", ["none", "given"])
def test_what_cannot_be_done_is_told(
    fds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    order = worker_pb2.ToForkServer(reap=1)
    if fds == "given":
        order = worker_pb2.ToForkServer(fork=worker_pb2.Fork(name="x"))
    given = tmp_path / "given"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, given.open("wb") as file:
        numbers = [file.fileno()] * engine_side.DESCRIPTORS if fds == "given" else []
        socket.send_fds(ours, [order.SerializeToString()], numbers)
        ours.shutdown(socket.SHUT_WR)
        assert engine_side.serve(theirs) is None
        gc.unfreeze()
        held = [fd for fd in Path("/proc/self/fd").iterdir() if _leads_to(fd, given)]
        assert held == [Path(f"/proc/self/fd/{file.fileno()}")]
        answer = worker_pb2.FromForkServer.FromString(ours.recv(1000))
        assert "no more processes" in answer.error or "No child" in answer.error


def _leads_to(fd: Path, path: Path) -> bool:
    try:
        return fd.readlink() == path
    except FileNotFoundError:  # of the listing itself
        return False


@pytest.mark.parametrize("start", ["trap '' CHLD; exec", "exec >&-; exec", "exec <&-; exec"])
async def test_whatever_the_core_was_started_with(start: str) -> None:
    """Signals ignored, standard descriptors closed: workers come up all the same."""
    with trio.fail_after(PATIENCE_S):
        done = await trio.run_process(
            ["bash", "-c", f"{start} {sys.executable} -c '{CORE_UNTIL_UP}'"],
            stdin=subprocess.DEVNULL,
            capture_stderr=True,
            cwd=ROOT,
        )
    assert b"up a" in done.stderr


CORE_UNTIL_UP = """
import sys, trio
from appliance.workers.arena import Arena
from appliance.workers.events import WorkerUp
from appliance.workers.pool import WorkerPool
from appliance.workers.slot import Slot

async def main():
    up = trio.Event()
    def tell(event):
        if isinstance(event, WorkerUp):
            print("up", event.worker.slot, file=sys.stderr)
            up.set()
    pool = WorkerPool([Slot(name="a", models=())], Arena(1 << 16), on_event=tell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await up.wait()
        nursery.cancel_scope.cancel()

trio.run(main)
"""


CORE = """
import trio
from appliance.workers.arena import Arena
from appliance.workers.events import WorkerUp
from appliance.workers.pool import WorkerPool
from appliance.workers.slot import Slot

def tell(event):
    if isinstance(event, WorkerUp):
        print(pool._fork_server._running.process.pid, flush=True)
        print(next(s.pid for s in pool.statistics() if s.slot == event.worker.slot), flush=True)

slots = [Slot(name=name, models=()) for name in ("a", "b")]
pool = WorkerPool(slots, Arena(1 << 16), on_event=tell)
trio.run(pool.run)
"""


async def test_all_go_when_the_core_is_killed() -> None:
    with trio.fail_after(PATIENCE_S):
        core = await trio.lowlevel.open_process(
            [sys.executable, "-c", CORE], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert core.stdout is not None
        said = b""
        while said.count(b"\n") < 4:
            said += await core.stdout.receive_some()
        core.kill()
        await core.wait()
        for pid in map(int, set(said.split())):
            await gone(pid)
        await core.stdout.aclose()


async def test_it_stays_when_a_worker_ends_as_it_is_told() -> None:
    async with house(empty_slot("arm")) as home:
        former = await home.up()
        server = fork_server(home)
        home.pool.succeed(empty_slot("arm"))
        await home.up()
        home.pool.take_over("arm")
        home.pool.dismiss(former)
        assert (await home.next(WorkerDown)).cause == STOPPED
        await home.pool.wait_left()
        assert fork_server(home) == server
        assert status_of(home.pid())["PPid"] == str(server)


async def test_a_worker_that_somebody_else_has_reaped_can_be_killed() -> None:
    process = await start_program(["true"], pass_fds=(), environment={})
    await process.wait_exited()
    os.waitpid(process.pid, 0)  # noqa: ASYNC222  as who inherits it does, if its parent dies
    process.kill()
    await process.close()
