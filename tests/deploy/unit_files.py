"""The unit and its drop-ins, as they are shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

ROLES = Path(__file__).parents[2] / "ansible/roles"
UNIT = ROLES / "appliance/files/appliance.service"
DROP_INS = {path.stem: path for path in (UNIT.parent / "drop-ins").glob("*.conf")}
NODES = ROLES / "gpu_x86/files/nvidia-device-nodes.service"


def install(directory: Path, *drop_ins: str) -> Path:
    """Put the unit, with these of its drop-ins, into a directory of units; return where it is."""
    beside = directory / f"{UNIT.name}.d"
    beside.mkdir(parents=True, exist_ok=True)
    for name in drop_ins:
        shutil.copy(DROP_INS[name], beside)
    return Path(shutil.copy(UNIT, directory))
