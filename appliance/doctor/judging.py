"""Makes findings of what was seen. Plain functions of `Facts`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from attrs import frozen

from appliance.doctor.facts import ConfiguredFile, Facts, Node, Person, Port

Level = Literal["ok", "skipped", "warning", "error"]
SEVERITY: tuple[Level, ...] = ("ok", "skipped", "warning", "error")

MIB = 1 << 20
LITTLE_BYTES, HARDLY_ANY_BYTES = 1024 * MIB, 64 * MIB
MOST_EXPOSED = 2.0
GROUP = "appliance"

READ, WRITE, SEARCH = 4, 2, 1
OTHERS = 0o077


@frozen(kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `skipped`: it could not be looked at, or there is nothing of that kind here.
        found: What was seen.
        advice: What to do; empty where nothing is wrong.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def judge(facts: Facts) -> list[Finding]:
    """Return a finding for everything that was looked at, in the order of `CHECKS`."""
    return [_worst(name, check(facts)) for name, check in CHECKS.items()]


def worst_level(findings: Iterable[Finding | Remark]) -> Level:
    """Return the worst level there is; `ok` for nothing."""
    found: set[Level] = {each.level for each in findings}
    for level in reversed(SEVERITY):
        if level in found:
            return level
    return "ok"


@frozen
class Remark:
    """A part of a finding."""

    level: Level
    found: str
    advice: str = ""


def _worst(name: str, remarks: Sequence[Remark]) -> Finding:
    """Make one finding of remarks: those of the worst level, all of them."""
    level = worst_level(remarks)
    chosen = [each for each in remarks if each.level == level]
    advice = dict.fromkeys(each.advice for each in chosen if each.advice)
    return Finding(
        name=name,
        level=level,
        found="; ".join(each.found for each in chosen),
        advice="; ".join(advice),
    )


def may(person: Person, node: Node, rights: int) -> bool:
    """Return whether somebody has rights on a file or directory, as far as its mode says."""
    if person.uid == 0:
        return True
    shift = 6 if person.uid == node.uid else 3 if node.gid in person.gids else 0
    return (node.mode >> shift) & rights == rights


def obstacle(person: Person, nodes: Sequence[Node], rights: int) -> str:
    """Say what keeps somebody from a file; nothing: it can be had, or nobody here can see that."""
    for node in nodes[:-1]:
        if not may(person, node, SEARCH):
            return f"{person.name} may not enter {node.path} (mode {node.mode:04o})"
    last = nodes[-1]
    if last.kind == "missing":
        return f"{last.path} is missing"
    if last.kind != "hidden" and not may(person, last, rights):
        what = "write" if rights & WRITE else "read"
        return f"{person.name} may not {what} {last.path} (mode {last.mode:04o})"
    return ""


# ----------------------------------------------------------------------------- configuration


def _configuration(facts: Facts) -> list[Remark]:
    if facts.config_error:
        return [
            Remark(
                "error",
                facts.config_error,
                f"correct it, and try it with `appliance check-config {facts.config}`",
            )
        ]
    if not facts.config:
        return [Remark("ok", "no file: defaults hold")]
    problem = obstacle(facts.runs_as, facts.config_nodes, READ)
    if problem:
        return [Remark("error", problem, _letting_in(facts.config))]
    return [Remark("ok", facts.config)]


def _files(facts: Facts) -> list[Remark]:
    remarks = [_file(facts.runs_as, each) for each in facts.files]
    return remarks or [Remark("skipped", "none are configured")]


def _file(who: Person, file: ConfiguredFile) -> Remark:
    node = file.node
    rights = (READ | WRITE if file.writable else READ) | (SEARCH if node.kind == "directory" else 0)
    problem = obstacle(who, file.nodes, rights)
    if problem and node.kind == "missing":
        return Remark("error", f"{file.key}: {problem}", f"create it, or correct {file.key}")
    if problem:
        return Remark("error", f"{file.key}: {problem}", _letting_in(node.path))
    if node.kind == "hidden":
        return Remark("skipped", f"{file.key}: {node.path} cannot be seen; ask as root")
    return Remark("ok", f"{file.key}: {node.path}")


def _letting_in(path: str) -> str:
    return f"see `namei -l {path}`, and give the user of the service what is in the way"


def _secrets(facts: Facts) -> list[Remark]:
    secrets = [each.node for each in facts.files if each.secret and each.node.kind != "missing"]
    remarks: list[Remark] = []
    for node in secrets:
        if node.kind == "hidden":
            remarks.append(Remark("skipped", f"{node.path} cannot be seen; ask as root"))
        elif node.mode & OTHERS:
            remarks.append(
                Remark(
                    "error",
                    f"{node.path}: others may read it (mode {node.mode:04o})",
                    f"chmod 600 {node.path}, and make a new key if somebody else may have read it",
                )
            )
        else:
            remarks.append(Remark("ok", node.path))
    return remarks or [Remark("skipped", "no keys are asked for")]


# ------------------------------------------------------------------------------------ access


def _access(facts: Facts) -> list[Remark]:
    caller, runs_as = facts.caller, facts.runs_as
    if caller.uid in (0, runs_as.uid):
        return [Remark("ok", f"{caller.name} may use every command")]
    if facts.group < 0:
        return [Remark("skipped", f"there is no group {GROUP}")]
    if facts.group in caller.gids:
        return [Remark("ok", f"{caller.name} is a member of the group")]
    return [
        Remark(
            "warning",
            f"{caller.name} is no member of the group {GROUP}, so it may not use the admin socket",
            f"usermod --append --groups {GROUP} {caller.name}, and log in again",
        )
    ]


def _socket(facts: Facts) -> list[Remark]:
    node = facts.socket[-1]
    if node.kind == "missing":
        return [Remark("skipped", f"{node.path} is not there: no appliance runs")]
    if node.kind == "hidden":
        return [Remark("skipped", f"{node.path} cannot be seen by {facts.caller.name}")]
    if node.kind != "socket":
        return [Remark("error", f"{node.path} is no socket", "move it away")]
    if node.mode & 0o007:
        return [
            Remark(
                "error",
                f"{node.path}: anybody may open it (mode {node.mode:04o}), and drain the appliance",
                f"chmod 660 {node.path}",
            )
        ]
    if facts.group >= 0 and node.gid != facts.group and facts.unit and facts.unit.user:
        return [
            Remark(
                "warning",
                f"{node.path} is not of the group {GROUP}: its members may not use it",
                f"chgrp {GROUP} {node.path}; let the service run with Group={GROUP}",
            )
        ]
    return [Remark("ok", f"{node.path} (mode {node.mode:04o})")]


# --------------------------------------------------------------------------------- computing


def _gpu(facts: Facts) -> list[Remark]:
    wanted = ", ".join(facts.wants_gpu)
    if facts.driver_error is None:
        return [Remark("skipped", "the driver did not answer in time")]
    if not facts.driver_error:
        return [Remark("ok", "the driver finds a GPU")]
    if not wanted:
        return [Remark("ok", f"none, and none is configured ({facts.driver_error})")]
    return [
        Remark(
            "error",
            f"{facts.driver_error}, and workers need one: {wanted}",
            "install the driver, see `nvidia-smi` and the drop-in for this kind of box, or "
            'configure device = "cpu"',
        )
    ]


def _tensorrt(facts: Facts) -> list[Remark]:
    if facts.tensorrt:
        return [Remark("ok", ", ".join(facts.tensorrt))]
    if facts.wants_gpu:
        return [
            Remark(
                "error",
                f"not installed, and workers need it: {', '.join(facts.wants_gpu)}",
                "pip install 'appliance[gpu]'; on a Jetson: apt install python3-libnvinfer, and a "
                "virtual environment with --system-site-packages",
            )
        ]
    return [Remark("ok", "not installed, and no GPU is configured")]


def _workers(facts: Facts) -> list[Remark]:
    error = facts.onnxruntime_error
    if error is None:
        return [Remark("skipped", "the import of onnxruntime took too long to wait for")]
    if error:
        return [
            Remark(
                "error",
                f"a worker cannot import onnxruntime: {error}",
                "pip install 'appliance[server]' into the environment of the appliance",
            )
        ]
    return [Remark("ok", "onnxruntime can be imported")]


def _memory(facts: Facts) -> list[Remark]:
    limit, arena = facts.memlock_bytes, facts.arena_bytes
    if limit is None:
        return [Remark("skipped", "the limit cannot be seen")]
    shown = "no limit" if limit < 0 else f"{limit // MIB} MiB"
    found = f"{shown} for locked memory, the arena has {arena // MIB} MiB"
    if 0 <= limit < arena and facts.wants_gpu:
        return [
            Remark("error", found, "LimitMEMLOCK=infinity in the unit: GPUs read the arena by DMA")
        ]
    return [Remark("ok", found)]


# ----------------------------------------------------------------------------------- the box


def _clock(facts: Facts) -> list[Remark]:
    if facts.synchronised is None:
        return [Remark("skipped", "the kernel does not say whether the clock is set")]
    if facts.synchronised:
        return [Remark("ok", "is synchronised")]
    return [
        Remark(
            "warning",
            "is not synchronised: logs and recordings of several boxes cannot be compared, and "
            "certificates may seem expired (scheduling does not need it)",
            "install chrony, or `timedatectl set-ntp true`",
        )
    ]


def _ports(facts: Facts) -> list[Remark]:
    return [_port(each, facts) for each in facts.ports] or [Remark("skipped", "none")]


def _port(port: Port, facts: Facts) -> Remark:
    where = f"{port.key}: {port.address}"
    if port.state == "free":
        return Remark("ok", f"{where} is free")
    if port.state == "impossible":
        return Remark("error", f"{where}: {port.error}", f"correct {port.key}")
    if _is_held_by_appliance(port, facts):
        return Remark("ok", f"{where} is held by the appliance")
    holder = f"{port.holder} (pid {port.holder_pid})" if port.holder_pid else "another process"
    return Remark("error", f"{where} is held by {holder}", f"end it, or change {port.key}")


def _is_held_by_appliance(port: Port, facts: Facts) -> bool:
    running = facts.running
    if running.answer != "answered":
        # Who may not ask it may not see who holds the port either.
        return running.answer == "forbidden" and not port.holder_pid
    if port.holder_pid:
        return port.holder_pid == running.pid
    number = port.address.rpartition(":")[2]
    shown = any(bind.rpartition(":")[2] == number or bind == port.address for bind in running.binds)
    return shown or port.key == "admin.listen"  # which no document names


def _disk(facts: Facts) -> list[Remark]:
    remarks: list[Remark] = []
    for disk in facts.disks:
        found = f"{disk.purpose}: {disk.free_bytes // MIB} MiB free at {disk.path}"
        if disk.free_bytes < HARDLY_ANY_BYTES:
            remarks.append(Remark("error", found, "make room"))
        elif disk.free_bytes < max(LITTLE_BYTES, disk.wanted_bytes):
            needed = max(LITTLE_BYTES, disk.wanted_bytes) // MIB
            remarks.append(Remark("warning", found, f"make room: {needed} MiB may be needed"))
        else:
            remarks.append(Remark("ok", found))
    return remarks or [Remark("skipped", "nothing is written")]


def _unit(facts: Facts) -> list[Remark]:
    unit = facts.unit
    if unit is None:
        return [Remark("skipped", "there is no systemd here")]
    if not unit.fragment:
        advice = "install the unit (docs/operations.md, systemd)"
        return [Remark("warning", "appliance.service is not installed: nothing starts it", advice)]
    if unit.active == "failed":
        return [
            Remark(
                "error",
                f"appliance.service has failed: {unit.result}",
                "see `journalctl -u appliance`, then `systemctl reset-failed appliance` and "
                "`systemctl start appliance`",
            )
        ]
    if not unit.enabled.startswith("enabled"):
        advice = "systemctl enable appliance"
        found = f"appliance.service is {unit.enabled or 'not enabled'}: the next boot starts none"
        return [Remark("warning", found, advice)]
    return [Remark("ok", f"appliance.service is {unit.active} and {unit.enabled}")]


def _hardening(facts: Facts) -> list[Remark]:
    unit = facts.unit
    if unit is None or unit.exposure is None:
        return [Remark("skipped", "there is no unit that systemd could judge")]
    found = f"exposure {unit.exposure:.1f}"
    if unit.exposure > MOST_EXPOSED:
        advice = "see `systemd-analyze security appliance`, and which drop-in opens it"
        return [Remark("warning", f"{found}, above {MOST_EXPOSED:.1f}", advice)]
    return [Remark("ok", found)]


# ------------------------------------------------------------------------------------ models


def _models(facts: Facts) -> list[Remark]:
    if facts.repository_error:
        return [Remark("error", facts.repository_error, "correct the repository or what names it")]
    remarks = [
        Remark("error", each.error, f"correct model {each.name}, or move it out of the repository")
        for each in facts.models
        if each.error
    ]
    if remarks:
        return remarks
    if not facts.models:
        return [Remark("warning", f"{facts.repository} holds none", "add one: docs/models.md")]
    names = ", ".join(f"{each.name} {each.version}" for each in facts.models)
    return [Remark("ok", names)]


def _engines(facts: Facts) -> list[Remark]:
    if not facts.engines:
        return [Remark("skipped", "none were built")]
    versions = {(each.name, each.version) for each in facts.models}
    names = {each.name for each in facts.models}
    remarks: list[Remark] = []
    for engine in facts.engines:
        what = f"{engine.model} {engine.version}"
        if not engine.builder:
            found = f"{engine.key} is damaged"
            remarks.append(Remark("warning", found, "`appliance models gc`, and build it again"))
        elif engine.builder not in facts.tensorrt:
            found = f"{what} was built by {engine.builder}, which is not installed"
            advice = f"`appliance models build {engine.model} {engine.version}`"
            remarks.append(Remark("warning", found, advice))
        elif engine.model not in names or (engine.model, engine.version) not in versions:
            remarks.append(Remark("ok", f"{what} is not served now"))
        else:
            remarks.append(Remark("ok", what))
    return remarks


# ------------------------------------------------------------------------------- the appliance


def _appliance(facts: Facts) -> list[Remark]:
    running = facts.running
    if running.answer == "answered":
        if running.state == "ready":
            return [Remark("ok", "ready")]
        why = f": {'; '.join(running.reasons)}" if running.reasons else ""
        return [Remark("warning", f"{running.state}{why}", "see `appliance status`")]
    if running.answer == "forbidden":
        return [Remark("skipped", f"{facts.caller.name} may not ask it")]
    is_up = facts.unit is not None and facts.unit.active == "active"
    if running.answer == "silent" or is_up:
        advice = "see `journalctl -u appliance`; `systemctl restart appliance`"
        return [Remark("error", f"does not answer: {running.error}", advice)]
    return [Remark("warning", "does not run", "systemctl start appliance, or `appliance serve`")]


CHECKS: dict[str, Callable[[Facts], list[Remark]]] = {
    "configuration": _configuration,
    "files": _files,
    "secrets": _secrets,
    "access": _access,
    "socket": _socket,
    "models": _models,
    "engines": _engines,
    "workers": _workers,
    "gpu": _gpu,
    "tensorrt": _tensorrt,
    "locked memory": _memory,
    "ports": _ports,
    "disk": _disk,
    "clock": _clock,
    "unit": _unit,
    "hardening": _hardening,
    "appliance": _appliance,
}
