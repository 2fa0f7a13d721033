"""The robots of the demo, seen from outside: child processes that talk in JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from attrs import define, field

from appliance.cli.demo.children import end, tail
from appliance.cli.demo.reports import Message, Progress, RobotReport
from appliance.cli.demo.roster import RobotPlan
from appliance.errors import ApplianceError

START_S = 60.0
REPORT_S = 15.0
"""A robot waits at most 8 s for its last answers."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class RobotFailed(ApplianceError):
    """A robot's process ended, or said nothing, when it should have worked."""

    code = "DEMO_ROBOT"


@define(eq=False, kw_only=True)
class RobotProcess:
    """One robot's process.

    Attributes:
        progress: The newest word of how it goes.
        report: Its last word.
    """

    plan: RobotPlan
    process: subprocess.Popen[str]
    progress: Progress | None = None
    report: RobotReport | None = None
    error: str = ""
    _ready: threading.Event = field(factory=threading.Event, init=False)
    _reader: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = cast("Message", json.loads(line))
            if "progress" in message:
                self.progress = message["progress"]
            self.report = message.get("report", self.report)
            self.error = message.get("error", self.error)
            if message.get("ready"):
                self._ready.set()
        self._ready.set()  # or it has ended: nobody need wait

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it is ready to go; return whether it is."""
        return self._ready.wait(timeout_s) and self.process.poll() is None and not self.error

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended; its exit is noticed by the watch
            return

    def stop(self) -> None:
        """Let it finish: cut its lifeline."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            return

    def close(self) -> None:
        """Close its pipe, after its end."""
        self._reader.join(1)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_report(self, timeout_s: float) -> RobotReport | None:
        """Return its last word; None if there was none."""
        self._reader.join(timeout_s)
        return self.report


@define(eq=False)
class Fleet:
    """All robots. Close it: nothing is left."""

    log: Path
    robots: list[RobotProcess] = field(factory=list[RobotProcess], init=False)

    def start(self, plans: Sequence[RobotPlan], server: str) -> None:
        """Start the processes; they wait for `go`."""
        with self.log.open("wb") as log:
            for plan in plans:
                words = ["-m", "appliance.cli.demo.robot", plan.name, plan.role]
                words += ["--server", server, "--seed", str(plan.seed)]
                words += ["--period-ms", str(plan.period_ms)]
                process = subprocess.Popen(  # noqa: S603  our own interpreter
                    [sys.executable, *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={**os.environ, **ONE_THREAD},
                    start_new_session=True,
                )
                self.robots.append(RobotProcess(plan=plan, process=process))

    def wait_ready(self) -> None:
        """Wait until all are ready.

        Raises:
            RobotFailed: One is not.
        """
        deadline = time.monotonic() + START_S
        for robot in self.robots:
            if not robot.wait_ready(max(0.0, deadline - time.monotonic())):
                raise self._failed(robot, "is not ready")

    def go(self) -> None:
        """Let all begin."""
        for robot in self.robots:
            robot.go()

    def check(self) -> None:
        """Look after them.

        Raises:
            RobotFailed: One has ended.
        """
        for robot in self.robots:
            if robot.process.poll() is not None:
                raise self._failed(robot, f"ended with code {robot.process.returncode}")

    def finish(self) -> list[RobotReport]:
        """Let all finish, and return what they report.

        Raises:
            RobotFailed: One reports nothing.
        """
        for robot in self.robots:
            robot.stop()
        deadline = time.monotonic() + REPORT_S
        reports: list[RobotReport] = []
        for robot in self.robots:
            report = robot.wait_report(max(0.0, deadline - time.monotonic()))
            if report is None:
                raise self._failed(robot, "reports nothing")
            reports.append(report)
        return reports

    def close(self) -> None:
        """End all that have not ended."""
        for robot in self.robots:
            robot.stop()
            if robot.process.poll() is None and robot.report is None:
                robot.process.terminate()
        for robot in self.robots:
            end(robot.process)
            robot.close()

    def _failed(self, robot: RobotProcess, how: str) -> RobotFailed:
        reason = robot.error or tail(self.log)
        return RobotFailed(
            f"demo: robot {robot.plan.name} {how}: {reason or 'it does not say why'}"
        )
