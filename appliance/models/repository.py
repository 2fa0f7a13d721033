"""What lies in a model repository: `<model>/model.toml`, `<model>/<version>/...`, what is active.

One model that cannot be used never hides the others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from attrs import frozen

from appliance.errors import ConfigError
from appliance.models.active import ACTIVE, NAME, Active, read_active
from appliance.models.manifest import MANIFEST, parse_manifest
from appliance.structure import read_text

_NAME = re.compile(NAME)


@frozen
class ModelEntry:
    """One model found.

    Attributes:
        name: Of its directory; with escapes, and an `error`, if that is no UTF-8.
        version: To serve: the active one or, where none is, the latest; empty: there is none.
        manifest: What `model.toml` says; empty if it cannot be read.
        versions: All, oldest first.
        directory: Of the version to serve; of the model if there is none.
        error: Why the model cannot be used; None if nothing is wrong so far.
        active: Which version somebody has said to serve; None: nobody has.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    manifest: str
    manifest_path: Path
    directory: Path
    error: str | None = None
    active: Active | None = None


class Repository:
    """A directory of models; each `scan` looks anew."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def scan(self) -> list[ModelEntry]:
        """Return every model by name. Hidden directories and plain files are left alone.

        Raises:
            ConfigError: The repository itself cannot be read.
        """
        return [_entry(path) for path in _directories(self.directory)]


def name_of(directory: Path) -> str:
    """Return what a repository is called where several are told apart: the same by any path."""
    return str(directory.resolve())


def version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Return what versions are ordered by: 9 before 10, 1.9 before 1.10, v2 before v10."""
    parts: list[str] = re.findall(r"\d+|\D+", version)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def _entry(model: Path) -> ModelEntry:
    versions: list[str] = []
    manifest, error, active = "", None, None
    try:
        versions = sorted((_text(path.name) for path in _directories(model)), key=version_key)
        manifest = _manifest(model)
        error = _what_is_wrong(model, versions, manifest)
        active = read_active(model)
        if error is None and active is not None and active.version not in versions:
            error = (
                f"{model / ACTIVE}: version: found {active.version!r}; there is "
                f"{', '.join(versions)}"
            )
    except ConfigError as problem:
        error = str(problem)
    error = error and _text(error)  # it may name a path
    version = versions[-1] if versions else ""
    if active is not None and active.version in versions:
        version = active.version
    return ModelEntry(
        name=_text(model.name),
        version=version,
        versions=tuple(versions),
        manifest=manifest,
        manifest_path=model / MANIFEST,
        directory=model / version,
        error=error,
        active=active,
    )


def _text(name: str) -> str:
    """Return a name that can be told to anybody: bytes that are no text become escapes.

    They have none in protobuf, and so would break whatever answer lists them.
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _manifest(model: Path) -> str:
    path = model / MANIFEST
    if not os.path.lexists(path):
        raise ConfigError(f"{model}: {MANIFEST} is missing; an empty one will do for an ONNX model")
    return read_text(path)


def _what_is_wrong(model: Path, versions: list[str], manifest: str) -> str | None:
    for name in (model.name, *versions):
        if not _NAME.fullmatch(name):
            return f"{model}: found the name {name!r}; allowed: {NAME}"
    parse_manifest(manifest, str(model / MANIFEST))
    return None if versions else f"{model}: no version; expected a directory such as {model}/1"


def _directories(parent: Path) -> list[Path]:
    try:
        return [
            path
            for path in sorted(parent.iterdir())
            if not path.name.startswith((".", "_")) and path.is_dir()  # __pycache__ is no version
        ]
    except OSError as error:
        raise ConfigError(f"{parent}: cannot be read: {error.strerror}") from error
