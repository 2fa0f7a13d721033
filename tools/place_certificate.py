"""`python3 - RUN FILE... < place_certificate.py`: pushed certificates are used from now on.

```
/etc/appliance/tls/pushed/RUN/FILE                    as they came, each run's own
/etc/appliance/tls/sets/CONTENT/certificate.pem, certificate.key, client-ca.pem
/etc/appliance/tls/current -> sets/CONTENT
```

A certificate, its key and who signs those of clients are one set, in a folder of its own; `current`
leads to it from one moment to the next. Whoever looks finds files that belong together, after a
power cut at any step too. What is not pushed stays in the set as it was. A set is used if the
appliance's own command says that clients could take what was pushed; one run does this at a time.
Prints `changed` or `unchanged`. Runs as root; needs Python 3.10 and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

TLS = Path("/etc/appliance/tls")
USER = "appliance"
CHECK_S = 120
CERTIFICATE, KEY, CLIENT_CA = "certificate.pem", "certificate.key", "client-ca.pem"

Check = Callable[[Path, list[str]], None]
"""Raises `Refused` if clients could not take files of a folder, of which these are new."""


class Refused(Exception):
    """What was pushed is not used; the message says why."""


def place(tls: Path, run: str, names: list[str], uid: int, gid: int, check: Check) -> bool:
    """Let these of the files that a run has pushed be used, with what is used beside them.

    Args:
        uid: Who owns keys, which nobody else reads.
        gid: The group that reads the rest.

    Returns:
        Whether others were used.

    Raises:
        OSError: It cannot be done. Those are used that were.
        Refused: Likewise: clients could not take them.
    """
    with _alone(tls):
        current, sets = tls / "current", tls / "sets"
        pushed = tls / "pushed" / run
        files = _read(current) | {name: (pushed / name).read_bytes() for name in names}
        made, partial = sets / _name(files), sets / ".partial"
        is_whole = _name(_read(made)) == made.name
        if not is_whole:
            shutil.rmtree(partial, ignore_errors=True)  # of one that was cut short
            _make(sets, gid)
            _make(partial, gid)
            for name, content in files.items():
                _write(partial / name, content, uid, gid)
            _sync(partial)
        try:
            check(made if is_whole else partial, names)
        except Refused:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if not is_whole:
            shutil.rmtree(made, ignore_errors=True)  # one that has lost files
            partial.rename(made)
            _sync(sets)
        changed = not current.is_symlink() or current.readlink() != made.relative_to(tls)
        if changed:
            link = tls / ".current"
            link.unlink(missing_ok=True)
            link.symlink_to(made.relative_to(tls))
            link.rename(current)
            _sync(tls)
        for other in set(sets.iterdir()) - {made}:
            shutil.rmtree(other, ignore_errors=True)  # else the next one removes it
        return changed or not is_whole


def by(command: str) -> Check:
    """Return what asks the appliance's own command."""

    def check(folder: Path, names: list[str]) -> None:
        words = [command, "keys", "check-certificate", str(folder / CERTIFICATE), str(folder / KEY)]
        if CLIENT_CA in names:
            words.append(f"--client-ca={folder / CLIENT_CA}")
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=CHECK_S,
        )
        if done.returncode:
            raise Refused(done.stdout.strip())

    return check


@contextlib.contextmanager
def _alone(tls: Path) -> Generator[None, None, None]:
    """Wait until no other run does anything here, and let none do so meanwhile."""
    descriptor = os.open(tls, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def _name(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _make(folder: Path, gid: int) -> None:
    folder.mkdir(mode=0o750, exist_ok=True)
    os.chown(folder, -1, gid)


def _write(path: Path, content: bytes, uid: int, gid: int) -> None:
    is_secret = path.suffix == ".key"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(descriptor, uid if is_secret else -1, gid)
        os.fchmod(descriptor, 0o600 if is_secret else 0o640)
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    """Let what was done in a folder come before what is done next, if the power is cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> int:
    """Place them; 0 if they are used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", metavar="RUN", help="folder that they were pushed to")
    parser.add_argument("names", nargs="+", metavar="FILE", choices=(CERTIFICATE, KEY, CLIENT_CA))
    parser.add_argument("--command", default="/opt/appliance/current/release/bin/appliance")
    arguments = parser.parse_args()
    os.umask(0o022)
    try:
        user, check = pwd.getpwnam(USER), by(arguments.command)
        changed = place(TLS, arguments.run, arguments.names, user.pw_uid, user.pw_gid, check)
    except (OSError, KeyError, Refused, subprocess.TimeoutExpired) as error:
        print(f"error: {error}; what was used is used", file=sys.stderr)
        return 1
    print("changed" if changed else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
