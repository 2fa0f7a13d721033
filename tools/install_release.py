"""`python3 install_release.py RELEASE --root /opt/appliance --allowed-signers FILE`.

Checks a release and installs it, on a robot: needs Python 3.10, OpenSSH's `ssh-keygen`, and no
network. `RELEASE` is a folder with `SHA256SUMS`, its signature, and the wheelhouse for this robot;
others may be missing. The signature, the wheelhouse and each file in it are checked before any of
it is run. Then `ROOT/releases/VERSION` becomes a virtual environment, or `VERSION-system` one that
sees the system's packages.

It is built under another name and renamed last: a folder with the name of a version is complete,
whatever happened. What was cut short is cleared away by the next run. Which release is used
(`ROOT/current`) is somebody else's business. One that was damaged since is replaced, unless what
runs is made of it.

Prints one line: `installed FOLDER`, or `unchanged FOLDER` if that release was there already, whole.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any, NamedTuple

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
NAMESPACE = "appliance-release"  # a signature for another purpose does not count
RECORD, COMMAND = "release.json", "bin/appliance"
SYSTEM = "-system"  # no version has a dash: the two kinds of one version are beside each other
BLOCK = 1 << 20
MAX_SUMS_BYTES = 1 << 20
# Compiled bytecode, and what is needed for a moment, over what the wheels hold.
ROOM = 1.4
PROOF = "import appliance.cli, appliance.app, onnxruntime"
_LINE = re.compile(r"(?P<sum>[0-9a-f]{64})  (?P<name>[A-Za-z0-9._+/!-]+)$")
_TAR = re.compile(
    r"appliance-(?P<version>[0-9A-Za-z][0-9A-Za-z.+]*)-(?P<architecture>x86_64|aarch64)"
    r"-(?P<python>cp\d+)\.tar$"
)


# What those who read archives end with, of whatever bytes.
_NO_ARCHIVE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError),
    *(ValueError, NotImplementedError, RuntimeError),
)


class Refused(Exception):
    """The release is not installed; the message says why, and what to do."""


class Wheelhouse(NamedTuple):
    """The tar of a release for this robot."""

    path: Path
    version: str
    sha256: str


def signer_of(release: Path, allowed_signers: Path) -> str:
    """Return who signed a release, as the file of allowed signers calls them.

    Raises:
        Refused: Nobody, somebody else, or something else was signed.
    """
    signature = release / SIGNATURE
    if not signature.exists():
        raise Refused(f"{release}: is not signed: {SIGNATURE} is missing; carry it here")
    if not allowed_signers.is_file():
        raise Refused(f"{allowed_signers}: no such file; it names the keys that may sign releases")
    who = ["find-principals", "-s", str(signature), "-f", str(allowed_signers)]
    found = _ssh_keygen(who)
    if found.returncode != 0:
        raise Refused(
            f"{signature}: is signed by a key that {allowed_signers} does not name"
            f" ({_last_line(found.stderr)})"
        )
    principal = found.stdout.decode().splitlines()[0]
    verify = ["verify", "-s", str(signature), "-f", str(allowed_signers), "-n", NAMESPACE]
    verified = _ssh_keygen([*verify, "-I", principal], (release / SUMS).read_bytes())
    if verified.returncode != 0:
        raise Refused(
            f"{release / SUMS}: is not what {principal} signed as {NAMESPACE}; carry the release"
            f" here once more ({_last_line(verified.stderr)})"
        )
    return principal


def _ssh_keygen(words: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", *words],  # noqa: S607
            input=stdin,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise Refused(f"ssh-keygen: {error.strerror}; install OpenSSH's client") from error


def _last_line(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or ["ssh-keygen says no more"])[-1]


def read_sums(path: Path) -> dict[str, str]:
    """Return the checksum of each file, by name.

    Raises:
        Refused: It is no list of checksums.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SUMS_BYTES).decode()
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read: {error}; carry the release here anew") from error
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            raise Refused(f"{path}: found {line[:80]!r}, wanted a checksum and a name")
        found[match["name"]] = match["sum"]
    return found


def choose(release: Path, sums: dict[str, str], architecture: str, python: str) -> Wheelhouse:
    """Return the wheelhouse for a robot.

    Args:
        architecture: As the machine names itself, such as "aarch64".
        python: As wheels name it, such as "cp311".

    Raises:
        Refused: The release has none, or it is not here.
    """
    made = {name: match for name in sums if (match := _TAR.match(name))}
    if not made:
        raise Refused(f"{release / SUMS}: names no wheelhouse")
    here = f"this robot is {architecture} with {python}"
    by_architecture = [match for match in made.values() if match["architecture"] == architecture]
    if not by_architecture:
        others = ", ".join(sorted({match["architecture"] for match in made.values()}))
        raise Refused(f"{release}: wrong architecture: {here}, the release is for {others}")
    fitting = [match for match in by_architecture if match["python"] == python]
    if not fitting:
        others = ", ".join(sorted(match["python"] for match in by_architecture))
        raise Refused(
            f"{release}: wrong Python: {here}, the release is for {others}; run this with one of"
            " those"
        )
    if len(fitting) > 1:
        raise Refused(f"{release / SUMS}: names several versions: {', '.join(sorted(made))}")
    (match,) = fitting
    name = match.string
    if not (release / name).is_file():
        found = [path.name for path in sorted(release.iterdir()) if _TAR.match(path.name)]
        raise Refused(f"{release}: {here}, and {name} is not there, but {found}; carry it here")
    return Wheelhouse(release / name, match["version"], sums[name])


def open_checked(path: Path, sha256: str) -> IO[bytes]:
    """Open a file that is what was signed.

    Raises:
        Refused: It is not.
    """
    file = path.open("rb")
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    if digest.hexdigest() != sha256:
        file.close()
        raise Refused(
            f"{path}: was damaged or changed: its sha256 is {digest.hexdigest()}, signed was"
            f" {sha256}; carry it here once more"
        )
    file.seek(0)
    return file


def unpack(tar: IO[bytes], directory: Path) -> None:
    """Unpack a wheelhouse and check each file in it.

    Raises:
        Refused: There is something else in it than there should be, or it is cut off.
    """
    (directory / "wheels").mkdir()
    try:
        with tarfile.open(fileobj=tar, mode="r:") as archive:
            for entry in archive:
                _unpack_one(archive, entry, directory)
    except _NO_ARCHIVE as error:
        raise Refused(f"{tar.name}: is no whole tar ({error}); make the release anew") from error
    if not (directory / SUMS).is_file():
        raise Refused(f"{tar.name}: has no {SUMS}, or is cut off before it; make the release anew")
    sums = read_sums(directory / SUMS)
    unpacked = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    if unpacked != {SUMS, *sums}:
        raise Refused(f"{tar.name}: its files are not those that its {SUMS} names")
    for name, sha256 in sums.items():
        open_checked(directory / name, sha256).close()


def _unpack_one(archive: tarfile.TarFile, entry: tarfile.TarInfo, directory: Path) -> None:
    plain = re.fullmatch(r"(wheels/)?[A-Za-z0-9][A-Za-z0-9._+!-]*", entry.name)
    source = archive.extractfile(entry) if entry.isreg() and plain else None
    if source is None:
        raise Refused(
            f"{archive.name}: {entry.name!r} does not belong into a wheelhouse; make the release"
            " anew"
        )
    with source, (directory / entry.name).open("wb") as out:
        shutil.copyfileobj(source, out, BLOCK)


def check_room(wheels: Path) -> None:
    """Make sure that what is in the wheels fits beside them.

    Raises:
        Refused: It does not, or one is no wheel.
    """
    unpacked = 0
    for wheel in wheels.iterdir():
        with _opened(wheel) as archive:
            unpacked += sum(entry.file_size for entry in archive.infolist())
    needed, free = int(unpacked * ROOM), shutil.disk_usage(wheels).free
    if free < needed:
        raise _full(wheels, f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")


@contextlib.contextmanager
def _opened(wheel: Path) -> Generator[zipfile.ZipFile, None, None]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except _NO_ARCHIVE as error:
        raise Refused(
            f"{wheel.name}: is no whole wheel ({error}); make the release anew"
        ) from error


def _full(where: Path, detail: str) -> Refused:
    return Refused(f"{where}: the disk is full: {detail}; remove releases that are not used")


def make_environment(scratch: Path, *, system_site_packages: bool) -> Path:
    """Make a virtual environment of an unpacked wheelhouse, without a network; return it.

    Raises:
        Refused: It cannot be made, or the appliance does not start in it.
    """
    directory = scratch / "environment"
    see = ["--system-site-packages"] if system_site_packages else []
    uv = _uv(scratch)
    flags = ["--offline", "--no-config", "--quiet", f"--cache-dir={scratch / 'cache'}"]
    create = ["venv", "--relocatable", "--no-python-downloads", f"--python={sys.executable}", *see]
    _must([uv, *create, *flags, str(directory)])
    lock = [f"--find-links={scratch / 'wheels'}", f"--requirement={scratch / 'requirements.txt'}"]
    install = ["pip", "install", "--no-index", "--require-hashes", "--only-binary=:all:", *lock]
    python = str(directory / "bin" / "python")
    _must([uv, *install, "--compile-bytecode", "--link-mode=hardlink", *flags, "--python", python])
    _must([python, "-I", "-c", PROOF], "the appliance does not start in it")
    return directory


def _uv(scratch: Path) -> str:
    """Unpack the installer that came along."""
    for wheel in (scratch / "wheels").glob("uv-*.whl"):
        with _opened(wheel) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".data/scripts/uv"):
                    path = scratch / "uv"
                    with archive.open(entry) as source, path.open("wb") as out:
                        shutil.copyfileobj(source, out, BLOCK)
                    path.chmod(0o755)
                    return str(path)
    raise Refused("the wheelhouse has no uv, which installs it; make the release anew")


def _must(command: list[str], what: str = "it cannot be installed") -> None:
    # Nothing that the caller has set says where packages come from.
    kept = {key: os.environ[key] for key in ("HOME", "PATH", "TMPDIR") if key in os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept)
    if done.returncode == 0:
        return
    said = (done.stderr or done.stdout).strip()
    if os.strerror(errno.ENOSPC) in said:
        raise _full(Path(command[0]), said.splitlines()[-1])
    raise Refused(f"{what}: {' '.join(command)} failed:\n{said}")


@contextlib.contextmanager
def _alone(releases: Path) -> Generator[Path, None, None]:
    """Let nobody else install meanwhile; give a folder to work in, and clear it away."""
    releases.mkdir(parents=True, exist_ok=True)
    scratch = releases / ".installing"
    with (releases / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"{releases}: another install runs; wait until it is over") from error
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was cut short
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def install(
    house: Wheelhouse, root: Path, *, signer: str | None, system_site_packages: bool
) -> tuple[Path, bool]:
    """Install a wheelhouse; return its folder, and whether it was not there before, or not whole.

    Raises:
        Refused: It cannot be installed; nothing of it is left then.
    """
    record = {
        "version": house.version,
        "wheelhouse": house.path.name,
        "sha256": house.sha256,
        "signer": signer,
        "system_site_packages": system_site_packages,
    }
    final = root / "releases" / f"{house.version}{SYSTEM if system_site_packages else ''}"
    with _alone(final.parent) as scratch, open_checked(house.path, house.sha256) as tar:
        found = _read_record(final)
        is_whole = found is not None and (final / COMMAND).is_file()
        if found not in (None, record):
            raise Refused(
                f"{final}: another release of this version is installed: {found}, this is"
                f" {record}; give it a version of its own"
            )
        if is_whole:
            return final, False
        if link := _link_to(final, root):
            raise Refused(
                f"{final}: is damaged, and {root / link} needs it; deploy another version, and then"
                " this one again"
            )
        unpack(tar, scratch)
        check_room(scratch / "wheels")
        made = make_environment(scratch, system_site_packages=system_site_packages)
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        os.sync()  # else a power cut could leave the name without what is in it
        if final.exists():  # and is damaged
            final.rename(scratch / "damaged")
        made.rename(final)
        _sync_folder(final.parent)
    return final, True


def _read_record(release: Path) -> dict[str, Any] | None:
    """Return what a release is made of; None: nobody knows."""
    try:
        record: Any = json.loads((release / RECORD).read_bytes())
        return record if isinstance(record["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link_to(release: Path, root: Path) -> str:
    """Return the link to what runs, if it is made of a release; else nothing."""
    links = ("current", "next")
    return next((each for each in links if (root / each / "release").resolve() == release), "")


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def main() -> int:
    """Check and install; 0 if it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("release", type=Path, metavar="RELEASE", help="folder of the release")
    parser.add_argument("--root", type=Path, required=True, metavar="DIRECTORY")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--allowed-signers", type=Path, metavar="FILE", help="see ssh-keygen(1)")
    trust.add_argument("--allow-unsigned", action="store_true", help="check no signature")
    parser.add_argument("--check", action="store_true", help="check only, install nothing")
    parser.add_argument(
        "--system-site-packages", action="store_true", help="see the system's (Jetson: TensorRT)"
    )
    arguments = parser.parse_args()
    os.umask(0o022)  # whoever the appliance runs as has to read it
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    try:
        signer = None
        if not arguments.allow_unsigned:
            signer = signer_of(arguments.release, arguments.allowed_signers)
        sums = read_sums(arguments.release / SUMS)
        house = choose(arguments.release, sums, platform.machine(), python)
        if arguments.check:
            open_checked(house.path, house.sha256).close()
            print(f"checked {house.path}")
            return 0
        root = arguments.root.resolve()
        final, new = install(
            house, root, signer=signer, system_site_packages=arguments.system_site_packages
        )
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        refusal = _full(arguments.root, str(error)) if error.errno == errno.ENOSPC else error
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    print(f"{'installed' if new else 'unchanged'} {final}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
