"""What deploys have left on the box."""

from __future__ import annotations

import subprocess
from pathlib import Path

from appliance.doctor.facts import Deployment
from appliance.doctor.gathering.processes import output, start

ROOT = Path("/opt/appliance")
LOCKS = Path("/proc/locks")
NEXT = "appliance-next.service"


def start_asking() -> subprocess.Popen[str] | None:
    """Start asking systemd for the unit that a deployment is tried under."""
    return start("systemctl", "is-active", NEXT)


def deployment(asking: subprocess.Popen[str] | None, deadline: float) -> Deployment | None:
    """Return what `current` leads to, and what a switch has left; None: nothing was deployed."""
    said = output(asking, deadline)
    current = ROOT / "current"
    if not current.is_symlink():
        return None
    return Deployment(
        name=current.readlink().name,
        is_whole=(current / "release/bin/appliance").is_file(),
        is_switching=_is_locked(ROOT / ".switching"),
        is_on_trial=(ROOT / "trial").exists(),
        next_runs=said is not None and said.out.strip() in ("active", "activating"),
    )


def _is_locked(path: Path) -> bool:
    """Return whether somebody holds a lock on a file; it is not asked for, which would hold it."""
    try:
        inode = f":{path.stat().st_ino} "
        return any(inode in line for line in LOCKS.read_text().splitlines())
    except OSError:
        return False
