"""`python3 install.py PARTS DIRECTORY`: join what `stage` cut, check it, and install it.

Needs nothing but Python 3.10: it is copied to the box beside the parts. `DIRECTORY` becomes a
virtual environment. No network is used. What is damaged or missing, programs that lie beside the
parts among it, is named, and nothing is installed then.
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
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

CONTENTS = "contents.json"
BLOCK = 1 << 20


class NotInstalled(Exception):
    """It cannot be installed here; the message says why, and what to do."""


class Damaged(NotInstalled):
    """Something is not as it was staged."""


def install(parts: Path, directory: Path) -> None:
    """Install what was staged in `parts` into an environment.

    Raises:
        NotInstalled: It cannot be.
    """
    contents = read_contents(parts)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if contents["python"] != here:
        raise NotInstalled(
            f"staged for Python {contents['python']}, this is {here}; "
            f"run: python{contents['python']} install.py"
        )
    if find_spec("ensurepip") is None:
        raise NotInstalled(
            f"this Python has no ensurepip; on Debian: apt install python{here}-venv"
        )
    if directory.exists() and not directory.is_dir():
        raise NotInstalled(f"{directory}: is no directory; name one, or none that is there")
    for program in contents["programs"]:
        check(parts / program["name"], program, "carry all that was staged here once more")
    with tempfile.TemporaryDirectory(prefix="wheels-") as name:
        try:
            wheels = join(parts, Path(name))
        except OSError as error:
            size_mb = ceil(sum(file["bytes"] for file in contents["files"]) / 1e6)
            raise NotInstalled(
                f"{name}: {error.strerror}; set TMPDIR to where {size_mb} MB can be written"
            ) from error
        try:
            venv.create(directory, with_pip=True)
        except OSError as error:
            raise NotInstalled(f"{directory}: no environment: {error}") from error
        pip = [str(directory / "bin" / "python"), "-m", "pip", "--isolated", "install"]
        flags = ["--no-index", "--no-deps", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *flags, *map(str, wheels)], check=True)


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
    path = parts / CONTENTS
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: cannot be read: {error}; carry it here") from error
    try:
        return _contents(found)
    except (KeyError, TypeError) as error:
        raise Damaged(
            f"{path}: is of another form than this install.py knows; carry both here, as they were "
            "staged"
        ) from error


def _contents(found: Any) -> dict[str, Any]:
    """Return what `stage` wrote.

    Raises:
        KeyError, TypeError: It is something else.
    """
    if not isinstance(found["python"], str):
        raise TypeError
    lists = ("files", "parts", "programs")
    descriptions = {name: [_description(each) for each in found[name]] for name in lists}
    return {"python": found["python"], **descriptions}


def _description(found: Any) -> dict[str, Any]:
    """Return what `describe` gave.

    Raises:
        KeyError, TypeError: It is something else.
    """
    name, size, sha256 = found["name"], found["bytes"], found["sha256"]
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str)):
        raise TypeError
    if size < 0:
        raise TypeError
    return {"name": name, "bytes": size, "sha256": sha256}


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
    try:
        install(arguments.parts, arguments.directory)
    except (NotInstalled, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:  # which has said why
        print(f"error: {' '.join(map(str, error.cmd[:5]))} ... failed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
