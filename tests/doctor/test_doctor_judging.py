"""What is said of a box, without the box."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from appliance.doctor.facts import (
    ConfiguredFile,
    Deployment,
    Disk,
    Engine,
    Facts,
    Model,
    Node,
    Person,
    Port,
    Running,
    Unit,
)
from appliance.doctor.judging.box import MIB
from appliance.doctor.judging.findings import Finding, worst_level
from appliance.doctor.judging.judge import judge
from appliance.doctor.judging.rights import may, obstacle
from appliance.health.reading import DeviceHealth

GPU = DeviceHealth(device="cuda:0", source="nvml", name="H200", temperature_c=61.0)
GROUP = 997
SERVICE = Person(name="appliance", uid=999, gids=frozenset({GROUP}))
OPERATOR = Person(name="olga", uid=1000, gids=frozenset({1000, GROUP}))
STRANGER = Person(name="sid", uid=1001, gids=frozenset({1001}))
ROOT = Node(path="/", kind="directory", mode=0o755)


def file(path: str, mode: int = 0o640, **other: Any) -> Node:
    return Node(**{"path": path, "kind": "file", "mode": mode, "gid": GROUP, **other})


def configured(node: Node, key: str = "keys.server_key", **other: Any) -> ConfiguredFile:
    return ConfiguredFile(key=key, nodes=(ROOT, node), **other)


HEALTHY = Facts(
    config="/etc/appliance.toml",
    config_error="",
    config_nodes=(ROOT, file("/etc/appliance.toml")),
    runs_as=SERVICE,
    caller=OPERATOR,
    group=GROUP,
    socket=(ROOT, file("/run/appliance.sock", 0o660, kind="socket", uid=999)),
    files=(configured(file("/main.key", 0o600, uid=999), secret=True),),
    has_certificate=True,
    driver_error="",
    devices=(GPU,),
    tensorrt=("tensorrt 10.3.0",),
    onnxruntime_error="",
    synchronised=True,
    ports=(Port(key="transport.bind", address="tcp://0.0.0.0:5555", state="busy"),),
    disks=(Disk(purpose="models", path="/", free_bytes=5000 * MIB, wanted_bytes=0),),
    arena_bytes=256 * MIB,
    memlock_bytes=-1,
    models=(Model(name="arm", version="3"),),
    repository="/models",
    engines=(Engine(key="k", model="arm", version="3", builder="tensorrt 10.3.0"),),
    unit=Unit(
        fragment="/etc/systemd/system/appliance.service",
        active="active",
        enabled="enabled",
        user="appliance",
        exposure=1.8,
    ),
    deployment=Deployment(name="1.1.0-5e1f0c2a"),
    running=Running(answer="answered", state="ready", pid=7, binds=("tcp://0.0.0.0:5555",)),
)


def found(**changes: Any) -> dict[str, Finding]:
    return {each.name: each for each in judge(attrs.evolve(HEALTHY, **changes))}


def test_a_healthy_box_has_nothing_wrong() -> None:
    assert {each.level for each in judge(HEALTHY)} == {"ok"}
    assert not any(each.advice for each in judge(HEALTHY))


def deployment(**changes: Any) -> Deployment:
    assert HEALTHY.deployment is not None
    return attrs.evolve(HEALTHY.deployment, **changes)


def unit(**changes: Any) -> Unit:
    assert HEALTHY.unit is not None
    return attrs.evolve(HEALTHY.unit, **changes)


@pytest.mark.parametrize(
    ("name", "level", "said", "changes"),
    [
        ("configuration", "error", "arena.bytes: wrong", {"config_error": "arena.bytes: wrong"}),
        (
            *("configuration", "error", "appliance may not read /a.toml (mode 0600)"),
            {"config_nodes": (ROOT, file("/a.toml", 0o600))},
        ),
        ("configuration", "ok", "defaults hold", {"config": "", "config_nodes": ()}),
        (
            *("files", "error", "keys.server_key: /main.key is missing"),
            {"files": (configured(Node(path="/main.key", kind="missing"), secret=True),)},
        ),
        (
            *("files", "error", "appliance may not write /day (mode 0750)"),
            {"files": (configured(file("/day", 0o750, kind="directory"), "r", writable=True),)},
        ),
        (
            *("files", "skipped", "ask as root"),
            {"files": (configured(Node(path="/main.key", kind="hidden"), secret=True),)},
        ),
        (
            *("secrets", "error", "others may read it (mode 0640)"),
            {"files": (configured(file("/main.key", 0o640), secret=True),)},
        ),
        ("secrets", "skipped", "no keys", {"files": ()}),
        ("certificate", "error", "it has expired", {"certificate_error": "it has expired"}),
        ("certificate", "skipped", "ask as root", {"certificate_error": None}),
        ("certificate", "skipped", "none is configured", {"has_certificate": False}),
        ("access", "warning", "sid is no member", {"caller": STRANGER}),
        ("access", "ok", "appliance may use every", {"caller": SERVICE}),
        ("access", "skipped", "no group", {"group": -1}),
        ("socket", "error", "anybody may open it", {"socket": (file("/s", 0o666, kind="socket"),)}),
        ("socket", "error", "is no socket", {"socket": (file("/s"),)}),
        ("socket", "skipped", "no appliance runs", {"socket": (Node(path="/s", kind="missing"),)}),
        (
            *("socket", "warning", "not of the group"),
            {"socket": (file("/s", 0o660, kind="socket", gid=0),)},
        ),
        ("models", "error", "cannot be read", {"repository_error": "/m: cannot be read"}),
        ("models", "error", "bad", {"models": (Model(name="arm", version="", error="bad"),)}),
        ("models", "warning", "/models holds none", {"models": ()}),
        ("engines", "warning", "k is damaged", {"engines": (Engine(key="k"),)}),
        ("engines", "warning", "which is not installed", {"tensorrt": ("tensorrt 10.16.2",)}),
        ("engines", "ok", "arm 3 is not served now", {"models": (Model(name="arm", version="4"),)}),
        ("engines", "skipped", "none were built", {"engines": ()}),
        ("workers", "error", "No module", {"onnxruntime_error": "No module"}),
        ("workers", "skipped", "took too long", {"onnxruntime_error": None}),
        ("gpu", "ok", "none is configured (no driver)", {"driver_error": "no driver"}),
        (
            *("gpu", "error", "no driver, and workers need one: gpu"),
            {"driver_error": "no driver", "wants_gpu": ("gpu",)},
        ),
        ("gpu", "skipped", "did not answer", {"driver_error": None}),
        ("gpu health", "skipped", "no worker is to compute on a GPU", {"devices": ()}),
        ("gpu health", "skipped", "did not tell in time", {"devices": None}),
        (
            *("gpu health", "warning", "cuda:0 H200: throttled by heat"),
            {"devices": (GPU, attrs.evolve(GPU, holds=("thermal",)))},
        ),
        (
            *("gpu health", "error", "cuda:0 H200: 1 memory errors"),
            {"devices": (attrs.evolve(GPU, ecc_uncorrected=1, holds=("power",)),)},
        ),
        (
            *("gpu health", "warning", "cannot be read: gone"),
            {"devices": (DeviceHealth(device="cuda:1", error="gone"),)},
        ),
        ("tensorrt", "ok", "no GPU is configured", {"tensorrt": ()}),
        ("tensorrt", "error", "workers need it: gpu", {"tensorrt": (), "wants_gpu": ("gpu",)}),
        ("locked memory", "ok", "8 MiB for locked memory", {"memlock_bytes": 8 * MIB}),
        (
            *("locked memory", "error", "the arena has 256 MiB"),
            {"memlock_bytes": 8 * MIB, "wants_gpu": ("gpu",)},
        ),
        ("ports", "ok", "is free", {"ports": (Port(key="k", address="tcp://h:1", state="free"),)}),
        (
            *("ports", "error", "k: h:1 is held by nginx (pid 12)"),
            {"ports": (Port(key="k", address="h:1", state="busy", holder="nginx", holder_pid=12),)},
        ),
        (
            *("ports", "ok", "held by the appliance"),
            {"ports": (Port(key="k", address="h:1", state="busy", holder="a", holder_pid=7),)},
        ),
        (
            *("ports", "error", "held by another process"),
            {"ports": (Port(key="k", address="tcp://h:1", state="busy"),)},
        ),
        (
            *("ports", "error", "no such address"),
            {"ports": (Port(key="k", address="h:1", state="impossible", error="no such address"),)},
        ),
        (
            *("disk", "error", "models: 1 MiB free"),
            {"disks": (Disk(purpose="models", path="/", free_bytes=MIB, wanted_bytes=0),)},
        ),
        (
            *("disk", "warning", "recordings"),
            {
                "disks": (
                    attrs.evolve(HEALTHY.disks[0], purpose="recordings", wanted_bytes=1 << 40),
                )
            },
        ),
        ("clock", "warning", "not synchronised", {"synchronised": False}),
        ("clock", "skipped", "does not say", {"synchronised": None}),
        ("unit", "skipped", "no systemd", {"unit": None}),
        ("unit", "warning", "is not installed", {"unit": Unit()}),
        (
            "unit",
            "error",
            "has failed: watchdog",
            {"unit": unit(active="failed", result="watchdog")},
        ),
        ("unit", "warning", "is disabled", {"unit": unit(enabled="disabled")}),
        ("hardening", "warning", "exposure 9.2, above 2.0", {"unit": unit(exposure=9.2)}),
        ("hardening", "skipped", "no unit", {"unit": None}),
        ("deployment", "skipped", "nothing was deployed", {"deployment": None}),
        (
            *("deployment", "error", "leads to 1.1.0-5e1f0c2a, which is not whole"),
            {"deployment": deployment(is_whole=False)},
        ),
        (
            *("deployment", "warning", "1.1.0-5e1f0c2a is current and has not proven itself"),
            {"deployment": deployment(is_on_trial=True)},
        ),
        (
            *("deployment", "warning", "appliance-next runs, and no switch is under way"),
            {"deployment": deployment(next_runs=True)},
        ),
        (
            *("deployment", "ok", "a switch is under way"),
            {"deployment": deployment(is_switching=True, is_on_trial=True, next_runs=True)},
        ),
        (
            *("appliance", "warning", "degraded: cpu-0 is down"),
            {"running": Running(answer="answered", state="degraded", reasons=("cpu-0 is down",))},
        ),
        ("appliance", "error", "does not answer", {"running": Running(answer="silent")}),
        ("appliance", "error", "does not answer", {"running": Running(answer="absent")}),
        (
            *("appliance", "warning", "does not run"),
            {"running": Running(answer="absent"), "unit": None},
        ),
        ("appliance", "skipped", "may not ask", {"running": Running(answer="forbidden")}),
    ],
)
def test_what_is_said(name: str, level: str, said: str, changes: dict[str, Any]) -> None:
    finding = found(**changes)[name]
    assert finding.level == level
    assert said in finding.found
    assert bool(finding.advice) == (level in ("warning", "error"))


def test_who_may_not_ask_hears_nothing_of_its_own_appliance_being_foreign() -> None:
    assert found(running=Running(answer="forbidden"))["ports"].level == "ok"


def test_a_directory_above_may_be_in_the_way() -> None:
    closed = Node(path="/home", kind="directory", mode=0o700, uid=5)
    said = obstacle(SERVICE, (ROOT, closed, file("/home/a", 0o644)), 4)
    assert said == "appliance may not enter /home (mode 0700)"
    assert obstacle(attrs.evolve(SERVICE, uid=5), (ROOT, closed, file("/home/a", 0o644)), 4) == ""


@pytest.mark.parametrize(
    ("person", "mode", "allowed"),
    [
        (SERVICE, 0o400, False),
        (attrs.evolve(SERVICE, uid=7), 0o400, True),
        (attrs.evolve(SERVICE, uid=7), 0o040, False),  # the owner's own bits count, no others
        (SERVICE, 0o040, True),
        (STRANGER, 0o040, False),
        (STRANGER, 0o004, True),
        (attrs.evolve(SERVICE, uid=0), 0o000, True),
    ],
)
def test_rights_are_those_of_the_mode(person: Person, mode: int, *, allowed: bool) -> None:
    assert may(person, file("/f", mode, uid=7), 4) == allowed


def test_everything_of_the_worst_level_is_said_and_each_advice_once() -> None:
    ports = tuple(Port(key="k", address=f"h:{n}", state="busy") for n in (1, 2))
    finding = found(ports=(*ports, Port(key="k", address="h:3", state="free")))["ports"]
    assert finding.found == "k: h:1 is held by another process; k: h:2 is held by another process"
    assert finding.advice == "end it, or change k"


def test_the_worst_level_of_nothing_is_ok() -> None:
    assert worst_level([]) == "ok"
