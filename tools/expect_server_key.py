"""`python3 expect_server_key.py FILE NEXT KEY`: a robot's key file, for its appliance's next key.

NEXT is what FILE is, but that it expects KEY, the public key that the appliance will have. The
robot's own key stays. NEXT is written whole, mode 0600. Prints `changed` or `unchanged`. Needs
Python 3.10 and nothing else.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_LINE = re.compile(r'(?m)^server_key\s*=\s*"[^"]*"')


def expect(path: Path, made: Path, key: str) -> bool:
    """Write the file; return whether it was not there like this.

    Raises:
        ValueError: The first file names no key of an appliance.
        OSError: It cannot be read, or the other one cannot be written.
    """
    text, found = _LINE.subn(lambda _: f'server_key = "{key}"', path.read_text("ascii"))
    if found != 1:
        raise ValueError(f"{path}: is no key file of a robot; `appliance keys new` writes them")
    if made.exists() and made.read_text("ascii") == text:
        return False
    made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = made.with_name(f".{made.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(made)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return True


def main() -> int:
    """Write it; 0 if it is there."""
    path, made, key = sys.argv[1:]
    try:
        print("changed" if expect(Path(path), Path(made), key) else "unchanged")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
