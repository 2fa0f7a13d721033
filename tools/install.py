"""`python3 install.py PARTS DIRECTORY`: join what `stage` cut, check it, and install it.

Needs nothing but Python 3.10: it is copied to the box beside the parts. `DIRECTORY` becomes a
virtual environment. No network is used. What is damaged or missing is named, and nothing is
installed then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONTENTS = "contents.json"
BLOCK = 1 << 20


class Damaged(Exception):
    """Something is not as it was staged; the message says what, and what to do."""


def join(parts: Path, directory: Path) -> list[Path]:
    """Write the files that were staged in `parts` to `directory`; return them.

    Raises:
        Damaged: A part or a file is missing, or is not what it was.
    """
    contents = read_contents(parts)
    for part in contents["parts"]:
        check(parts / part["name"], part, f"carry {part['name']} here once more")
    stream = _bytes_of([parts / part["name"] for part in contents["parts"]])
    made: list[Path] = []
    rest = b""
    for file in contents["files"]:
        path = directory / Path(file["name"]).name
        left = file["bytes"]
        with path.open("wb") as out:
            while left:
                block = rest or next(stream, b"")
                if not block:
                    raise Damaged(f"{file['name']}: the parts end before it does; stage anew")
                out.write(block[:left])
                rest = block[left:]
                left -= min(left, len(block))
        check(path, file, "stage anew")
        made.append(path)
    return made


def read_contents(parts: Path) -> dict[str, Any]:
    """Return what was staged.

    Raises:
        Damaged: Nobody says what.
    """
    try:
        contents: dict[str, Any] = json.loads((parts / CONTENTS).read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged(f"{parts / CONTENTS}: cannot be read: {error}; carry it here") from error
    return contents


def check(path: Path, wanted: dict[str, Any], advice: str) -> None:
    """Make sure that a file is what it was.

    Raises:
        Damaged: It is not.
    """
    try:
        found = describe(path)
    except OSError as error:
        raise Damaged(f"{path}: cannot be read: {error.strerror}; {advice}") from error
    for key in ("bytes", "sha256"):
        if found[key] != wanted[key]:
            raise Damaged(f"{path}: {key}: found {found[key]}, staged {wanted[key]}; {advice}")


def describe(path: Path) -> dict[str, Any]:
    """Return a file's name, size and checksum."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _bytes_of(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block


def main() -> int:
    """Install; 0 if all is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", type=Path, metavar="PARTS", help="where the parts are")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="becomes the environment")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheels-") as name:
        try:
            wheels = join(arguments.parts, Path(name))
            python = read_contents(arguments.parts)["python"]
        except Damaged as damage:
            print(f"error: {damage}", file=sys.stderr)
            return 1
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if python != here:
            print(f"error: staged for Python {python}, this is {here}", file=sys.stderr)
            return 1
        venv.create(arguments.directory, with_pip=True)
        pip = [str(arguments.directory / "bin" / "python"), "-m", "pip", "--isolated", "install"]
        flags = ["--no-index", "--no-deps", "--quiet", "--disable-pip-version-check"]
        return subprocess.run([*pip, *flags, *map(str, wheels)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
