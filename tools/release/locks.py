"""`python -m tools.release.locks`: which versions a release has, each with its hashes.

In `requirements/`: `server-cpXYZ.txt` what a robot gets (the same for both architectures),
`release.txt` what makes the release, `build.txt` what compiles wheels. None holds an index address.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from attrs import frozen

from tools.release import ReleaseError
from tools.release.targets import PYTHONS, Target, canonical

# What has no wheel for each target: it is compiled here, from the source that the lock names.
COMPILED = ("hdrhistogram",)
EXTRAS = ("images", "server")
INSTALLER = "uv"  # goes along, and is not installed
HEADER = "# Made by `make locks`.\n"
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+)$")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}$")


@frozen
class Pin:
    """One package of a lock."""

    name: str
    version: str
    hashes: tuple[str, ...]  # as pip's options

    def __str__(self) -> str:
        return " ".join((f"{self.name}=={self.version}", *self.hashes))


def server_lock(python: str) -> Path:
    """Return where the lock of the server for a Python is, from the root of the repository."""
    return Path("requirements") / f"server-{python}.txt"


def read_lock(path: Path) -> list[Pin]:
    """Return what a lock for one Python pins.

    Raises:
        ReleaseError: A line is no pinned version with hashes, or there is no such file.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; run `make locks`") from error
    lines = [line.partition(" #")[0] for line in text.splitlines() if line[:1] != "#"]
    entries = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [_pin(path, entry) for entry in entries if entry.strip()]


def _pin(path: Path, entry: str) -> Pin:
    head, *hashes = entry.split()
    found = _PIN.match(head)
    if found is None or not hashes or not all(map(_HASH.match, hashes)):
        raise ReleaseError(
            f"{path}: found {entry[:80]!r}, wanted NAME==VERSION and hashes; run `make locks`"
        )
    return Pin(canonical(found["name"]), found["version"], tuple(hashes))


def lock(inputs: Iterable[str], output: Path, *options: str, text: str | None = None) -> None:
    """Choose the newest versions and write them; what is locked already stays unless it must not.

    Raises:
        ReleaseError: There is no choice that fits; uv has said why.
    """
    print(f"locking {output}", file=sys.stderr)
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    done = subprocess.run(
        [*command, "--output-file", str(output), *options, *inputs],
        input=text,
        text=True,
        check=False,
        stdout=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise ReleaseError(f"{output}: cannot be locked")
    output.write_text(HEADER + output.read_text().removeprefix(HEADER))


def main() -> int:
    """Lock all; 0 if that could be done."""
    upgrade = ["--upgrade"] if "--upgrade" in sys.argv[1:] else []
    build_system = tomllib.loads(Path("pyproject.toml").read_text())["build-system"]["requires"]
    requirements = Path("requirements")
    # For whichever Python runs the release, and for those that compile.
    everywhere = ["--universal", "--python-version", "3.10", *upgrade]
    newer = ["--universal", "--python-version", "3.11", *upgrade]  # as ansible-core needs
    try:
        lock(["requirements/release.in"], requirements / "release.txt", *everywhere)
        lock(["requirements/ansible.in"], requirements / "ansible.txt", *newer)
        lock(
            ["requirements/build.in", "-"],
            requirements / "build.txt",
            *everywhere,
            text="\n".join(build_system),
        )
        for python in PYTHONS:
            # What there are wheels of for aarch64, there are for x86_64: the release looks.
            target = Target("aarch64", python)
            options = [f"--python-version={target.python_version}", "--only-binary=:all:"]
            options += [f"--python-platform={target.platform}", *upgrade]
            options += [f"--no-binary={name}" for name in COMPILED]
            options += [f"--extra={extra}" for extra in EXTRAS]
            inputs = ["pyproject.toml", "requirements/server.in"]
            lock(inputs, server_lock(python), *options)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
