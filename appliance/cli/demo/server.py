"""The appliance of the demo: `appliance serve`, a child process, asked over its admin socket."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from attrs import define, field

from appliance.admin import client as admin
from appliance.cli.demo.children import end, spawn_leashed, tail
from appliance.errors import AdminError, AdminUnreachable, WorkerNotReady
from appliance.metrics.status import Status

START_S = 90.0
DRAIN_S = 20.0
SETTLE_S = 5.0
POLL_S = 0.1


@define(eq=False, kw_only=True)
class Server:
    """One running appliance. Close it: nothing is left."""

    socket: Path
    log: Path
    process: subprocess.Popen[str]
    _leash: int = field(alias="leash")

    @classmethod
    def start(cls, config: Path, socket: Path, log: Path) -> Server:
        """Start `appliance serve` with a configuration."""
        with log.open("wb") as file:
            words = ["-m", "appliance", "serve", "--config", str(config)]
            process, leash = spawn_leashed(words, file)
        return cls(socket=socket, log=log, process=process, leash=leash)

    def status(self) -> Status:
        """Return its status document.

        Raises:
            WorkerNotReady: It has ended.
            AdminUnreachable: It does not answer.
        """
        try:
            return cast("Status", admin.get(self.socket, "/v1/status"))
        except AdminUnreachable:
            code = self.process.poll()
            if code is None:
                raise
        raise WorkerNotReady(
            f"demo: the appliance ended with code {code}\n{tail(self.log)}".strip()
        )

    def wait_ready(self, on_progress: Callable[[Status | None], None]) -> Status:
        """Wait until it is ready; tell, again and again, how far it is (None: not listening).

        Raises:
            WorkerNotReady: It ended, cannot serve everything, or takes too long; why.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                status = self.status()
            except AdminUnreachable:
                on_progress(None)
            else:
                if status["state"] == "ready":
                    return status
                if status["state"] == "degraded":
                    reasons = "; ".join(status["reasons"])
                    raise WorkerNotReady(f"demo: the appliance is degraded: {reasons}")
                on_progress(status)
            time.sleep(POLL_S)
        raise WorkerNotReady(
            f"demo: the appliance is not ready after {START_S:g} s\n{tail(self.log)}"
        )

    def settled(self) -> Status:
        """Return its status once no request is in flight, or after a while anyway."""
        deadline = time.monotonic() + SETTLE_S
        while (status := self.status())["requests"]["in_flight"] > 0:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        return status

    def drain(self) -> int:
        """Drain it; return its exit code."""
        try:
            admin.post(self.socket, "/v1/drain")
            return self.process.wait(DRAIN_S)
        except (AdminError, subprocess.TimeoutExpired):
            return end(self.process)

    def close(self) -> None:
        """End it, if it has not ended."""
        end(self.process)
        os.close(self._leash)
