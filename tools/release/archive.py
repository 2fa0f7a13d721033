"""A wheelhouse as one tar: `wheels/`, `requirements.txt`, `SHA256SUMS`; each time the same."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path

from tools.release.locks import EXTRAS, INSTALLER
from tools.release.targets import canonical

SUMS = "SHA256SUMS"
BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_sums(directory: Path, paths: Iterable[Path]) -> None:
    """Write checksums of files below a directory, as `sha256sum --check` reads them."""
    lines = [f"{sha256(path)}  {path.relative_to(directory)}\n" for path in sorted(paths)]
    (directory / SUMS).write_text("".join(lines))


def metadata(wheel: Path) -> Message:
    """Return what a wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            name
            for name in archive.namelist()
            if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
        )
        return BytesHeaderParser().parsebytes(archive.read(name))


def write_requirements(house: Path) -> Path:
    """Write the lock of a wheelhouse: what is in `wheels/`, each with the hash of its one file."""
    lines: list[str] = []
    for wheel in (house / "wheels").iterdir():
        said = metadata(wheel)
        name = canonical(str(said["Name"]))
        if name == INSTALLER:
            continue
        extras = f"[{','.join(EXTRAS)}]" if name == "appliance" else ""
        lines.append(f"{name}{extras}=={said['Version']} --hash=sha256:{sha256(wheel)}\n")
    path = house / "requirements.txt"
    path.write_text("".join(sorted(lines)))
    return path


def pack(house: Path, tar: Path, *, timestamp_s: int) -> None:
    """Write the tar of a wheelhouse, with its checksums."""
    wheels = sorted((house / "wheels").iterdir())
    write_sums(house, [house / "requirements.txt", *wheels])
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted([house / SUMS, house / "requirements.txt", *wheels]):
            entry = tarfile.TarInfo(str(path.relative_to(house)))
            entry.size = path.stat().st_size
            entry.mtime = timestamp_s
            entry.mode = 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
