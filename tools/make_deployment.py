"""`python3 make_deployment.py NAME < DOCUMENT`: a release, a configuration and a unit, as one.

The document is JSON: `release`, the version of one that is installed; `files`, the text of each by
its path in the deployment. `ROOT/deployments/NAME` is made of them if that release accepts the
configuration. It is written under another name and renamed last: what has the name is complete,
and what was damaged since is replaced.

Runs as root; needs Python 3.10 and nothing else. Prints one line, which begins with `changed` or
`unchanged`.
"""

from __future__ import annotations

import argparse
import fcntl
import grp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

ROOT, LINK = Path("/opt/appliance"), Path("/etc/appliance/appliance.toml")
CONFIGURATION, UNIT, RELEASE = "appliance.toml", "units/appliance.service", "release"
COMMAND = "bin/appliance"
GROUP = "appliance"
CHECK_S = 60
MAX_BYTES = 4 << 20
WANTED = '{"release": VERSION, "files": {PATH: TEXT}} of at most 4 MiB, in UTF-8'
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]*")


class Refused(Exception):
    """No deployment is made; the message says why."""


def make(name: str, release: str, files: Mapping[str, str], root: Path, gid: int) -> bool:
    """Make a deployment; return whether it was not there, or not whole.

    Args:
        gid: The group that may read the configuration, beside root.

    Raises:
        Refused: It cannot be made of that; nothing of it is left then.
    """
    for each in (name, release):
        if not _NAME.fullmatch(each):
            raise Refused(f"{each!r} cannot be the name of a deployment or a release")
    if lacking := [each for each in (CONFIGURATION, UNIT) if each not in files]:
        raise Refused(f"files: found {sorted(files)}, wanted {' and '.join(lacking)} as well")
    made = root / "deployments" / name
    partial, removed = made.with_name(f".{name}"), made.with_name(f".removed-{name}")
    if all((made / each).exists() for each in (f"{RELEASE}/{COMMAND}", CONFIGURATION, UNIT)):
        return False
    command = root / "releases" / release / COMMAND
    if not command.exists():
        raise Refused(f"{command}: is missing; deploy the release again")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _cleared(partial).mkdir(mode=0o755)
        (partial / RELEASE).symlink_to(Path("../../releases", release))
        for path, text in files.items():
            _write(partial, path, text)
        configuration = partial / CONFIGURATION
        os.chown(configuration, -1, gid)
        configuration.chmod(0o640)
        _check(command, configuration)
        os.sync()  # else a power cut could leave the name without what is in it
        if made.exists():  # and is damaged
            made.rename(_cleared(removed))
        partial.rename(made)
    finally:
        for each in (partial, removed):
            _cleared(each)
    return True


def _cleared(path: Path) -> Path:
    """Return a path where nothing is any more, be it of one that was cut short."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def read(text: bytes) -> tuple[str, dict[str, str]]:
    """Return the release and the files that a document names.

    Raises:
        Refused: It is no such document.
    """
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the document is no JSON: {error}; wanted {WANTED}") from error
    try:
        release, files = found["release"], found["files"]
        if all(isinstance(each, str) for each in (release, *files.values())):
            return release, files
    except (TypeError, KeyError, AttributeError):
        pass
    raise Refused(f"the document is not as it should be: found {text[:80]!r}; wanted {WANTED}")


def _write(directory: Path, path: str, text: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or parts[0] == "/" or "\0" in path:
        raise Refused(f"{path!r}: is no path inside a deployment")
    if parts[0] == RELEASE:
        raise Refused(f"{path!r}: leads out of the deployment, into its release; leave it out")
    place = directory.joinpath(*parts)
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        with place.open("x", encoding="utf-8") as file:  # follows no link
            file.write(text)
    except UnicodeError as error:
        raise Refused(f"{path!r}: is no text: {error}") from error
    place.chmod(0o644)


def _check(command: Path, configuration: Path) -> None:
    words = [str(command), "check-config", str(configuration)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=CHECK_S)
    if done.returncode:
        raise Refused(f"the configuration cannot be used: {(done.stderr or done.stdout).strip()}")


def point(link: Path, root: Path) -> bool:
    """Let commands find the configuration of what serves; return whether they did not.

    Raises:
        Refused: There is a file that somebody wrote, and one that was kept before.
    """
    target = root / "current" / CONFIGURATION
    if link.is_symlink() and link.readlink() == target:
        return False
    if link.is_file() and not link.is_symlink():
        kept = link.with_name(f"{link.name}.before")
        try:
            kept.hardlink_to(link)
        except FileExistsError as error:
            if not kept.samefile(link):  # else this was cut short
                raise Refused(
                    f"{link}: was written by hand, and so was {kept}; move one away"
                ) from error
    made = link.with_name(f".{link.name}")
    made.unlink(missing_ok=True)
    made.symlink_to(target)
    made.rename(link)
    return True


def _gid() -> int:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError as error:
        raise Refused(f"there is no group {GROUP} here; site.yml prepares a box") from error


def main() -> int:
    """Make it; 0 if it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", metavar="NAME")
    name: str = parser.parse_args().name
    os.umask(0o022)
    try:
        release, files = read(sys.stdin.buffer.read(MAX_BYTES))
        with (ROOT / ".making").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changed = make(name, release, files, ROOT, _gid())
        changed |= point(LINK, ROOT)
    except (Refused, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'changed' if changed else 'unchanged'}: {ROOT / 'deployments' / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
