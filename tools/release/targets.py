"""For whom a release is: an architecture and a Python. Pure."""

from __future__ import annotations

import re

from attrs import frozen

from tools.release import ReleaseError

ARCHITECTURES = ("x86_64", "aarch64")
PYTHONS = ("cp310", "cp311", "cp312")
# The C library of the oldest system that is served, and the one that our own wheels are linked to.
GLIBC_MINOR = 28
GLIBC_MINOR_BUILT = 17
_GLIBC_MINORS = (5, 12, 17, 24, 26, 27, GLIBC_MINOR)


@frozen(order=True)
class Target:
    """One architecture and one Python: one wheelhouse."""

    architecture: str
    python: str  # as in the tags of wheels: cp311

    def __str__(self) -> str:
        return f"{self.architecture}-{self.python}"

    @property
    def python_version(self) -> str:
        """Such as "3.11"."""
        return f"{self.python[2]}.{self.python[3:]}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Tags of the wheels that run there, the newest first; pip wants to hear each of them."""
        tags = [f"manylinux_2_{minor}_{self.architecture}" for minor in reversed(_GLIBC_MINORS)]
        return (*tags, f"manylinux2014_{self.architecture}")

    @property
    def platform(self) -> str:
        """What uv calls the platform."""
        return f"{self.architecture}-manylinux_2_{GLIBC_MINOR}"

    @property
    def triple(self) -> str:
        """What a compiler calls it, with the C library that is linked to."""
        return f"{self.architecture}-linux-gnu.2.{GLIBC_MINOR_BUILT}"

    @property
    def extension_suffix(self) -> str:
        """How the file of a compiled module ends."""
        return f".cpython-{self.python[2:]}-{self.architecture}-linux-gnu.so"

    def tar_name(self, version: str) -> str:
        """Return the name of the wheelhouse of a version."""
        return f"appliance-{version}-{self}.tar"


ALL = tuple(Target(arch, python) for python in PYTHONS for arch in ARCHITECTURES)


def chosen(names: list[str]) -> tuple[Target, ...]:
    """Return the targets of some names, such as "aarch64-cp311"; without names, all.

    Raises:
        ReleaseError: A name is of none.
    """
    known = {str(target): target for target in ALL}
    for name in names:
        if name not in known:
            raise ReleaseError(f"{name}: no target; there are {', '.join(known)}")
    return tuple(target for target in ALL if not names or str(target) in names)


def canonical(name: str) -> str:
    """Return a package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
