"""`python -m tools.release [TARGET...]`: make `dist/appliance-VERSION/` from the last commit."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.install_release import NAMESPACE, SIGNATURE
from tools.release import ReleaseError
from tools.release.archive import SUMS, pack, write_requirements, write_sums
from tools.release.bill import bill
from tools.release.locks import read_lock, server_lock
from tools.release.targets import PYTHONS, Target, chosen
from tools.release.wheels import (
    Python,
    Workshop,
    download,
    find_pythons,
    prove_complete,
)

INSTALLS = "install_release.py"
_VERSION = re.compile(r'^__version__ = "(?P<version>[0-9A-Za-z.+]+)"$', re.MULTILINE)


def release(
    targets: Sequence[Target], pythons: dict[str, Python], distributions: Path, key: Path | None
) -> Path:
    """Make a release of the last commit; return its folder.

    Raises:
        ReleaseError: It cannot be made; nothing of it is left then.
    """
    if dirty := _git("status", "--porcelain"):
        raise ReleaseError(f"commit these first, a release is made of a commit:\n{dirty}")
    commit = _git("rev-parse", "HEAD")
    timestamp_s = int(_git("log", "-1", "--format=%ct"))
    os.environ["SOURCE_DATE_EPOCH"] = str(timestamp_s)
    distributions = distributions.resolve()  # compilers run elsewhere
    distributions.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=distributions, prefix=".release-") as name:
        scratch = Path(name)
        source = _export(scratch / "source")
        version = _version(source)
        say(f"appliance {version}, commit {commit[:12]}")
        made = scratch / f"appliance-{version}"
        made.mkdir()
        houses = _stock(targets, pythons, source, scratch)
        for target, house in houses.items():
            tar = made / target.tar_name(version)
            pack(house, tar, timestamp_s=timestamp_s)
            say(f"{tar.name}: {tar.stat().st_size / 1e6:.1f} MB")
        (made / "sbom.cdx.json").write_text(bill(houses, commit=commit, timestamp_s=timestamp_s))
        shutil.copy(source / "tools" / INSTALLS, made)
        write_sums(made, list(made.iterdir()))
        if key is not None:
            sign(made / SUMS, key)
        final = distributions / made.name
        if final.exists():
            shutil.rmtree(final)
        return made.rename(final)


def _stock(
    targets: Sequence[Target], pythons: dict[str, Python], source: Path, scratch: Path
) -> dict[Target, Path]:
    """Fill the wheelhouse of each target; return where they are."""
    houses: dict[Target, Path] = {}
    for tag, python in pythons.items():
        pins = read_lock(source / server_lock(tag))
        workshop = Workshop(python, source, scratch / tag)
        for target in targets:
            if target.python != tag:
                continue
            house = houses[target] = scratch / str(target)
            wheels = house / "wheels"
            wheels.mkdir(parents=True)
            download(target, pins, wheels)
            say(f"{target}: {len(list(wheels.iterdir()))} wheels downloaded")
            compiled = workshop.compile(target, pins, wheels)
            say(f"{target}: compiled {', '.join(wheel.name for wheel in compiled)}")
            prove_complete(target, wheels, write_requirements(house))
    return houses


def _export(directory: Path) -> Path:
    """Write the last commit's files to a directory."""
    tar = directory.with_suffix(".tar")
    _git("archive", f"--output={tar}", "HEAD")
    with tarfile.open(tar) as archive:
        archive.extractall(directory)  # noqa: S202  # our own
    return directory


def _version(source: Path) -> str:
    found = _VERSION.search((source / "appliance" / "__init__.py").read_text())
    if found is None:
        raise ReleaseError('appliance/__init__.py: has no line `__version__ = "..."`')
    return found["version"]


def sign(sums: Path, key: Path) -> None:
    """Sign the checksums; ssh-keygen asks for a passphrase, or an agent, by itself.

    Raises:
        ReleaseError: That cannot be done.
    """
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(sums)]
    try:
        signed = subprocess.run(command, check=False).returncode == 0
    except OSError as error:
        raise ReleaseError(f"ssh-keygen: {error.strerror}; install OpenSSH's client") from error
    if not signed or not sums.with_name(SIGNATURE).exists():
        raise ReleaseError(f"{key}: cannot sign; ssh-keygen has said why")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode != 0:
        raise ReleaseError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.monotonic() - _BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Make a release; 0 if it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", nargs="*", metavar="TARGET", help="such as aarch64-cp311 (all)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="ssh key that signs (unsigned)")
    parser.add_argument("--python", action="append", metavar="COMMAND", help="(python3.10 ...)")
    parser.add_argument("--into", type=Path, default=Path("dist"), metavar="DIRECTORY")
    arguments = parser.parse_args()
    defaults = [f"python{tag[2]}.{tag[3:]}" for tag in PYTHONS]
    try:
        targets = chosen(arguments.target)
        if arguments.key is not None and not arguments.key.is_file():
            raise ReleaseError(f"{arguments.key}: no such file; --key wants an ssh key")  # noqa: TRY301
        wanted = sorted({target.python for target in targets})
        pythons = find_pythons(arguments.python or defaults, wanted)
        made = release(targets, pythons, arguments.into, arguments.key)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say("done")
    if arguments.key is None:
        print(
            "warning: UNSIGNED: no robot installs this release as it is; sign it with"
            " `make release KEY=...`",
            file=sys.stderr,
        )
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
