"""Five robots get releases by Ansible while controllers run, whose ledgers judge it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from deploy import controller
from deploy.lab import Lab, Robot, lab, recap
from deploy.workshop import Workshop

NUMBER = 5
SERIAL = [1, "100%"]
"""The canary, then all others at once."""
INTERRUPTION_MS = 2000
WARM_S, RERUN_S = 30, 10
BUSY = 2
"""A machine that does something else, too, may take so many times as long."""
END_S = 30
SWITCHES = ("upgrade of one", "upgrade", "broken", "rollback")
MOST_UNANSWERED = 2 * len(SWITCHES)
"""Each switch has two handovers."""
GIVE_UP_S = 10
BREAKS = (
    '        self.state = "ready"\n        gc.collect()\n',
    '        raise RuntimeError("it breaks as soon as it serves")\n',
)


@define
class Controllers:
    """One process for each robot."""

    processes: dict[str, subprocess.Popen[str]] = field(factory=dict[str, "subprocess.Popen[str]"])

    def end(self) -> dict[str, dict[str, Any]]:
        """Let them end; return what each says of its time."""
        for process in self.processes.values():
            assert process.poll() is None, "a controller has ended by itself"
            assert process.stdin is not None
            process.stdin.close()
        ledgers: dict[str, dict[str, Any]] = {}
        for name, process in self.processes.items():
            assert process.stdout is not None
            ledgers[name] = json.loads(process.stdout.readlines()[-1])
            assert process.wait(END_S) == 0
        return ledgers


@contextmanager
def controllers(robots: Lab) -> Generator[Controllers, None, None]:
    """Let a controller run for each robot; give them when each has executed something."""
    made = Controllers()
    try:
        for robot in robots.robots:
            command = [sys.executable, controller.__file__, robot.address, robot.name]
            made.processes[robot.name] = subprocess.Popen(
                robots.here(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        for process in made.processes.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "executes\n"
        yield made
    finally:
        for process in made.processes.values():
            with process:  # closes its pipes, and waits
                process.kill()


def serves(robot: Robot, version: str) -> int:
    """Return the process of the appliance, which is ready and of this version."""
    said = robot.machine.run("/opt/appliance/current/release/bin/appliance", "status", "--json")
    status = json.loads(said.stdout)
    assert (status["state"], status["version"]) == ("ready", version), robot.name
    assert f"deployments/{version}-" in str(
        (robot.machine.root / "opt/appliance/current").readlink()
    )
    assert not (robot.machine.root / "opt/appliance/trial").exists()
    assert robot.machine.run("systemctl", "is-active", "appliance").stdout == "active\n"
    assert robot.machine.run("systemctl", "is-active", "appliance-next", check=False).returncode
    return status["pid"]


def table(ledgers: dict[str, dict[str, Any]], phases: dict[str, tuple[float, float]]) -> str:
    """Write what each robot's controller counted, and its longest gap in each phase."""
    outcomes = sorted({outcome for each in ledgers.values() for outcome in each["answers"]})
    counts = ["executed", "wrong", "dry", "asked", *outcomes, "unanswered", "unmatched"]
    lines = [["robot", *counts, *(f"gap: {phase}" for phase in phases)]]
    for name, each in ledgers.items():
        row = [str(each["answers"].get(column, each.get(column, 0))) for column in counts]
        longest = (longest_gap_ms(each, *phase) for phase in phases.values())
        lines.append([name, *row, *(f"{gap_ms:.0f} ms" for gap_ms in longest)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def longest_gap_ms(ledger: dict[str, Any], began_s: float, ended_s: float) -> float:
    """Return the longest time without an answer that began in a phase."""
    gaps = (gap_ms for at_s, gap_ms in ledger["gaps"] if began_s <= at_s < ended_s)
    return max(gaps, default=0.0)


def is_within(at_s: float, phase: tuple[float, float]) -> bool:
    """Return whether an observation that was given up then was asked in a phase."""
    return phase[0] <= at_s <= phase[1] + GIVE_UP_S


def test_the_life_of_five_robots(workshop: Workshop, tmp_path: Path) -> None:
    first = workshop.release("1.0.0")
    second = workshop.release("1.1.0")
    # It loads and stands by as a good one does, takes over, and breaks.
    broken = workshop.release("1.2.0", app=BREAKS)
    took: dict[str, float] = {}
    phases: dict[str, tuple[float, float]] = {}

    with lab(NUMBER, workshop.layers, tmp_path, workshop.ansible, workshop.ssh) as robots:

        def play(what: str, playbook: str, release: Path, *options: str) -> tuple[int, str]:
            began_s = time.monotonic()
            done = robots.play(
                playbook, workshop.variables(release, deploy_serial=SERIAL), *options
            )
            phases[what] = (began_s, time.monotonic())
            took[what] = phases[what][1] - began_s
            print(f"{what}: {took[what]:.1f} s", flush=True)
            return done.returncode, done.stdout + done.stderr

        code, said = play("check mode", "site.yml", first, "--check", "--limit", "robot-5")
        assert code == 0, said
        code, said = play("first deploy", "site.yml", first)
        assert code == 0, said
        everyone = {robot.name for robot in robots.robots}
        with controllers(robots) as running:
            pids = {robot.name: serves(robot, "1.0.0") for robot in robots.robots}

            code, said = play("rerun", "site.yml", first)
            assert code == 0, said
            assert {name: each["changed"] for name, each in recap(said).items()} == dict.fromkeys(
                everyone, 0
            )
            assert pids == {robot.name: serves(robot, "1.0.0") for robot in robots.robots}

            canary, *others = robots.robots
            code, said = play("upgrade of one", "deploy.yml", second, "--limit", canary.name)
            assert code == 0, said
            code, said = play("rerun of one", "deploy.yml", second, "--limit", canary.name)
            assert recap(said)[canary.name]["changed"] == 0, said
            code, said = play("upgrade", "deploy.yml", second)
            assert code == 0, said
            pids = {robot.name: serves(robot, "1.1.0") for robot in robots.robots}

            code, said = play("broken", "deploy.yml", broken)
            assert code != 0
            assert "serves again, and is healthy" in said, said
            assert set(recap(said)) == {canary.name}
            serves(canary, "1.1.0")
            assert {robot.name: serves(robot, "1.1.0") for robot in others} == {
                robot.name: pids[robot.name] for robot in others
            }

            # To 1.0.0, the deployment before this one.
            code, said = play("rollback", "rollback.yml", first)
            assert code == 0, said
            for robot in robots.robots:
                serves(robot, "1.0.0")
            ledgers = running.end()

    start_s = phases["first deploy"][1]
    print(table(ledgers, {phase: phases[phase] for phase in SWITCHES}))
    for name, each in ledgers.items():
        assert each["outstanding"] == each["wrong"] == each["unmatched"] == 0, name
        assert each["asked"] == sum(each["answers"].values()) + each["unanswered"], name
        # Only what was on its way in the moment that a door closed.
        assert each["unanswered"] <= MOST_UNANSWERED, name
        for at_s in each["unanswered_s"]:
            inside = [phase for phase in SWITCHES if is_within(at_s, phases[phase])]
            print(f"{name}: unanswered, known {at_s - start_s:.1f} s after the start: {inside}")
            assert inside, name
        for phase in SWITCHES:
            assert longest_gap_ms(each, *phases[phase]) <= INTERRUPTION_MS, (name, phase)


def test_how_long_one_robot_takes(workshop: Workshop, tmp_path: Path) -> None:
    """Without four others on the same processors."""
    first, second = workshop.release("1.0.0"), workshop.release("1.1.0")
    steps = {
        "first deploy": ("site.yml", first, None),
        "upgrade": ("deploy.yml", second, WARM_S),
        "rerun": ("deploy.yml", second, RERUN_S),
        "rerun of all": ("site.yml", second, None),
    }
    with lab(1, workshop.layers, tmp_path, workshop.ansible, workshop.ssh) as robots:
        for what, (playbook, release, bound_s) in steps.items():
            began_s = time.monotonic()
            done = robots.play(playbook, workshop.variables(release))
            took_s = time.monotonic() - began_s
            print(f"one robot, {what}: {took_s:.1f} s", flush=True)
            assert done.returncode == 0, done.stdout
            changed = recap(done.stdout)["robot-1"]["changed"]
            assert (changed == 0) == what.startswith("rerun"), done.stdout
            assert bound_s is None or took_s <= BUSY * bound_s
