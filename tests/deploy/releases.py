"""Layers of machines that hold a release: the appliance in a virtual environment of its own.

As on a box: `/opt/appliance/releases/VERSION`, to which `/opt/appliance/current/release` leads.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from deploy.machines import Run, layer

DIRECTORY, CURRENT = "/opt/appliance/releases", "/opt/appliance/current/release"


def with_release(cache: Path, below: Sequence[Path], wheels: Path) -> Path:
    """Return a layer with the release that lies in a directory of wheels, and all that it needs."""
    (wheel,) = wheels.glob("appliance-*.whl")
    version = wheel.name.split("-")[1]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]

    def prepare(root: Path, run: Run) -> None:
        release = f"{DIRECTORY}/{version}"
        there = root / "wheels"
        shutil.copytree(wheels, there)
        run(["python3", "-m", "venv", release])
        pip = [f"{release}/bin/python", "-m", "pip", "install", "--quiet"]
        run([*pip, "--no-index", "--find-links=/wheels", "appliance[server]"])
        shutil.rmtree(there)
        current = root / CURRENT.lstrip("/")
        current.parent.mkdir()
        current.symlink_to(release)

    name = f"release-{version}-{digest}-linked"
    for former in cache.glob("release-*"):
        if former.name != name:
            shutil.rmtree(former)
    return layer(cache, name, below, prepare)
