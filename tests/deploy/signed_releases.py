"""Releases for this machine, signed, as `make release` makes them; further versions of one."""

from __future__ import annotations

import base64
import hashlib
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tools.install_release import NAMESPACE
from tools.release.archive import SUMS, pack, write_requirements, write_sums


def new_key(path: Path) -> Path:
    """Make a key that may sign; return it, with `allowed_signers` beside it."""
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(make, check=True)
    public = path.with_suffix(".pub").read_text()
    path.with_name("allowed_signers").write_text(f'workshop namespaces="{NAMESPACE}" {public}')
    return path


def new_release(
    wheels: Path, version: str, directory: Path, key: Path, changed: Mapping[str, tuple[str, str]]
) -> Path:
    """Make a release.

    Args:
        wheels: Of the appliance and of all that it needs.
        version: That the appliance has in it.
        directory: Where its folder goes.
        changed: Of the appliance's files: text, and what takes its place.
    """
    made = directory / f"appliance-{version}"
    made.mkdir()
    house = directory / f".{version}"
    (house / "wheels").mkdir(parents=True)
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("appliance-"):
            (house / "wheels" / wheel.name).hardlink_to(wheel)
    (ours,) = wheels.glob("appliance-*.whl")
    _write_version(ours, version, house / "wheels", changed)
    write_requirements(house)
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tar = made / f"appliance-{version}-{platform.machine()}-{python}.tar"
    pack(house, tar, timestamp_s=int(time.time()))
    shutil.rmtree(house)
    write_sums(made, [tar])
    sign(made, key)
    return made


def sign(release: Path, key: Path) -> None:
    """Sign a release anew."""
    (release / f"{SUMS}.sig").unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key)]
    subprocess.run([*command, str(release / SUMS)], check=True, capture_output=True)


def _write_version(
    wheel: Path, version: str, directory: Path, changed: Mapping[str, tuple[str, str]]
) -> None:
    """Write a wheel of another version, with some text of its files changed."""
    name, former, rest = wheel.name.split("-", 2)
    replaced = {
        f"{name}/__init__.py": (f'__version__ = "{former}"', f'__version__ = "{version}"'),
        f"{name}-{version}.dist-info/METADATA": (f"Version: {former}\n", f"Version: {version}\n"),
        **changed,
    }
    record: list[str] = []
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(directory / f"{name}-{version}-{rest}", "w") as out,
    ):
        for entry in source.namelist():
            path = entry.replace(f"{name}-{former}.dist-info", f"{name}-{version}.dist-info")
            if path.endswith(".dist-info/RECORD"):
                continue
            data = source.read(entry)
            if path in replaced:
                before, after = (text.encode() for text in replaced.pop(path))
                assert data.count(before) == 1, path
                data = data.replace(before, after)
            out.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(data)}\n")
        assert not replaced, replaced
        path = f"{name}-{version}.dist-info/RECORD"
        out.writestr(path, "".join(record) + f"{path},,\n")
