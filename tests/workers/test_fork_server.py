"""Workers are copies of a fork server, and children of this process."""

from __future__ import annotations

import gc
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
from appliance.workers.events import WorkerDown
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

LEAVES_A_CHILD = """
    import subprocess, sys

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
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


async def test_a_worker_is_a_child_of_the_core_in_a_session_of_its_own() -> None:
    async with house(empty_slot("arm")) as home:
        await home.up()
        pid = home.pid()
        assert status_of(pid)["PPid"] == str(os.getpid())
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
        assert (await home.next(WorkerDown)).cause == "killed by SIGKILL"
        await home.up()
        assert fork_server(home) != first


async def test_a_fork_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(empty_slot("a"), restart=AT_ONCE) as home:
        await home.up()
        stuck, worker = fork_server(home), home.pid()
        os.kill(stuck, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(forkserver, "_PATIENCE_S", 0.05)
            os.kill(worker, signal.SIGKILL)
            assert (await home.next(WorkerDown)).cause == "killed by SIGKILL"
            down = await home.next(WorkerDown)
        assert down.cause == "cannot be started: the fork server did not answer for 0.05 s"
        await home.up()
        assert not exists(stuck)


async def test_no_zombies_are_left(tmp_path: Path) -> None:
    add_python_model(tmp_path, "parent", LEAVES_A_CHILD)
    async with house(slot(tmp_path), empty_slot("other"), restart=AT_ONCE) as home:
        await home.up("cpu")
        _, child = await home.line()
        pid = home.pid()
        os.kill(pid, signal.SIGKILL)
        await home.next(WorkerDown)
        assert not exists(pid)
        await gone(int(child))
        os.kill(home.pid(1), signal.SIGKILL)
        await home.next(WorkerDown)  # at the latest now
        assert not exists(int(child))


def test_no_more_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "no more processes can be started")

    monkeypatch.setattr(engine_side, "_fork_orphan", refuse)
    given = tmp_path / "given"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, given.open("wb") as file:
        order = worker_pb2.Fork(name="x").SerializeToString()
        socket.send_fds(ours, [order], [file.fileno()] * engine_side.DESCRIPTORS)
        ours.shutdown(socket.SHUT_WR)
        assert engine_side.serve(theirs) is None
        gc.unfreeze()
        held = [fd for fd in Path("/proc/self/fd").iterdir() if _leads_to(fd, given)]
        assert held == [Path(f"/proc/self/fd/{file.fileno()}")]
        forked = worker_pb2.Forked.FromString(ours.recv(1000))
        assert forked.error == "fork: no more processes can be started"


def _leads_to(fd: Path, path: Path) -> bool:
    try:
        return fd.readlink() == path
    except FileNotFoundError:  # of the listing itself
        return False


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
