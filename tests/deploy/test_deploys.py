"""Five robots get releases by Ansible while controllers run, whose ledgers judge it."""

from __future__ import annotations

import json
import re
import stat
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
from deploy.serving import is_healthy
from deploy.workshop import Workshop

NUMBER = 5
SERIAL = [1, "100%"]
"""The canary, then all others at once."""
INTERRUPTION_MS = 2000
WARM_S, RERUN_S, BOOT_S = 30, 10, 3
BUSY = 2
"""A machine that does something else, too, may take so many times as long."""
END_S = 30
OLD, NEXT = "main", "2027"
"""The appliance's own keys, before and after they are rotated."""
OLD_PORT, NEXT_PORT = 5555, 5556
SWITCHES = ("upgrade of one", "upgrade", "broken", "rollback", "both keys", "next key alone")
MOST_UNANSWERED = 2 * len(SWITCHES)
"""Each switch has two handovers."""
GIVE_UP_S = 10
SMALL = 1 << 20
BREAKS = (
    '        self.state = "ready"\n        gc.collect()\n',
    '        raise RuntimeError("it breaks as soon as it serves")\n',
)


@define
class Controllers:
    """One process for each robot."""

    keys: Path
    processes: dict[str, subprocess.Popen[str]] = field(factory=dict[str, "subprocess.Popen[str]"])

    def move(self, port: int, key: str) -> None:
        """Let each go on at another door, with the file that expects this key there."""
        for name, process in self.processes.items():
            assert process.stdin is not None
            process.stdin.write(f"{port} {self.keys / name / key / f'{name}.key'}\n")
            process.stdin.flush()
        for process in self.processes.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "moved\n"

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
    made = Controllers(robots.keys)
    try:
        for robot in robots.robots:
            keys = str(robots.keys / robot.name / OLD / f"{robot.name}.key")
            command = [sys.executable, controller.__file__, robot.address, robot.name, keys]
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


def bind(port: int) -> str:
    return f"tcp://0.0.0.0:{port}"


def listening(robot: Robot) -> set[int]:
    """Return the ports that something listens at."""
    said = robot.machine.run("ss", "--listening", "--tcp", "--numeric", "--no-header").stdout
    return {int(line.split()[3].rpartition(":")[2]) for line in said.splitlines()}


def no_secret_is_elsewhere(robots: Lab, said: list[str]) -> None:
    """See that no secret key is in what Ansible said, nor anywhere but where it was told."""
    files = {path: path.read_text() for path in robots.keys.rglob("*.key")}
    assert len(files) == 2 * NUMBER
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    secrets = {_secret(text) for text in files.values()}
    for robot in robots.robots:
        for path in (robot.machine.root / "etc/appliance/keys/server").iterdir():
            secrets.add(_secret(path.read_text()))
    assert len(secrets) == 2 * NUMBER
    everything = "".join(said)
    assert not [each for each in secrets if each in everything]
    places = [each for each in robots.directory.iterdir() if not each.name.startswith("robot-")]
    ours = [path for place in places if place != robots.keys for path in (place, *place.rglob("*"))]
    files_here = [path for path in ours if path.is_file() and path.stat().st_size < SMALL]
    assert files_here, "Ansible leaves its inventories, at least"
    assert not [p for p in files_here for each in secrets if each.encode() in p.read_bytes()]


def _secret(text: str) -> str:
    (found,) = re.findall(r'(?m)^secret_key = "(.*)"$', text)
    return found


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


@define
class Life:
    """What was played, when, and all that Ansible said.

    Attributes:
        phases: When each play began and ended, in seconds of the monotonic clock.
    """

    robots: Lab
    workshop: Workshop
    phases: dict[str, tuple[float, float]] = field(factory=dict[str, "tuple[float, float]"])
    said: list[str] = field(factory=list[str])

    def play(
        self, what: str, playbook: str, release: Path, *options: str, **more: Any
    ) -> tuple[int, str]:
        """Play; return the exit code, and what was said."""
        began_s = time.monotonic()
        variables = self.workshop.variables(release, deploy_serial=SERIAL, **more)
        done = self.robots.play(playbook, variables, *options)
        self.phases[what] = (began_s, time.monotonic())
        print(f"{what}: {self.phases[what][1] - began_s:.1f} s", flush=True)
        self.said.append(done.stdout + done.stderr)
        return done.returncode, self.said[-1]

    def does(
        self, what: str, playbook: str, release: Path, *options: str, **more: Any
    ) -> dict[str, int]:
        """Play what has to go well; return how much it changed on each robot."""
        code, said = self.play(what, playbook, release, *options, **more)
        assert code == 0, said
        return {name: each["changed"] for name, each in recap(said).items()}

    def serve(self, version: str) -> dict[str, int]:
        """See that all serve this version; return their processes."""
        return {robot.name: serves(robot, version) for robot in self.robots.robots}


def deploys(life: Life) -> None:
    """Rerun, upgrade, deploy what breaks, and go back."""
    first, second = life.workshop.release("1.0.0"), life.workshop.release("1.1.0")
    # It loads and stands by as a good one does, takes over, and breaks.
    broken = life.workshop.release("1.5.0", app=BREAKS)
    pids = life.serve("1.0.0")
    assert life.does("rerun", "site.yml", first) == dict.fromkeys(pids, 0)
    assert pids == life.serve("1.0.0")

    canary = life.robots.robots[0].name
    life.does("upgrade of one", "deploy.yml", second, "--limit", canary)
    again = life.does("rerun of one", "deploy.yml", second, "--limit", canary)
    assert again == {canary: 0}
    life.does("upgrade", "deploy.yml", second)
    pids = life.serve("1.1.0")

    code, said = life.play("broken", "deploy.yml", broken)
    assert code != 0
    assert "serves again, and is healthy" in said, said
    assert {name for name, each in recap(said).items() if each["failed"]} == {canary}
    now = life.serve("1.1.0")
    assert {**now, canary: 0} == {**pids, canary: 0}

    # To 1.0.0, the deployment before this one.
    life.does("rollback", "rollback.yml", first)
    pids = life.serve("1.0.0")
    code, said = life.play("rollback again", "rollback.yml", first)
    assert code != 0
    assert "already rolled back to 1.0.0-" in said, said
    assert life.serve("1.0.0") == pids


def rotation(life: Life, running: Controllers) -> None:
    """Give each box another key of its own, while both serve the controllers move over."""
    first = life.workshop.release("1.0.0")
    both = {"appliance_next_server_key": NEXT, "appliance_next_binds": [bind(NEXT_PORT)]}
    alone = {"appliance_server_key": NEXT, "appliance_binds": [bind(NEXT_PORT)]}
    alone["keys_removed"] = [OLD]
    life.does("both keys", "keys.yml", first, "--diff", "-vvv", **both)
    running.move(NEXT_PORT, NEXT)
    life.does("next key alone", "keys.yml", first, "--diff", "-vvv", **alone)
    pids = life.serve("1.0.0")
    for robot in life.robots.robots:
        assert listening(robot) & {OLD_PORT, NEXT_PORT} == {NEXT_PORT}
        held = robot.machine.root / "etc/appliance/keys"
        assert [each.stem for each in (held / "server").iterdir()] == [NEXT]
        assert not list(held.glob("outgoing/*/*"))
    assert life.does("rerun of keys", "keys.yml", first, **alone) == dict.fromkeys(pids, 0)


def test_the_life_of_five_robots(workshop: Workshop, tmp_path: Path) -> None:
    first = workshop.release("1.0.0")
    with lab(NUMBER, workshop.layers, tmp_path, workshop.ansible, workshop.ssh) as robots:
        life = Life(robots, workshop)
        life.does("check mode", "site.yml", first, "--check", "--limit", "robot-5")
        life.does("first deploy", "site.yml", first)
        with controllers(robots) as running:
            deploys(life)
            rotation(life, running)
            ledgers = running.end()
        no_secret_is_elsewhere(robots, life.said)
    judge(ledgers, life.phases)


def judge(ledgers: dict[str, dict[str, Any]], phases: dict[str, tuple[float, float]]) -> None:
    """See that nothing was lost but what was on its way in the moment that a door closed."""
    start_s = phases["first deploy"][1]
    print(table(ledgers, {phase: phases[phase] for phase in SWITCHES}))
    for name, each in ledgers.items():
        assert each["outstanding"] == each["wrong"] == each["unmatched"] == 0, name
        assert each["asked"] == sum(each["answers"].values()) + each["unanswered"], name
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
        [robot] = robots.robots
        robot.machine.stop()
        began_s = time.monotonic()
        robot.machine.boot()
        robot.machine.wait_until(lambda: is_healthy(robot, "1.1.0"), END_S, "it serves")
        took_s = time.monotonic() - began_s
        print(f"one robot, from power to ready: {took_s:.1f} s", flush=True)
        assert took_s <= BUSY * BOOT_S
