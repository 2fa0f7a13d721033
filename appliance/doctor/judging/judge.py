"""All checks, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable

from appliance.doctor.facts import Facts
from appliance.doctor.judging.box import (
    appliance,
    clock,
    deployment,
    disk,
    hardening,
    ports,
    unit,
)
from appliance.doctor.judging.computing import (
    engines,
    gpu,
    gpu_health,
    locked_memory,
    models,
    tensorrt,
    workers,
)
from appliance.doctor.judging.files import (
    access,
    admin_socket,
    certificate,
    configuration,
    files,
    secrets,
)
from appliance.doctor.judging.findings import Finding, Remark, finding_of


def judge(facts: Facts) -> list[Finding]:
    """Return a finding for everything that was looked at, in the order of `CHECKS`."""
    return [finding_of(name, check(facts)) for name, check in CHECKS.items()]


CHECKS: dict[str, Callable[[Facts], list[Remark]]] = {
    "configuration": configuration,
    "files": files,
    "secrets": secrets,
    "certificate": certificate,
    "access": access,
    "socket": admin_socket,
    "models": models,
    "engines": engines,
    "workers": workers,
    "gpu": gpu,
    "gpu health": gpu_health,
    "tensorrt": tensorrt,
    "locked memory": locked_memory,
    "ports": ports,
    "disk": disk,
    "clock": clock,
    "unit": unit,
    "hardening": hardening,
    "deployment": deployment,
    "appliance": appliance,
}
