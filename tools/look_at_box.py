"""`python3 - < look_at_box.py`: what a robot has, as one line of JSON. Changes nothing.

A playbook asks once and knows what is left to do; so a run that finds everything done takes two
questions. Runs as root; needs Python 3.10 and nothing else. Of keys only names are told.
"""

from __future__ import annotations

import grp
import hashlib
import json
import platform
import pwd
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT, CONFIGURATION = Path("/opt/appliance"), Path("/etc/appliance")
MODELS = Path("/var/lib/appliance/models")
UNITS = Path("/etc/systemd/system")
UNIT, REVERT = "appliance.service", "appliance-revert.service"
OF_A_DEPLOYMENT = ("release/bin/appliance", "appliance.toml", "units/appliance.service")
USER, GPU_GROUP = "appliance", "render"
FOLDERS = (
    *("/etc/appliance", "/var/lib/appliance", "/var/lib/appliance/models"),
    *("/opt/appliance/bin", "/etc/systemd/journald.conf.d"),
)
FILES = (
    *("/etc/systemd/journald.conf.d/60-appliance.conf", "/etc/sysctl.d/60-appliance.conf"),
    "/etc/nftables.conf",
)
SERVICES = ("nftables.service",)


def look(root: Path = ROOT, configuration: Path = CONFIGURATION, units: Path = UNITS) -> Any:
    """Return what is there; a part that is not there is empty. What is damaged is not there."""
    keys = configuration / "keys"
    link = configuration / "appliance.toml"
    return {
        **_base(),
        "architecture": platform.machine(),
        "python": f"cp{sys.version_info.major}{sys.version_info.minor}",
        "tools": {
            path.name: _sum(path)
            for path in (*sorted((root / "bin").glob("*.py")), units / REVERT)
            if path.is_file()
        },
        "enabled": (units / "multi-user.target.wants" / REVERT).is_symlink(),
        "releases": {
            path.parent.name: _wheelhouse(path)
            for path in sorted((root / "releases").glob("[!.]*/release.json"))
            if (path.parent / "bin/appliance").is_file()
        },
        "deployments": [
            path.name
            for path in sorted((root / "deployments").glob("[!.]*"))
            if all((path / each).exists() for each in OF_A_DEPLOYMENT)
        ],
        "is_by_hand": _is_by_hand(root / "current"),
        "serves": _release_of(root / "current") if _systemctl("is-active", UNIT) else "",
        "configuration": str(link.readlink()) if link.is_symlink() else "",
        "models": [path.parent.name for path in sorted(MODELS.glob("[!._]*/model.toml"))],
        "held": {
            "server": _names(keys / "server", ".key"),
            "authorised": _names(keys / "authorised", ".pub"),
            "outgoing": [
                f"{each.name}/{name}"
                for each in sorted((keys / "outgoing").glob("*"))
                for name in _names(each, ".key")
            ],
            "tls": (configuration / "tls" / "pushed").is_dir(),
        },
    }


def _is_by_hand(current: Path) -> bool:
    """Return whether something is installed, or is up, that no deploy has made."""
    if current.is_symlink():
        return current.parent / current.readlink().parent != current.parent / "deployments"
    return current.exists() or _is_up(UNIT)


def _is_up(unit: str) -> bool:
    """Return whether a unit runs, starts, or is to start, as far as systemd says so."""
    said = _systemctl("show", "--property=ActiveState,Job", unit).splitlines()
    return bool({*said} - {"ActiveState=inactive", "ActiveState=failed", "Job=", ""})


def _release_of(deployment: Path) -> str:
    """Return the name of the release that a deployment is made of; empty: there is none."""
    command = deployment / "release/bin/appliance"
    return (deployment / "release").resolve().name if command.is_file() else ""


def _base() -> dict[str, Any]:
    groups = {each.gr_name: each for each in grp.getgrall()}
    users = {each.pw_name: each for each in pwd.getpwall()}
    user, group = users.get(USER), groups.get(USER)
    return {
        "user": f"{user.pw_uid}:{user.pw_gid}:{user.pw_dir}:{user.pw_shell}" if user else "",
        "group": group.gr_gid if group else 0,
        "operators": group.gr_mem if group else [],
        "has_gpu_group": GPU_GROUP in groups,
        "folders": {path: _shown(Path(path)) for path in FOLDERS if Path(path).is_dir()},
        "files": {path: _sum(Path(path)) for path in FILES if Path(path).is_file()},
        "services": [
            each
            for each in SERVICES
            if _systemctl("is-enabled", each) and _systemctl("is-active", each)
        ],
    }


def _systemctl(*words: str) -> str:
    """Return what it says if all is well; there may be no systemd, as in an image that is made.

    In a chroot it ignores the question, calls that well, and says nothing.
    """
    command = ["systemctl", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout


def _shown(path: Path) -> str:
    """Return owner, group and mode, as in root:appliance:0750."""
    found = path.stat()
    try:
        return f"{path.owner()}:{path.group()}:{stat.S_IMODE(found.st_mode):04o}"
    except KeyError:
        return ""  # of somebody who is no more


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wheelhouse(record: Path) -> str:
    """Return the checksum of what a release was made of; empty: its record is damaged."""
    try:
        return str(json.loads(record.read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _names(directory: Path, suffix: str) -> list[str]:
    return sorted(path.stem for path in directory.glob(f"[!.]*{suffix}"))


if __name__ == "__main__":
    print(json.dumps(look()))
