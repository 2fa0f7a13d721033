"""`python3 - FILE... < place_certificate.py`: pushed certificates are used from now on.

```
/etc/appliance/tls/pushed/FILE                        as they came, and could be used
/etc/appliance/tls/sets/CONTENT/certificate.pem, certificate.key, client-ca.pem
/etc/appliance/tls/current -> sets/CONTENT
```

A certificate, its key and who signs those of clients are one set, in a folder of its own; `current`
leads to it from one moment to the next. Whoever looks finds files that belong together, after a
power cut at any step too. What is not pushed stays in the set as it was. Prints `changed` or
`unchanged`. Runs as root; needs Python 3.10 and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import sys
from pathlib import Path

TLS = Path("/etc/appliance/tls")
USER = "appliance"


def place(tls: Path, names: list[str], uid: int, gid: int) -> bool:
    """Let these of the pushed files be used, with what is used beside them.

    Args:
        uid: Who owns keys, which nobody else reads.
        gid: The group that reads the rest.

    Returns:
        Whether others were used.

    Raises:
        OSError: It cannot be done. Those are used that were.
    """
    current, sets = tls / "current", tls / "sets"
    files = {path.name: path.read_bytes() for path in sorted(current.glob("*"))}
    files |= {name: (tls / "pushed" / name).read_bytes() for name in names}
    made = sets / _name(files)
    if not made.is_dir():
        partial = sets / ".partial"
        shutil.rmtree(partial, ignore_errors=True)  # of one that was cut short
        _make(sets, gid)
        _make(partial, gid)
        for name, content in files.items():
            _write(partial / name, content, uid, gid)
        _sync(partial)
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
    return changed


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
    os.umask(0o022)
    try:
        user = pwd.getpwnam(USER)
        changed = place(TLS, sys.argv[1:], user.pw_uid, user.pw_gid)
    except (OSError, KeyError) as error:
        print(f"error: {error}; what was used is used", file=sys.stderr)
        return 1
    print("changed" if changed else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
