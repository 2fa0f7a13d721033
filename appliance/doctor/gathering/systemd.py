"""What systemd says of the service."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from appliance.doctor.facts import Unit
from appliance.doctor.gathering.processes import output, start

SERVICE = "appliance.service"
SYSTEMD = Path("/run/systemd/system")
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "Result",
    "User",
    "FragmentPath",
    "WorkingDirectory",
    "LimitMEMLOCK",
)


def properties(deadline: float) -> dict[str, str]:
    """Return what the unit has of `PROPERTIES`; nothing: there is none, or no systemd."""
    if not SYSTEMD.is_dir():
        return {}
    asked = [f"--property={','.join(PROPERTIES)}", "--no-pager", SERVICE]
    said = output(start("systemctl", "show", *asked), deadline)
    lines = said.out.splitlines() if said is not None else []
    found = {name: value for name, _, value in (line.partition("=") for line in lines)}
    return found if found.get("LoadState") not in (None, "not-found") else {}


def start_judging(shown: dict[str, str]) -> subprocess.Popen[str] | None:
    """Start systemd's own verdict on how hardened the unit is, if there is one."""
    fragment = shown.get("FragmentPath")
    if not fragment:
        return None
    return start("systemd-analyze", "security", "--offline=true", "--no-pager", fragment)


def unit(
    shown: dict[str, str], judging: subprocess.Popen[str] | None, deadline: float
) -> Unit | None:
    """Return what is known of the unit; None: there is no systemd."""
    exposure = output(judging, deadline)
    if not SYSTEMD.is_dir():
        return None
    if not shown:
        return Unit()
    level = re.search(r"Overall exposure level .*: ([0-9.]+)", exposure.out) if exposure else None
    return Unit(
        fragment=shown.get("FragmentPath", ""),
        active=shown.get("ActiveState", ""),
        enabled=shown.get("UnitFileState", ""),
        result=shown.get("Result", ""),
        user=shown.get("User", ""),
        exposure=float(level[1]) if level else None,
    )
