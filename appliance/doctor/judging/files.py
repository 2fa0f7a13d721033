"""The configuration, what it names, and who may come near."""

from __future__ import annotations

from appliance.doctor.facts import ConfiguredFile, Facts, Person
from appliance.doctor.judging.findings import Remark
from appliance.doctor.judging.rights import OTHERS, READ, SEARCH, WRITE, obstacle

GROUP = "appliance"


def configuration(facts: Facts) -> list[Remark]:
    """The file itself: whether it can be used, and the service may read it."""
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


def files(facts: Facts) -> list[Remark]:
    """What the configuration names."""
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


def secrets(facts: Facts) -> list[Remark]:
    """Keys that others may read."""
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


def certificate(facts: Facts) -> list[Remark]:
    """Whether clients of the gRPC door could take its certificate."""
    if not facts.has_certificate:
        return [Remark("skipped", "none is configured")]
    if facts.certificate_error is None:
        return [Remark("skipped", "it cannot be seen; ask as root")]
    if facts.certificate_error:
        advice = "renew it; `appliance keys check-certificate` tries another one"
        return [Remark("error", facts.certificate_error, advice)]
    return [Remark("ok", "clients can take it today")]


def access(facts: Facts) -> list[Remark]:
    """Whether who asks may use the admin socket."""
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


def admin_socket(facts: Facts) -> list[Remark]:
    """Who may open the admin socket."""
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
