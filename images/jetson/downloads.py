"""NVIDIA's two tarballs: are they what their names say, do they belong together, are they whole?"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from images import ImageError
from images.provision import need_file

BSP, ROOTFS = "Jetson_Linux", "Tegra_Linux_Sample-Root-Filesystem"
_BLOCK = 1 << 20
_SUM = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>\S+)")
_RELEASE = re.compile(r"# R(?P<major>\d+) \(release\), REVISION: (?P<revision>\d+(\.\d+)*),")


@dataclass(frozen=True)
class Downloads:
    """What was fetched.

    Attributes:
        bsp: NVIDIA's drivers, boot loaders and tools; `Jetson_Linux_R36.4.3_aarch64.tbz2`.
        rootfs: Ubuntu; `Tegra_Linux_Sample-Root-Filesystem_R36.4.3_aarch64.tbz2`.
        sums: Checksums of both, as sha256sum writes them.
    """

    bsp: Path
    rootfs: Path
    sums: Path

    def check(self) -> str:
        """Return which L4T they are, such as "36.4.3", once all that can be known is known.

        Raises:
            ImageError: A file is missing, is another one, or was changed.
        """
        for option in ("bsp", "rootfs", "sums"):
            need_file(option, getattr(self, option))
        versions = (_version_in_name(self.bsp, BSP), _version_in_name(self.rootfs, ROOTFS))
        if versions[0] != versions[1]:
            raise ImageError(
                f"{self.bsp.name} is L4T {versions[0]}, and {self.rootfs.name} is {versions[1]};"
                " fetch both from the same page of NVIDIA's"
            )
        sums = _read_sums(self.sums)
        for path in (self.bsp, self.rootfs):
            _check_sum(path, sums, self.sums)
        return versions[0]


def read_release(path: Path) -> str:
    """Return which L4T a file `nv_tegra_release` says.

    Raises:
        ImageError: There is none, or it says nothing.
    """
    first = path.read_text(errors="replace").partition("\n")[0] if path.is_file() else ""
    found = _RELEASE.match(first)
    if found is None:
        raise ImageError(f"{path}: is missing, or does not say which L4T this is: {first[:80]!r}")
    return f"{found['major']}.{found['revision']}"


def is_same(one: str, other: str) -> bool:
    """Tell whether two say the same L4T: 36.4 is 36.4.0."""
    return _numbers(one) == _numbers(other)


def _numbers(version: str) -> list[int]:
    numbers = [int(each) for each in version.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return numbers


def _version_in_name(path: Path, kind: str) -> str:
    pattern = rf"{re.escape(kind)}_r(?P<version>\d+(\.\d+)+)_aarch64\.tbz2"
    found = re.fullmatch(pattern, path.name, re.IGNORECASE)  # some are offered in small letters
    if found is None:
        raise ImageError(
            f"{path.name}: wanted a name such as {kind}_R36.4.3_aarch64.tbz2, as NVIDIA gave it"
        )
    return found["version"]


def _read_sums(path: Path) -> dict[str, str]:
    found = (_SUM.fullmatch(line.strip()) for line in path.read_text(errors="replace").splitlines())
    return {Path(each["name"]).name: each["digest"].lower() for each in found if each}


def _check_sum(path: Path, sums: dict[str, str], said_by: Path) -> None:
    wanted = sums.get(path.name)
    if wanted is None:
        raise ImageError(
            f"{said_by}: has no line for {path.name}; wanted: its sha256, two spaces, its name"
        )
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != wanted:
        raise ImageError(
            f"{path}: was damaged or changed: its sha256 is {digest.hexdigest()}, and {said_by}"
            f" says {wanted}; fetch it again"
        )
