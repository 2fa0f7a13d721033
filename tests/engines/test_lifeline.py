"""A worker ends with its core, whatever it is doing at that moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.repository import (
    STALLS,
    add_echo,
    add_faulty,
    add_python_model,
    add_stalls_at_import,
    rows,
)
from support.worker_process import PATIENCE_S, Start, WorkerProcess

NATIVE = """
    import ctypes

    libc = ctypes.PyDLL(None)  # holds the interpreter's lock, as a stuck extension does

    class Policy:
        def __call__(self, inputs):
            while inputs["x"].any():
                libc.sleep(1000)
            return {"y": inputs["x"]}
"""


def core_ends(worker: WorkerProcess) -> int:
    """Close the lifeline alone, as the kernel does when the core dies; return the exit status."""
    assert worker.process.poll() is None
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.process.stdin = None
    return worker.process.wait(PATIENCE_S)


def wait_until_started(worker: WorkerProcess, name: str) -> None:
    """Return when a row of the model is running: the worker counts it just before."""
    deadline = time.monotonic() + PATIENCE_S
    while worker.ledger(name)[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_idle_worker_ends(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    assert core_ends(start(tmp_path)) == -signal.SIGIO


def test_a_worker_stuck_in_python_ends(tmp_path: Path, start: Start) -> None:
    add_faulty(tmp_path)
    worker = start(tmp_path)
    worker.stage("faulty", [[worker.feed(rows(STALLS)[0])]])
    wait_until_started(worker, "faulty")
    assert core_ends(worker) == -signal.SIGIO


def test_a_worker_stuck_in_native_code_ends(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "native", NATIVE)
    worker = start(tmp_path)
    worker.stage("native", [[worker.feed(rows(1)[0])]])
    wait_until_started(worker, "native")
    assert core_ends(worker) == -signal.SIGIO


def test_a_worker_stuck_at_load_ends(tmp_path: Path, start: Start) -> None:
    add_stalls_at_import(tmp_path)
    worker = start()
    worker.start_loading(tmp_path)
    assert worker.receive().loading.model == "stuck"
    assert core_ends(worker) == -signal.SIGIO


def test_a_closed_channel_ends_an_idle_worker(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    worker.control.close()
    assert worker.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (subprocess.DEVNULL, "worker: standard input is no pipe"),
        ("closed", "worker: the appliance is gone already"),
    ],
)
def test_no_worker_without_a_core(stdin: int | str, message: str) -> None:
    command = [sys.executable, "-m", "appliance.engines", "--control-fd", "2", "--arena-fd", "2"]
    done = subprocess.run(
        command,
        stdin=subprocess.PIPE if stdin == "closed" else stdin,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr.decode()
