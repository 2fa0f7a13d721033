"""Files that the configuration names, with all directories above them, and people."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.config import Config
from appliance.doctor.facts import ConfiguredFile, Kind, Node, Person, Running

GROUP = "appliance"


def configured(config: Config, base: Path) -> Iterator[ConfiguredFile]:
    """Yield what the configuration names; relative paths begin at `base`."""

    def one(key: str, path: Path, *, secret: bool = False, writable: bool = False) -> Any:
        return ConfiguredFile(
            key=key, nodes=tuple(nodes(base / path)), secret=secret, writable=writable
        )

    yield one("models.directory", Path(config.models.directory))
    if config.recording.directory:
        yield one("recording.directory", Path(config.recording.directory), writable=True)
    keys, tls = config.keys, config.ingest.grpc.tls
    if keys.required:
        yield one("keys.directory", Path(keys.directory))
        own = Path(keys.server_directory or f"{keys.directory}/server")
        if not keys.server_directory.startswith("$"):  # which the service manager lays out
            for name in dict.fromkeys((keys.server_key, *keys.server_key_of.values())):
                yield one("keys.server_key", own / f"{name}.key", secret=True)
    if tls.certificate:
        yield one("ingest.grpc.tls.certificate", Path(tls.certificate))
        if not tls.key.startswith("$"):
            yield one("ingest.grpc.tls.key", Path(tls.key), secret=True)
    if tls.client_ca:
        yield one("ingest.grpc.tls.client_ca", Path(tls.client_ca))


def nodes(path: Path) -> Iterator[Node]:
    """Yield the directories above a path and then itself, as far as they are there."""
    path = path.absolute()
    for each in [*reversed(path.parents), path]:
        node = _node(each)
        yield node
        if node.kind in ("missing", "hidden"):
            return


def _node(path: Path) -> Node:
    try:
        found = path.stat()
    except PermissionError:
        return Node(path=str(path), kind="hidden")
    except OSError:
        return Node(path=str(path), kind="missing")
    return Node(
        path=str(path),
        kind=_kind(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "socket" if stat.S_ISSOCK(mode) else "other"


def person(uid: int) -> Person:
    """Return a user, also one without an entry, with all groups it has here."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Person(name=f"user {uid}", uid=uid, gids=frozenset())
    gids = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    own = frozenset(os.getgroups()) if uid == os.geteuid() else frozenset[int]()
    return Person(name=entry.pw_name, uid=uid, gids=gids | own)


def runs_as(user: str, running: Running) -> Person:
    """Return whom the service runs as: as its unit says, or as it does; else who asks."""
    try:
        if user:
            return person(pwd.getpwnam(user).pw_uid)
        if running.pid:
            return person(Path(f"/proc/{running.pid}").stat().st_uid)
    except (KeyError, OSError):
        pass
    return person(os.geteuid())


def group() -> int:
    """Return the number of the group `appliance`; -1: there is none."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return -1
