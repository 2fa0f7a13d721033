"""What has changed in the repository since its models were loaded. It is told, not applied.

A model takes effect when its worker loads it, and then stays as it was checked: see `ModelEntry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.models.active import ACTIVE
from appliance.models.manifest import MANIFEST
from appliance.models.repository import ModelEntry

Stamp = tuple[tuple[str, int, int, int], ...]


def changes(served: Sequence[ModelEntry], found: Sequence[ModelEntry]) -> list[str]:
    """Return, in words, how what was found differs from what is served. Pure."""
    before = {entry.name: entry for entry in served}
    after = {entry.name: entry for entry in found}
    said: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            said.append(f"model {name} is gone from the repository")
        elif name not in before:
            new = after[name]
            said.append(f"model {name} is new" if new.error is None else new.error)
        else:
            said += _changes_of(before[name], after[name])
    return said


def _changes_of(before: ModelEntry, after: ModelEntry) -> list[str]:
    if after.error is not None:
        return [] if after.error == before.error else [after.error]
    said: list[str] = []
    if before.error is not None:
        said.append(f"model {after.name} can be used now")
    elif after.manifest != before.manifest:
        said.append(f"model {after.name}: {MANIFEST} has changed")
    if after.version != before.version and before.version:
        said.append(
            f"model {after.name}: version {after.version} is there, {before.version} served"
        )
    return said


def stamp(directory: Path) -> Stamp:
    """Return what tells one state of a repository from another, as far as `changes` sees it.

    It opens no file. What cannot be looked at is left out.
    """
    paths = [directory]
    try:
        for model in sorted(directory.iterdir()):
            paths += [model, model / MANIFEST, model / ACTIVE]
    except OSError:
        return ()
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_ino, status.st_mtime_ns, status.st_size
