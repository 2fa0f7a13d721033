"""Writes wheels out of files, and smaller ones out of wheels. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a wheel, with its RECORD; return it.

    Args:
        files: By name in the wheel; METADATA and WHEEL are among them.
    """
    [about] = {name.partition("/")[0] for name in files if name.endswith(".dist-info/WHEEL")}
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    record.append(f"{about}/RECORD,,")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
        wheel.writestr(f"{about}/RECORD", "\n".join(record) + "\n")
    return path


def slim(wheel: Path, name: str, directory: Path) -> Path:
    """Write a wheel of one file of another, with all that it says of itself, licences too.

    Raises:
        KeyError: There is no such file in it.
    """
    with zipfile.ZipFile(wheel) as whole:
        names = [
            each
            for each in whole.namelist()
            if ".dist-info/" in each and not each.endswith(("/", "/RECORD"))
        ]
        files = {each: whole.read(each) for each in (name, *names)}
    return write_wheel(directory / wheel.name, files)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
