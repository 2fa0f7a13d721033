"""The unit under a real systemd: it starts, is watched, and gives up where that is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.repository import add_echo, add_onnx_mlp

from deploy.machines import Machine, machine
from deploy.releases import CURRENT
from deploy.unit_files import install

UNIT = "appliance"
COMMAND = f"{CURRENT}/bin/appliance"
CONFIG, STATE = "/etc/appliance/appliance.toml", "/var/lib/appliance"
WORKING = f"""
models.directory = "{STATE}/models"
ingest.grpc.bind = "127.0.0.1:8001"
"""
WITH_KEYS = """
[keys]
required = true
directory = "/etc/appliance/keys"
server_directory = "$CREDENTIALS_DIRECTORY"
"""

WATCHDOG_S = 10  # as the unit says
START_S = 10
SHORT_START = f"[Service]\nTimeoutStartSec={START_S}\n"

# Ends each worker as soon as it appears, for so many seconds; says how many there were.
CRASH_S = 20
CRASHES = """
import os, pathlib, signal, sys, time
group = pathlib.Path("/sys/fs/cgroup/system.slice/appliance.service/cgroup.procs")
killed, end = set(), time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for pid in {int(pid) for pid in group.read_text().split()} - killed:
        try:
            if pathlib.Path(f"/proc/{pid}/comm").read_text() == "cpu-0\\n":
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        except OSError:
            pass
    time.sleep(0.01)
print(len(killed))
"""
HOLD_PORT = """
import signal, socket
with socket.create_server(("127.0.0.1", 5555)):
    signal.pause()
"""
LONG = "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n"
BEHIND = "[Unit]\nAfter=long.service\n[Service]\nExecStart=/bin/sleep infinity\n"
IS_UP = """
import pathlib, sys
sys.path.insert(0, "/srv")
from switch_release import Box, Paths
box = Box(Paths(pathlib.Path("/opt/appliance")))
print(*(box.is_up(unit) for unit in sys.argv[1:]))
"""
SWITCH = Path(__file__).parents[2] / "tools" / "switch_release.py"
Boot = Callable[..., Machine]


@pytest.fixture(scope="module")
def robot(cache: Path, release: list[Path]) -> Iterator[Machine]:
    """A machine as a deploy leaves it, but for the unit; olga may operate it, sid may not."""
    with machine("robot", release, cache) as box:
        home = ("--home-dir", STATE, "--shell", "/usr/sbin/nologin")
        box.run("useradd", "--system", "--user-group", *home, "appliance")
        box.run("groupadd", "--system", "--force", "render")
        box.run("useradd", "--groups", "appliance", "olga")
        box.run("useradd", "sid")
        add_onnx_mlp(box.root / "var/lib/appliance/models", "mlp")
        box.run("chown", "--recursive", "appliance:", STATE)
        np.save(box.root / "srv/row.npy", np.zeros((1, 8), np.float32))
        yield box


@pytest.fixture
def boot(robot: Machine) -> Iterator[Boot]:
    """Install the unit with drop-ins and a configuration, and start it; gives the machine."""
    units = robot.root / "etc/systemd/system"

    def start(*drop_ins: str, config: str = WORKING, wait: bool = True) -> Machine:
        robot.write(CONFIG, config)
        install(units, *drop_ins)
        robot.run("systemctl", "daemon-reload")
        robot.run("systemctl", "start", UNIT, *(() if wait else ("--no-block",)), check=False)
        return robot

    yield start
    robot.run("systemctl", "stop", UNIT)
    robot.run("systemctl", "reset-failed", UNIT, check=False)
    robot.run("rm", "-r", f"/etc/systemd/system/{UNIT}.service.d")


def shown(box: Machine, name: str) -> str:
    return box.run("systemctl", "show", "--value", "--property", name, UNIT).stdout.strip()


def asked(box: Machine, user: str, *words: str) -> tuple[int, str]:
    done = box.run("runuser", "--user", user, "--", COMMAND, *words, check=False)
    return done.returncode, done.stdout + done.stderr


def journal(box: Machine) -> str:
    return box.run("journalctl", "--unit", UNIT, "--output=cat").stdout


def is_serving(box: Machine) -> bool:
    return asked(box, "sid", "infer", "mlp", "--tensor", "/srv/row.npy")[0] == 0


def doctor(box: Machine, user: str) -> dict[str, dict[str, str]]:
    findings = json.loads(asked(box, user, "doctor", "--json")[1])["findings"]
    return {each["name"]: each for each in findings}


def scheduling(box: Machine) -> dict[str, list[str]]:
    """Return the scheduling policy of each thread of the service, by process."""
    script = (
        "import os,json; pids=open('/sys/fs/cgroup/system.slice/appliance.service/cgroup.procs');"
        "print(json.dumps({p: [os.sched_getscheduler(int(t)) & ~os.SCHED_RESET_ON_FORK"
        " for t in sorted(os.listdir(f'/proc/{p}/task'), key=int)] for p in pids.read().split()}))"
    )
    return json.loads(box.run("python3", "-c", script).stdout)


def test_it_is_started_once_it_serves(boot: Boot) -> None:
    box = boot()
    assert shown(box, "ActiveState") == "active"
    assert asked(box, "olga", "status")[0] == 0  # ready, by READY=1 and not later
    assert is_serving(box)


def test_members_of_the_group_may_ask_it_and_others_may_not(boot: Boot) -> None:
    box = boot()
    assert box.run("stat", "-c", "%a %U %G", "/run/appliance/appliance.sock").stdout.split() == [
        *("660", "appliance", "appliance"),
    ]
    code, said = asked(box, "olga", "status", "--json")
    assert (code, json.loads(said)["state"]) == (0, "ready")
    code, said = asked(box, "sid", "status")
    assert code == 2
    assert "may not open it; join the group that owns it" in said
    assert asked(box, "sid", "drain")[0] == 2
    assert shown(box, "ActiveState") == "active"


@pytest.mark.parametrize("drop_ins", [("x86-gpu",), ("jetson",), ("jetson", "realtime")])
def test_no_drop_in_forbids_what_it_needs(boot: Boot, drop_ins: tuple[str, ...]) -> None:
    box = boot(*drop_ins)
    assert shown(box, "ActiveState") == "active"
    assert is_serving(box)


def test_in_real_time_the_core_alone_comes_before_the_rest(boot: Boot) -> None:
    box = boot("realtime")
    assert is_serving(box)
    policies, core = scheduling(box), shown(box, "MainPID")
    round_robin, ordinary = 2, 0
    assert policies[core][0] == round_robin
    others = [*policies.pop(core)[1:], *(policy for each in policies.values() for policy in each)]
    assert set(others) == {ordinary}
    assert "0" not in box.run("taskset", "--cpu-list", "--pid", core).stdout.rpartition(":")[2]


def test_it_reads_its_key_and_nobody_else_does(boot: Boot) -> None:
    robot = boot()
    keys = ("--directory", "/etc/appliance/keys")
    robot.run(COMMAND, "keys", "new", "arm-3", "--out", "/root/arm-3.key", *keys)
    robot.run("systemctl", "stop", UNIT)
    box = boot("credentials", config=WORKING + WITH_KEYS)
    assert shown(box, "ActiveState") == "active", journal(box)
    for user in ("appliance", "olga"):
        own = ("runuser", "--user", user, "--", "cat", "/etc/appliance/keys/server/main.key")
        assert box.run(*own, check=False).returncode != 0
    assert asked(box, "olga", "status")[0] == 0


def test_the_doctor_sees_the_unit_as_it_is(boot: Boot) -> None:
    box = boot()
    box.run("systemctl", "enable", UNIT)
    found = doctor(box, "olga")
    for name in ("unit", "hardening", "appliance", "socket", "access", "ports", "configuration"):
        assert found[name]["level"] == "ok", found[name]
    assert found["hardening"]["found"] == "exposure 1.8"
    found = doctor(box, "sid")
    assert found["access"]["advice"].startswith("usermod --append --groups appliance sid")
    assert found["appliance"]["level"] == found["socket"]["level"] == "skipped"
    box.run("systemctl", "disable", UNIT)
    box.run("chmod", "600", CONFIG)
    found = doctor(box, "root")
    assert found["unit"]["advice"] == "systemctl enable appliance"
    assert f"appliance may not read {CONFIG} (mode 0600)" in found["configuration"]["found"]


def test_the_doctor_finds_a_key_that_the_service_may_not_read(boot: Boot) -> None:
    robot = boot()
    robot.run(COMMAND, "keys", "new-server", "main", "--directory", "/srv/keys")
    robot.run("systemctl", "stop", UNIT)
    box = boot(config=f'{WORKING}keys = {{ required = true, directory = "/srv/keys" }}\n')
    assert shown(box, "ActiveState") != "active"
    found = doctor(box, "root")
    assert found["files"]["level"] == "error"
    assert "appliance may not enter /srv/keys" in found["files"]["found"]
    assert "namei -l /srv/keys" in found["files"]["advice"]


def test_the_doctor_finds_who_has_the_port(boot: Boot) -> None:
    robot = boot()
    robot.run("systemctl", "stop", UNIT)
    robot.run("systemd-run", "--quiet", "--unit=holder", "python3", "-c", HOLD_PORT)
    try:
        robot.wait_until(lambda: "5555" in robot.run("ss", "-ltn").stdout, 20, "it has the port")
        box = boot(wait=False)
        found = doctor(box, "root")["ports"]
        assert shown(box, "ActiveState") == "activating"
    finally:
        robot.run("systemctl", "stop", "holder")
    assert found["level"] == "error"
    assert "tcp://127.0.0.1:5555 is held by python3 (pid " in found["found"]
    assert "end it, or change transport.bind" in found["advice"]
    box.wait_until(lambda: is_serving(box), 60, "it takes the port that is free by now")


def test_the_doctor_finds_a_full_disk(boot: Boot) -> None:
    box = boot()
    box.run("mount", "-t", "tmpfs", "-o", "size=8m", "full", "/var/cache/appliance")
    try:
        found = doctor(box, "root")["disk"]
    finally:
        box.run("umount", "/var/cache/appliance")
    assert (found["level"], found["advice"]) == ("error", "make room")
    assert "engines: 8 MiB free at /var/cache/appliance" in found["found"]
    assert doctor(box, "root")["disk"]["level"] != "error"


def test_loading_may_take_longer_than_a_start(boot: Boot) -> None:
    robot = boot()
    robot.run("systemctl", "stop", UNIT)
    slow = add_echo(robot.root / "var/lib/appliance/models", "slow") / "policy.py"
    slow.write_text(f"import time\ntime.sleep({2 * START_S})\n{slow.read_text()}")
    robot.run("chown", "--recursive", "appliance:", STATE)
    robot.write(f"/etc/systemd/system/{UNIT}.service.d/x.conf", SHORT_START)
    try:
        box = boot()
        assert shown(box, "ActiveState") == "active", journal(box)
        assert shown(box, "NRestarts") == "0"
    finally:
        robot.run("rm", "-r", f"{STATE}/models/slow")


def test_one_that_hangs_is_started_again(boot: Boot) -> None:
    box = boot()
    before = shown(box, "MainPID")
    box.run("kill", "-STOP", before)

    def is_another() -> bool:
        return shown(box, "MainPID") not in ("0", before) and is_serving(box)

    took_s = box.wait_until(is_another, 3 * WATCHDOG_S, "the watchdog starts it again")
    print(f"\nserved again {took_s:.1f} s after it hung")
    assert shown(box, "NRestarts") == "1"
    assert "Watchdog timeout" in journal(box)
    assert "most recent call first" in journal(box)  # where it hung


def test_a_configuration_that_cannot_be_used_ends_as_failed(boot: Boot) -> None:
    box = boot(config='arena.bytes = "many"\n')

    def gave_up() -> bool:
        return "Start request repeated too quickly" in journal(box)

    box.wait_until(gave_up, 60, "the limit of starts")
    assert shown(box, "ActiveState") == "failed"
    assert shown(box, "NRestarts") == "5"
    assert f'{CONFIG}: arena.bytes: found "many"; allowed: an integer' in journal(box)


def test_one_that_crashes_again_and_again_ends_as_failed(boot: Boot) -> None:
    box = boot()
    killed: set[str] = set()

    def gave_up() -> bool:
        pid = shown(box, "MainPID")
        if pid != "0" and pid not in killed:
            killed.add(pid)
            box.run("kill", "-KILL", pid)
        return shown(box, "ActiveState") == "failed"

    box.wait_until(gave_up, 90, "the limit of starts")
    assert len(killed) == 5


def test_a_worker_that_crashes_again_and_again_is_told_and_takes_nothing_with_it(
    boot: Boot,
) -> None:
    box = boot()
    core = shown(box, "MainPID")
    worker = int(box.run("python3", "-c", CRASHES, str(CRASH_S), timeout_s=60).stdout)
    print(f"\n{worker} workers ended in {CRASH_S} s")
    # 0, 0.1, 0.2, ... 6.4 s before the next one; else there would be hundreds.
    assert 2 <= worker <= 10
    code, said = asked(box, "olga", "status", "--json")
    document = json.loads(said)
    assert (code, document["state"]) == (1, "degraded")
    assert document["reasons"]
    assert doctor(box, "olga")["appliance"]["found"].startswith("degraded: ")
    # The core and its unit are those of before: other workers would serve all the while.
    assert (shown(box, "MainPID"), shown(box, "NRestarts")) == (core, "0")
    assert shown(box, "ActiveState") == "active"
    box.run("systemctl", "restart", UNIT)
    assert asked(box, "olga", "status")[0] == 0
    assert is_serving(box)


def test_a_drained_one_stays_down(boot: Boot) -> None:
    box = boot()
    assert asked(box, "olga", "drain", "--wait")[0] == 0
    box.wait_until(lambda: shown(box, "ActiveState") == "inactive", 20, "it ends")
    assert shown(box, "NRestarts") == "0"


def test_what_is_yet_to_start_counts_as_up(robot: Machine) -> None:
    """A switch looks at a unit as soon as it has asked for its start: others may come first."""
    robot.write("/srv/switch_release.py", SWITCH.read_text())
    robot.write("/etc/systemd/system/long.service", LONG)
    robot.write("/etc/systemd/system/behind.service", BEHIND)
    units = ("long", "behind")

    def are_up() -> str:
        return robot.run("python3", "-c", IS_UP, *units).stdout.strip()

    robot.run("systemctl", "daemon-reload")
    assert are_up() == "False False"
    robot.run("systemctl", "start", "--no-block", *units)
    found = robot.run("systemctl", "show", "--value", "--property=ActiveState", *units).stdout
    assert found.split() == ["activating", "inactive"]
    assert are_up() == "True True"
    robot.run("systemctl", "stop", *units)
    robot.run("systemctl", "reset-failed", *units, check=False)
    assert are_up() == "False False"
