"""`python3 place_models.py look | missing | place`: new versions of models on a robot.

A version that was carried to `REPOSITORY/.incoming/RUN/MODEL/` is verified there, by the
appliance's own command. If it is good, a folder is made with it, the versions that the box has, and
the new `model.toml` and `active.toml`, and changes places with that of the model at one moment. So
whoever looks, after a power cut at any step too, finds a version with the manifest that it was
verified with. Then the appliance that runs is told, by its own command again. What does not come up
there is undone by changing places again, which needs no space on the disk. RUN is named by what is
asked for: who asks for something else carries to another folder, and the same run goes on with what
has come.

`look` tells, on the controller, what is asked for; `missing`, on the robot, what of that has to be
carried there. Both print JSON. `place` prints what the commands say, and last a line that is
`changed` or `unchanged`; it runs as the user of the appliance, whose files these are, and no deploy
takes over meanwhile. Needs Python 3.10 and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

INCOMING, MANIFEST, ACTIVE = ".incoming", "model.toml", "active.toml"
EXCHANGED = ".exchanged"  # in the folder of a run: what a model's changes places with
NOT_KNOWN, INTERRUPTED = 3, 130
"""What `appliance models activate` ends with if a version is active, and perhaps served.

So it is, too, where a signal has ended it.
"""
BLOCK = 1 << 20
COMMAND_S = 3600
KEPT_S = 86_400
"""How long what was carried waits for a run that goes on with it."""
WORDS, VERSIONS = '["WORD"]', '{"MODEL": "VERSION"}'
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_ACTIVE = re.compile(r'(?m)^(version|previous) = "([^"]*)"')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Asked = dict[str, str]
"""Of a model: `version`, and the checksums of its `files` and of the `manifest`."""
Appliance = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a command of the appliance's; returns its exit code and what it said."""


class Refused(Exception):
    """A model is not served as asked; the message says why, and what is served."""


class NotKnown(Refused):
    """Nor can it be said that it is not."""


# ------------------------------------------------------------------------------------- looking


def look(folder: Path, only: Sequence[str], versions: Mapping[str, str]) -> dict[str, Asked]:
    """Return what a folder of models holds of those that are to be served.

    Args:
        only: Models; none: all that are there.
        versions: Of a model, in place of its latest.

    Raises:
        Refused: Something that is named is not there.
    """
    there = [each.name for each in _directories(folder) if (each / MANIFEST).is_file()]
    if not there:
        raise Refused(f"{folder}: is no folder of models, or has none")
    unknown = sorted(set(versions) - set(only or there))
    if unknown:
        raise Refused(
            f"{folder}: versions are named of {', '.join(unknown)}, which are not asked for"
        )
    asked: dict[str, Asked] = {}
    for model in only or there:
        found = [each.name for each in _directories(folder / model)]
        version = versions.get(model) or _latest(folder / model)
        if model not in there or version not in found:
            raise Refused(
                f"{folder / model}: there is no version {version or 'at all'}, or no {MANIFEST}"
            )
        asked[model] = {
            "version": version,
            "files": checksum(folder / model / version),
            "manifest": checksum(folder / model / MANIFEST),
        }
    return asked


def missing(repository: Path, asked: Mapping[str, Asked]) -> list[str]:
    """Return what has to be carried to a robot, as paths below both folders.

    Raises:
        Refused: A version is there, and is another.
    """
    carried: list[str] = []
    for model, each in asked.items():
        there, version = repository / model, each["version"]
        _check_names(model, version)
        has_version = (there / version).is_dir()
        if has_version and checksum(there / version) != each["files"]:
            raise Refused(
                f"{there / version}: is there, with other files; a version is never changed in"
                " place: give what has changed a number of its own"
            )
        has_manifest = checksum(there / MANIFEST) == each["manifest"]
        if not has_version:
            carried.append(f"{model}/{version}")
        if not (has_version and has_manifest):
            carried.append(f"{model}/{MANIFEST}")
    return carried


def checksum(path: Path) -> str:
    """Return that of a file, or of a folder's files; what Python compiled is none of them."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    digest = hashlib.sha256()
    for each in files:
        if each.is_file() and "__pycache__" not in each.parts and each.suffix != ".pyc":
            digest.update(f"{each.relative_to(path)}\0{each.stat().st_size}\0".encode())
            with each.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    return digest.hexdigest()


def _check_names(*names: str) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise Refused(f"{name!r} cannot be the name of a model, a version or a run")


def _directories(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(each for each in parent.iterdir() if each.is_dir() and _NAME.fullmatch(each.name))


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Return what the appliance orders versions by: 9 before 10."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


# ------------------------------------------------------------------------------------- placing


class Placing:
    """Models of one repository, by an appliance's commands.

    Attributes:
        incoming: Where what was carried is.
        verify: Further options of `appliance models verify`.
        builds: Engines for a GPU are built before a version is verified.
    """

    def __init__(
        self,
        repository: Path,
        incoming: Path,
        appliance: Appliance,
        verify: Sequence[str],
        *,
        builds: bool = False,
    ) -> None:
        self.repository, self.incoming, self.appliance = repository, incoming, appliance
        self.verify, self.builds = verify, builds

    def place(self, asked: Mapping[str, Asked]) -> bool:
        """Have versions served; return whether any was not, or not like this.

        Nothing is changed until all are good.

        Raises:
            Refused: One is not good, or does not come up. What was served of it is served.
        """
        for model, each in asked.items():
            _check_names(model, each["version"])
        served: list[str] = []
        try:
            good = [model for model, each in asked.items() if self._is_wanted(model, each)]
            for model in good:
                self._serve(model, asked[model]["version"])
                served.append(model)
        except (Refused, OSError, subprocess.TimeoutExpired) as failed:
            if not served:
                raise
            raise Refused(f"{failed}\nServed as asked, and kept: {', '.join(served)}") from None
        finally:
            shutil.rmtree(self.incoming, ignore_errors=True)
        return bool(served)

    def _is_wanted(self, model: str, asked: Asked) -> bool:
        """Return whether a version, which is good, is yet to be served, or not like this.

        Raises:
            Refused: It is not good.
        """
        version = asked["version"]
        staged, there = self.incoming / model, self.repository / model
        if not staged.is_dir():
            if self._is_active(model, version):
                return False
            self._run(model, ["models", "verify", model, version, *self.verify, *self._models])
            return True
        if (there / version).is_dir():  # only model.toml is new, or a run was cut short
            shutil.rmtree(staged / version, ignore_errors=True)
            _link_all(there / version, staged / version)
        for name, wanted in ((version, asked["files"]), (MANIFEST, asked["manifest"])):
            if checksum(staged / name) != wanted:
                raise Refused(f"{staged / name}: was not carried whole; run this again")
        self._verify(model, version)
        return True

    def _is_active(self, model: str, version: str) -> bool:
        """Return whether a version that is there is active.

        Raises:
            Refused: It is not there.
        """
        code, said = self.appliance(["models", "versions", "--json", *self._models])
        try:
            found = {each["name"]: each for each in json.loads(said)["models"]} if not code else {}
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{model}: the repository cannot be read: {said}") from error
        if model not in found or version not in found[model]["versions"]:
            raise Refused(f"{model}: version {version} is not on the box; is it in the folder?")
        return bool(found[model]["active"] == version)

    def _verify(self, model: str, version: str) -> None:
        where = ["--models", str(self.incoming)]
        if self.builds:
            self._run(model, ["models", "build", model, version, *where])
        self._run(model, ["models", "verify", model, version, *self.verify, *where])

    def _serve(self, model: str, version: str) -> None:
        """Activate what is good, with what was carried of it; else undo all of that."""
        staged, there = self.incoming / model, self.repository / model
        made = self.incoming / EXCHANGED
        activate = ["models", "activate", model, version, "--unverified", *self._models]
        if not staged.is_dir():
            self._run(model, activate)
            return
        shutil.rmtree(made, ignore_errors=True)  # of another model, or of a run that was cut short
        is_new = not there.is_dir()
        with contextlib.nullcontext() if is_new else _alone(there):
            _make(made, staged, there, version)
            os.sync()
            if is_new:
                made.rename(there)
            else:
                _exchange(made, there)
            os.sync()
        try:
            self._run(model, activate)
        except (NotKnown, subprocess.TimeoutExpired) as failed:
            raise Refused(
                f"{failed}\n"
                "It is active, and its files stay: see `appliance models list` on the box"
            ) from None
        except (Refused, OSError):
            if is_new:
                there.rename(made)
            else:
                _exchange(made, there)
            os.sync()
            raise

    @property
    def _models(self) -> list[str]:
        return ["--models", str(self.repository)]

    def _run(self, model: str, words: Sequence[str]) -> None:
        code, said = self.appliance(words)
        if code:
            what = shlex.join(["appliance", *words])
            kind = NotKnown if code < 0 or code in (NOT_KNOWN, INTERRUPTED) else Refused
            raise kind(f"{model}: `{what}` has failed; it says:\n{said}")
        _print(said)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever waited has gone; what is done here goes on
        print(text, flush=True)


def _make(made: Path, staged: Path, there: Path, version: str) -> None:
    """Make a folder of what a model has, and of what was carried, which is to be served."""
    made.mkdir(mode=0o750)
    if there.is_dir():
        new = {version, MANIFEST, ACTIVE}
        _link_all(there, made, lambda folder, _: new if folder == str(there) else set[str]())
    _link_all(staged / version, made / version)
    os.link(staged / MANIFEST, made / MANIFEST)
    active = _active(there)
    former = active.get("version") or _latest(there)
    previous = active.get("previous", "") if former == version else former
    written = f'version = "{version}"\nprevious = "{previous}"\n'
    (made / ACTIVE).write_text(written, encoding="utf-8")


def _link_all(
    source: Path, place: Path, ignore: Callable[[str, list[str]], set[str]] | None = None
) -> None:
    shutil.copytree(
        source, place, symlinks=True, ignore=ignore, copy_function=_link, dirs_exist_ok=True
    )


def _link(source: str, place: str) -> None:
    """Give a file a second name."""
    try:
        os.link(source, place, follow_symlinks=False)
    except PermissionError as error:
        raise Refused(
            f"{source}: has to belong to the user that serves it, as all files of models: {error}"
        ) from None


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places, at one moment."""
    paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if ctypes.CDLL(None, use_errno=True).renameat2(*paths, _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _active(model: Path) -> dict[str, str]:
    """Return which `version` is to be served, and the `previous`; empty: nobody has said."""
    try:
        return dict(_ACTIVE.findall((model / ACTIVE).read_text(errors="replace")))
    except FileNotFoundError:
        return {}


def _latest(model: Path) -> str:
    return max((each.name for each in _directories(model)), key=_order, default="")


@contextlib.contextmanager
def _alone(
    path: Path, otherwise: str = "another run changes it; wait until it is over"
) -> Generator[None, None, None]:
    """Let nobody else who takes the same lock do anything meanwhile.

    Raises:
        Refused: Somebody does; it says what `otherwise` says.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{path}: {otherwise}") from None
        yield
    finally:
        os.close(descriptor)


def _no_deploy(switching: Path) -> AbstractContextManager[None]:
    """Keep deployments from taking over from each other: what stands by has looked already."""
    if not switching.exists():
        return contextlib.nullcontext()  # no deploy was ever here
    return _alone(switching, "a deploy is under way here; wait until it is over")


def by(command: str) -> Appliance:
    """Return what runs the commands of an installed appliance."""

    def run(words: Sequence[str]) -> tuple[int, str]:
        done = subprocess.run(
            [command, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if "--json" not in words else None,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        return done.returncode, done.stdout.strip()

    return run


def place_all(placing: Placing, asked: Mapping[str, Asked], switching: Path) -> bool:
    """Have versions served, and nothing else done here meanwhile; return whether any was not.

    Args:
        switching: What a deploy locks while one takes over from another.

    Raises:
        Refused: One is not good, or does not come up.
    """
    with _no_deploy(switching), _alone(placing.repository):
        _clear_old(placing)
        return placing.place(asked)


def _clear_old(placing: Placing) -> None:
    """Remove what was carried by other runs that were cut off, and that none has gone on with."""
    before_s = time.time() - KEPT_S
    for run in _directories(placing.repository / INCOMING):
        if run == placing.incoming:
            continue
        with contextlib.suppress(FileNotFoundError):  # its own run has just removed it
            if max(each.lstat().st_mtime for each in (run, *run.rglob("*"))) < before_s:
                shutil.rmtree(run, ignore_errors=True)


def _read(option: str, text: str, wanted: str, fits: Callable[[Any], bool]) -> Any:
    """Return JSON from the command line.

    Raises:
        Refused: It is none, or not what is wanted.
    """
    try:
        found = json.loads(text)
        if fits(found):
            return found
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        pass
    raise Refused(f"{option}: found {text[:80]!r}; wanted {wanted}")


def _are_words(found: Any) -> bool:
    return not isinstance(found, (str, dict)) and _are_text(found)


def _are_versions(found: Any) -> bool:
    return _are_text(found.values())


def _are_asked(found: Any) -> bool:
    keys = ("version", "files", "manifest")
    return all(_are_text(each[key] for key in keys) for each in found.values())


def _are_text(found: Iterable[Any]) -> bool:
    return all(isinstance(each, str) for each in found)


def main() -> int:
    """Look or place; 0 if all is as asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    looking = actions.add_parser("look", help="on the controller: what is asked for")
    carrying = actions.add_parser("missing", help="what of that is not here")
    placing = actions.add_parser("place", help="verify what came, and have it served")
    looking.add_argument("--only", default="[]", help=WORDS)
    looking.add_argument("--versions", default="{}", help=VERSIONS)
    for each in (looking, carrying, placing):
        each.add_argument("directory", type=Path, metavar="DIRECTORY")
    for each in (carrying, placing):
        each.add_argument("--asked", required=True, help="what `look` said")
    placing.add_argument("--run", required=True, help="name of the folder that it was carried to")
    placing.add_argument("--command", default="/opt/appliance/current/release/bin/appliance")
    placing.add_argument("--switching", type=Path, default="/opt/appliance/.switching")
    placing.add_argument("--verify", default="[]", help=WORDS)
    placing.add_argument("--build", action="store_true", help="engines for the GPU that is here")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    try:
        if arguments.action == "look":
            only = _read("--only", arguments.only, WORDS, _are_words)
            versions = _read("--versions", arguments.versions, VERSIONS, _are_versions)
            print(json.dumps(look(directory, only, versions)))
            return 0
        asked = _read("--asked", arguments.asked, "what `look` said", _are_asked)
        if arguments.action == "missing":
            print(json.dumps(missing(directory, asked)))
            return 0
        verify = _read("--verify", arguments.verify, WORDS, _are_words)
        _check_names(arguments.run)
        incoming = directory / INCOMING / arguments.run
        place = Placing(directory, incoming, by(arguments.command), verify, builds=arguments.build)
        _print("changed" if place_all(place, asked, arguments.switching) else "unchanged")
    except (Refused, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
