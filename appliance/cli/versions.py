"""`appliance models versions | verify | activate | rollback`: what of the repository is served.

A version is loaded and judged here, in the command's own process, before the appliance hears of it.
Then `active.toml` names it, and the appliance that runs, if one does, loads it beside the one it
serves. If it does not come up there, `active.toml` is as it was.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from appliance.admin import client as admin
from appliance.cli import NOT_KNOWN, NOT_QUITE, OK
from appliance.cli.asking import CHANGE_TIMEOUT_S
from appliance.cli.documents import TIMEOUT_S, readable
from appliance.cli.socket_path import default_socket_path
from appliance.cli.text import milliseconds, plain
from appliance.engines.cuda.driver import CPU
from appliance.errors import (
    AdminError,
    AdminUnreachable,
    ApplianceError,
    ConfigError,
    DeviceMissing,
    RecordingError,
)
from appliance.models.active import Active, write_active
from appliance.models.repository import ModelEntry, Repository
from appliance.wire.pb import worker_pb2

if TYPE_CHECKING:
    from appliance.engines.verification import Verification


def versions(arguments: argparse.Namespace) -> int:
    """Show what lies in the repository, and which version of each model is to be served."""
    entries = repository_of(arguments).scan()
    if arguments.json:
        print(json.dumps({"models": [_document(entry) for entry in entries]}, indent=2))
        return OK
    for entry in entries:
        print(_line(entry))
    if not entries:
        print("no models")
    return OK


def verify(arguments: argparse.Namespace) -> int:
    """Compare a version with its reference; 0 if it is good, else 1."""
    entry = entry_of(repository_of(arguments), arguments.model)
    version = version_of(entry, arguments.version)
    return OK if _is_good(entry, version, arguments) else NOT_QUITE


def activate(arguments: argparse.Namespace) -> int:
    """Verify a version and have it served; 0 if it is, 3: nobody knows, else all is as before."""
    entry = entry_of(repository_of(arguments), arguments.model)
    with _alone(entry):
        version = version_of(entry, arguments.version)
        if not arguments.unverified and not _is_good(entry, version, arguments):
            print(f"{entry.name}: version {version} is not activated", file=sys.stderr)
            return NOT_QUITE
        before = _served(arguments, entry)
        previous = entry.active.previous if before == version and entry.active else before
        return _switch(arguments, entry, Active(version=version, previous=previous))


def rollback(arguments: argparse.Namespace) -> int:
    """Have the version before served again; 0 if it is, 3: nobody knows, else all is as before."""
    entry = entry_of(repository_of(arguments), arguments.model)
    with _alone(entry):
        active = entry.active
        if active is None or not active.previous:
            raise ConfigError(
                f"model {entry.name!r}: no version was active before; "
                f"there is {', '.join(entry.versions)}"
            )
        back = Active(version=version_of(entry, active.previous), previous=active.version)
        return _switch(arguments, entry, back)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "versions": versions,
    "verify": verify,
    "activate": activate,
    "rollback": rollback,
}


# ----------------------------------------------------------------------------- the repository


def repository_of(arguments: argparse.Namespace) -> Repository:
    """Return the one that was named or, if none was, that of the appliance that runs.

    Raises:
        ConfigError: None was, and none runs.
    """
    if arguments.models:
        return Repository(arguments.models)
    try:
        answer = admin.get(_socket(arguments), "/v1/models", TIMEOUT_S)
    except AdminUnreachable as error:
        raise ConfigError(f"no appliance says where its models are: name --models ({error})") from (
            error
        )
    with readable():
        return Repository(cast("dict[str, Any]", answer)["directory"])


def entry_of(repository: Repository, name: str) -> ModelEntry:
    """Return a model that has some version.

    Raises:
        ConfigError: There is none.
    """
    entries = {entry.name: entry for entry in repository.scan()}
    if name not in entries:
        there = ", ".join(sorted(entries)) or "nothing"
        raise ConfigError(f"model {name!r} is not in {repository.directory}; there is {there}")
    entry = entries[name]
    if not entry.versions:
        raise ConfigError(entry.error or f"model {name!r} has no version")
    return entry


def version_of(entry: ModelEntry, version: str | None) -> str:
    """Return the version that is meant; the latest, if none is named.

    Raises:
        ConfigError: It is not there.
    """
    chosen = version or entry.versions[-1]
    if chosen not in entry.versions:
        there = ", ".join(entry.versions)
        raise ConfigError(f"model {entry.name!r} has no version {chosen!r}; there is {there}")
    return chosen


def _document(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "versions": list(entry.versions),
        "serves": entry.version or None,
        "active": entry.active.version if entry.active else None,
        "previous": (entry.active.previous or None) if entry.active else None,
        "error": entry.error,
    }


def _line(entry: ModelEntry) -> str:
    said: list[str] = []
    for version in entry.versions:
        about: list[str] = []
        if version == entry.version:
            about.append("active" if entry.active else "latest")
        if entry.active is not None and version == entry.active.previous:
            about.append("previous")
        said.append(f"{version} ({', '.join(about)})" if about else version)
    error = f": {entry.error}" if entry.error else ""
    return plain(f"{entry.name}  {'  '.join(said) or 'no version'}{error}")


@contextmanager
def _alone(entry: ModelEntry) -> Generator[None, None, None]:
    """Keep other commands from changing the model meanwhile."""
    model = entry.manifest_path.parent
    descriptor = os.open(model, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{model}: another command changes it now; try again") from None
        yield
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------- verification


def _is_good(entry: ModelEntry, version: str, arguments: argparse.Namespace) -> bool:
    """Load and compare a version, and say what came of it."""
    seed = secrets.randbits(32) if arguments.seed is None else int(arguments.seed)
    where = arguments.device or _device_of(arguments, entry)
    try:
        with redirect_stdout(sys.stderr):  # a model's own code may print
            found = _verified(entry, version, seed, where, arguments)
    except (RecordingError, DeviceMissing):
        raise  # it says nothing of the version
    except ApplianceError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001  a model's own code may raise anything
        problem = f"{type(error).__name__}: {error}"
    else:
        _tell(entry, version, seed, found, as_json=arguments.json)
        return found.is_good
    if arguments.json:
        told = {"model": entry.name, "version": version, "good": False, "error": problem}
        print(json.dumps(told, indent=2))
    else:
        print(plain(f"{entry.name}: version {version} cannot be used: {problem}"))
    return False


def _verified(
    entry: ModelEntry, version: str, seed: int, where: str, arguments: argparse.Namespace
) -> Verification:
    from appliance.engines.device import open_named
    from appliance.engines.verification import verify as compared

    recorded = None
    if arguments.recording:
        from appliance.cli.recorded_rows import recorded_rows

        recorded = recorded_rows(Path(arguments.recording), entry.name)
    path = worker_pb2.ModelPath(
        name=entry.name,
        version=version,
        manifest=entry.manifest,
        manifest_path=str(entry.manifest_path),
        directory=str(entry.manifest_path.parent / version),
    )

    def on_step(step: str) -> None:
        print(plain(f"{entry.name} {version}: {step}"), file=sys.stderr, flush=True)

    on_step(f"on {where}")
    device = open_named(where)
    try:
        return compared(
            path,
            rounds=arguments.rounds,
            seed=seed,
            recorded=recorded,
            on_step=on_step,
            device=device,
        )
    finally:
        device.close()


def _tell(
    entry: ModelEntry, version: str, seed: int, found: Verification, *, as_json: bool
) -> None:
    if as_json:
        told = {
            "model": entry.name,
            "version": version,
            "good": found.is_good,
            "seed": seed,
            "problem": found.problem or None,
            **attrs.asdict(found),
        }
        told["times_ns"] = {str(size): ns for size, ns in found.times_ns.items()}
        told["outputs"] = [
            {**attrs.asdict(each), "good": each.is_good, "worst": _number(each.worst)}
            for each in found.outputs
        ]
        print(json.dumps(told, indent=2))
        return
    print(f"beside {found.reference} (seed {seed}):")
    for each in found.outputs:
        verdict = "good" if each.is_good else "BAD"
        print(
            plain(
                f"  {each.name}: {each.rows} rows, worst {each.worst:.2g} of {each.tolerance:g} "
                f"allowed: {verdict}"
            )
        )
    times = ", ".join(f"{size}: {milliseconds(ns / 1000)}" for size, ns in found.times_ns.items())
    print(f"time of a batch, ms: {times}")
    if found.without_graphs:
        print(plain(f"without CUDA graphs: {found.without_graphs}"))
    verdict = "good" if found.is_good else f"NOT good: {found.problem}"
    print(plain(f"{entry.name}: version {version} is {verdict}"))


def _number(worst: float) -> float | None:
    """Return a number that JSON has; None for infinity."""
    return worst if worst < float("inf") else None


# ---------------------------------------------------------------------------------- the switch


def _served(arguments: argparse.Namespace, entry: ModelEntry) -> str:
    """Return the version that is served, or would be; empty: none."""
    if entry.active is not None:
        return entry.active.version
    try:
        answer = admin.get(_socket(arguments), "/v1/models", TIMEOUT_S)
    except AdminUnreachable:
        return ""
    with readable():
        document = cast("dict[str, Any]", answer)
        if not _is_from(document, entry):
            return ""
        names = {model["name"]: model["version"] for model in document["models"]}
    found: str = names.get(entry.name, "")
    return found if found in entry.versions else ""


def _device_of(arguments: argparse.Namespace, entry: ModelEntry) -> str:
    """Return what the model is served on or, if it is not yet, what all workers compute on.

    Raises:
        ConfigError: They compute on several.
    """
    try:
        answer = admin.get(_socket(arguments), "/v1/workers", TIMEOUT_S)
    except AdminUnreachable:
        return CPU
    with readable():
        workers = cast("dict[str, Any]", answer)["workers"]
        hosts = [each for each in workers if entry.name in each["models"]]
        devices = sorted({str(each["device"]) for each in hosts or workers})
    if len(devices) > 1:
        raise ConfigError(
            f"model {entry.name!r} may be served on {', '.join(devices)}: name one with --device"
        )
    return devices[0] if devices else CPU


def _switch(arguments: argparse.Namespace, entry: ModelEntry, active: Active) -> int:
    """Write what is active, and have the appliance that runs serve it."""
    model = entry.manifest_path.parent
    write_active(model, active)
    try:
        answer = admin.get(_socket(arguments), "/v1/models", TIMEOUT_S)
        with readable():
            serves = _is_from(cast("dict[str, Any]", answer), entry)
    except AdminUnreachable:
        serves = False
    if not serves:
        print(f"{entry.name}: version {active.version} is served from the next start on")
        return OK
    try:
        admin.post(_socket(arguments), "/v1/models/load", CHANGE_TIMEOUT_S, {"name": entry.name})
    except AdminUnreachable as error:
        print(
            f"{entry.name}: version {active.version} is active; whether it is served is not known: "
            f"{error}",
            file=sys.stderr,
        )
        return NOT_KNOWN
    except AdminError as error:
        write_active(model, entry.active)
        print(f"{entry.name}: all is as before: {error}", file=sys.stderr)
        return NOT_QUITE
    print(f"{entry.name}: version {active.version} is served")
    return OK


def _is_from(document: dict[str, Any], entry: ModelEntry) -> bool:
    """Return whether the appliance that answered serves this model's repository."""
    return Path(document["directory"]).resolve() == entry.manifest_path.parent.parent.resolve()


def _socket(arguments: argparse.Namespace) -> str:
    return arguments.socket or default_socket_path(existing=True)
