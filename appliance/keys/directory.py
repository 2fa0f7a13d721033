"""Where keys lie, and what became of them meanwhile.

```
keys/
├── server/main.key          0600: a key pair of the appliance's own
├── authorised/robot-3.pub   the public key of the client "robot-3"
├── tokens/site-2.token      see `tokens`
└── revoked/robot-4~1.pub    one that it does not accept any more
```

Authorising and revoking are one `rename` or `link` each, so that nobody sees half of them, and
both change the time of a directory: that is what a running appliance looks at. What cannot be
understood never lets anybody in: a file that should be a client's is left out, one that should be a
revoked key's bars its client.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import define, field, frozen

from appliance.errors import KeyFileError
from appliance.keys.files import (
    NAME,
    KeyPair,
    check_owner,
    check_writers,
    read_public,
    write_public,
)
from appliance.keys.keyring import Keyring

SERVER, AUTHORISED, REVOKED = "server", "authorised", "revoked"
SECRET_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
AGAIN = "~"
"""Between a client's name and a number: it may be revoked more than once."""

SETTLED_NS = 50_000_000
"""Times of directories are coarser than two changes may be apart: what was read within this time
of a change is read once more."""

REVOKED_NAME = re.compile(f"{NAME.pattern}({AGAIN}[0-9]+)?")
NAMES = {AUTHORISED: NAME, REVOKED: REVOKED_NAME}

Stamp = tuple[int, ...]
"""Differs when a file or a directory has changed."""


@frozen
class Listed:
    """One client's key, as `appliance keys list` shows it.

    Attributes:
        state: `authorised`, `revoked`, or `left out`: it lies with those that are authorised, and
            cannot be used.
        since_s: When it became that, seconds since 1970.
        problem: Why it cannot be read or used; empty if it can.
    """

    client: str
    state: str
    key: str
    since_s: float
    problem: str = ""


@define(eq=False)
class KeyDirectory:
    """A directory of keys. One owner.

    Attributes:
        server: Where the appliance's own keys lie; None: in `server/`.
        keyring: The clients' keys, as last read.
    """

    path: Path
    server: Path | None = None
    keyring: Keyring = field(factory=Keyring, init=False)
    _stamps: tuple[Stamp, ...] | None = field(default=None, init=False)  # of the directories
    _changed_ns: int = field(default=0, init=False)  # when those were found to differ
    _is_settled: bool = field(default=False, init=False)
    _known: dict[Path, tuple[Stamp, str]] = field(
        factory=dict[Path, "tuple[Stamp, str]"], init=False
    )  # what was read of each file

    # ---------------------------------------------------------------------------- the server

    def server_pair(self, name: str) -> KeyPair:
        """Return a key pair of the appliance's own.

        Raises:
            KeyFileError: It is not there, or cannot be used.
        """
        path = self._server_path(name)
        try:
            return KeyPair.read(path)
        except KeyFileError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise KeyFileError(
                f"{path}: the appliance has no key of that name; `appliance keys new-server {name}`"
                " makes one"
            ) from error

    def server_names(self) -> list[str]:
        """Return the names of the appliance's own keys.

        Raises:
            KeyFileError: They cannot be listed.
        """
        return [path.stem for path in self._present(SERVER, SECRET_SUFFIX)]

    def add_server(self, name: str, pair: KeyPair) -> Path:
        """Keep a new key pair of the appliance's own; return where.

        Raises:
            KeyFileError: There is one of that name, or it cannot be written.
        """
        path = self._server_path(name)
        self._make(SERVER, 0o700)
        pair.write(path)
        return path

    # --------------------------------------------------------------------------- the clients

    def authorise(self, client: str, key: str) -> Path:
        """Let a client come with a key; return the file that says so.

        Raises:
            KeyFileError: It has one, its name cannot be a file's, or it cannot be written.
        """
        path = self._authorised_path(client)
        if os.path.lexists(path):
            raise KeyFileError(
                f"{client} has a key already ({path}); revoke it first, or name another client"
            )
        self._make(AUTHORISED, 0o755)
        write_public(path, client, key)
        return path

    def revoke(self, client: str) -> Path:
        """Let a client come no more with the key it has; return where that is kept.

        Raises:
            KeyFileError: It has none, or it cannot be moved.
        """
        path = self._authorised_path(client)
        self._make(REVOKED, 0o755)
        number = 1
        while os.path.lexists(
            kept := self.path / REVOKED / f"{client}{AGAIN}{number}{PUBLIC_SUFFIX}"
        ):
            number += 1
        try:
            path.rename(kept)
        except FileNotFoundError as error:
            raise KeyFileError(f"{client} has no key in {path.parent}") from error
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be moved: {error.strerror}") from error
        return kept

    def clients(self) -> Iterator[Listed]:
        """Yield every client's key, by name; what cannot be read has an empty one.

        Raises:
            KeyFileError: They cannot be listed.
        """
        try:
            owner = self.path.stat().st_uid  # who looks is not always who serves
        except OSError:
            owner = None
        found = [
            _listed_as(state, path, owner)
            for state in (AUTHORISED, REVOKED)
            for path in self._present(state, PUBLIC_SUFFIX)
        ]
        yield from sorted(found, key=lambda each: (each.client, each.since_s))

    def _present(self, name: str, suffix: str) -> list[Path]:
        directory = self.path / name
        try:
            return _files(directory, suffix)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(
                f"{directory}: cannot be read: {error.strerror}; run this as the user that the "
                "appliance runs as"
            ) from error

    # ---------------------------------------------------------------------- what may change

    def is_stale(self, now_ns: int) -> bool:
        """Return whether `read` may find something new. Costs three system calls."""
        directories = (self.path, self.path / AUTHORISED, self.path / REVOKED)
        stamps = tuple(map(directory_stamp, directories))
        if stamps != self._stamps:
            self._stamps, self._changed_ns, self._is_settled = stamps, now_ns, False
            return True
        if not self._is_settled and now_ns - self._changed_ns > SETTLED_NS:
            self._is_settled = True
            return True
        return False

    def read(self) -> Keyring:
        """Read the clients' keys; files that have not changed are not opened again.

        Raises:
            KeyFileError: A directory cannot be read, has gone, is another user's, or others may
                write there. `keyring` is then what it was.
        """
        problems: list[str] = []
        authorised = self._keys_in(AUTHORISED, problems)
        revoked = self._keys_in(REVOKED, problems)
        self._known = {
            path: self._known[path] for path in (*authorised, *revoked) if path in self._known
        }
        by_key: dict[str, str] = {}
        for path, key in authorised.items():
            if key in by_key:
                problems.append(f"{path}: is the key of {by_key[key]} too; left out")
            else:
                by_key[key] = _client(path)
        barred = {_client(path) for path, key in revoked.items() if not key}
        not_any_more = {key: _client(path) for path, key in revoked.items() if key}
        not_any_more.update((key, client) for key, client in by_key.items() if client in barred)
        self.keyring = Keyring(by_key, not_any_more, tuple(problems))
        return self.keyring

    def _keys_in(self, name: str, problems: list[str]) -> dict[Path, str]:
        """Return the keys in a directory. Of a revoked one that was never read: an empty one."""
        keys: dict[Path, str] = {}
        for path in self._files_in(name):
            misnamed = _misnamed(name, path)
            if misnamed:
                problems.append(misnamed)
                if name == AUTHORISED:
                    continue
            try:
                keys[path] = self._key_in(path)
            except KeyFileError as error:  # the others hold all the same
                if not misnamed:
                    problems.append(str(error))
                if name == REVOKED:
                    keys[path] = self._known[path][1] if path in self._known else ""
        return keys

    def _files_in(self, name: str) -> list[Path]:
        directory = self.path / name
        try:
            for each in (self.path, directory):
                found = each.stat()
                check_owner(str(each), found)
                check_writers(str(each), found)
            return _files(directory, PUBLIC_SUFFIX)
        except FileNotFoundError as error:
            if not (self.keyring.authorised if name == AUTHORISED else self.keyring.revoked):
                return []
            raise KeyFileError(f"{directory}: has gone; the keys read before hold on") from error
        except OSError as error:
            raise KeyFileError(f"{directory}: cannot be read: {error.strerror}") from error

    def _key_in(self, path: Path) -> str:
        try:
            found = path.stat()
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
        stamp = (found.st_ctime_ns, found.st_ino, found.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, read_public(path))
        return known[1]

    def _server_path(self, name: str) -> Path:
        check_name(name)
        return (self.server or self.path / SERVER) / f"{name}{SECRET_SUFFIX}"

    def _authorised_path(self, client: str) -> Path:
        check_name(client)
        return self.path / AUTHORISED / f"{client}{PUBLIC_SUFFIX}"

    def _make(self, name: str, mode: int) -> None:
        directory = self.path / name
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            directory.mkdir(mode=mode, exist_ok=True)
        except OSError as error:
            raise KeyFileError(f"{directory}: cannot be made: {error.strerror}") from error


def check_name(name: str) -> None:
    """Check what a client or a key is to be called.

    Raises:
        KeyFileError: It cannot be called that.
    """
    if NAME.fullmatch(name) is None:
        raise KeyFileError(
            f"{name!a} cannot be the name of a key: letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit"
        )


def _listed_as(state: str, path: Path, owner: int | None) -> Listed:
    key, problem = "", _misnamed(state, path)
    if not problem:
        try:
            key = read_public(path, owner=owner)
        except KeyFileError as error:
            problem = str(error)
    try:
        since_s = path.lstat().st_ctime  # a rename sets that of the inode, and no other
    except OSError:  # it has gone meanwhile
        since_s = 0.0
    if problem and state == AUTHORISED:
        return Listed(_shown(path.stem), "left out", key, since_s, problem)
    return Listed(_shown(_client(path)), state, key, since_s, problem)


def _misnamed(directory: str, path: Path) -> str:
    """Say what is wrong with a file's name; nothing: it may be there."""
    if NAMES[directory].fullmatch(path.stem) is not None:
        return ""
    kind = "client" if directory == AUTHORISED else "revoked key"
    return f"{path.parent}/{_shown(path.name)}: no {kind} can have that name; move it elsewhere"


def _shown(name: str) -> str:
    """Write a file's name, which may hold any bytes, for people."""
    return ascii(name)[1:-1]


def _client(path: Path) -> str:
    return path.stem.partition(AGAIN)[0]


def _files(directory: Path, suffix: str) -> list[Path]:
    """Return the files there that are keys, by name."""
    return sorted(
        path for path in directory.iterdir() if path.suffix == suffix and path.name[0] != "."
    )


def directory_stamp(directory: Path) -> Stamp:
    """Return what differs when a directory, or who may write there, has changed."""
    try:
        found = directory.stat()
    except OSError:
        return ()
    return found.st_ctime_ns, found.st_ino  # of its files, and of who may write there
