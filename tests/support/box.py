"""A real appliance in a child process, for tests: start, ask, hurt, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from appliance.admin import client as admin
from appliance.client.connection import Connection
from appliance.errors import AdminUnreachable

START_S = 180.0  # longer than a load that stands still is waited for
STEP_S = 0.02


class Box:
    """One running `appliance serve`."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process
        self.socket = str(directory / "admin.sock")
        self.address = f"ipc://{directory}/door"
        self.url = ""  # of the page, if the configuration has one

    def status(self) -> dict[str, Any]:
        document = admin.get(self.socket, "/v1/status", 5.0)
        assert isinstance(document, dict)
        return document

    def clients(self) -> list[dict[str, Any]]:
        document = admin.get(self.socket, "/v1/clients", 5.0)
        assert isinstance(document, dict)
        return document["clients"]

    def connect(self, client_id: str = "robot", **options: Any) -> Connection:
        """Connect, and return once the link is up: what is observed then is sent at once."""
        connection = Connection(self.address, client_id=client_id, **options)
        connection.model("whatever").describe(10_000)
        assert connection.last_heard_ns is not None
        return connection

    def wait_until(self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 90) -> Any:
        """Ask for the status until it satisfies `condition`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                status = self.status()
                if condition(status):
                    return status
            except AdminUnreachable:
                status = None
            assert self.process.poll() is None, f"the appliance ended: {self.log()}"
            assert time.monotonic() < deadline, f"in vain; {json.dumps(status)}\n{self.log()}"
            time.sleep(STEP_S)

    def wait_settled(self) -> dict[str, Any]:
        """Wait until nothing is in flight."""
        return self.wait_until(lambda status: status["requests"]["in_flight"] == 0)

    def worker_pid(self, slot: str) -> int:
        return next(w["pid"] for w in self.status()["workers"] if w["slot"] == slot)

    def kill_worker(self, slot: str, signal_number: int = signal.SIGKILL) -> int:
        pid = self.worker_pid(slot)
        os.kill(pid, signal_number)
        return pid

    def log(self) -> str:
        return (self.directory / "log").read_text()[-4000:]

    def stop(self) -> int:
        """Drain and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def box(
    models: Path,
    *,
    config: str = "",
    overrides: tuple[str, ...] = (),
    wait: bool = True,
    state: str = "ready",
) -> Iterator[Box]:
    """Run an appliance that serves `models`; stopped at the end, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="box-") as name:
        directory = Path(name)
        (directory / "config.toml").write_text(config)
        flags = [
            *("--models", str(models)),
            *(() if "bind" in config else ("--bind", f"ipc://{directory}/door")),
            *(argument for override in overrides for argument in ("--set", override)),
        ]
        process = start(directory, *flags)
        running = Box(directory, process)
        try:
            if wait:
                running.wait_until(lambda status: status["state"] == state, START_S)
            yield running
        finally:
            end(process)


@contextmanager
def standby(serving: Box, models: Path, *flags: str) -> Iterator[Box]:
    """Run an appliance that stands by for one that serves `models`."""
    address = () if flags else ("--bind", serving.address)
    process = start(serving.directory, "--standby", "--models", str(models), *address, *flags)
    waiting = Box(serving.directory, process)
    waiting.socket += ".standby"
    try:
        waiting.wait_until(lambda status: status["state"] == "standby", START_S)
        yield waiting
    finally:
        end(process)


def start(directory: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start an appliance that has its files in `directory`."""
    command = [
        *(sys.executable, "-m", "appliance", "serve"),
        *("--config", str(directory / "config.toml")),
        *("--socket", str(directory / "admin.sock")),
        *flags,
    ]
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(command, stderr=log, stdout=log, stdin=subprocess.DEVNULL)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the appliance, and its workers: one that is stopped cannot notice that it is gone."""
    workers: list[int] = []
    if process.poll() is None:
        workers = [child for server in children(process.pid) for child in children(server)]
        process.kill()
    process.wait(10)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Return the processes that the main thread of a process has started."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return []
