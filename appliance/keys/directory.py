"""Where keys lie, and what became of them meanwhile.

```
keys/
├── server/main.key          0600: a key pair of the appliance's own
├── authorised/robot-3.pub   the public key of the client "robot-3"
└── revoked/robot-4~1.pub    one that it does not accept any more
```

Authorising and revoking are one `rename` or `link` each, so that nobody sees half of them, and
both change the time of a directory: that is what a running appliance looks at.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from attrs import define, field, frozen

from appliance.errors import KeyFileError
from appliance.keys.files import NAME, KeyPair, read_public, write_public
from appliance.keys.ring import Ring

SERVER, AUTHORISED, REVOKED = "server", "authorised", "revoked"
SECRET_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
AGAIN = "~"
"""Between a client's name and a number: it may be revoked more than once."""

SETTLED_NS = 50_000_000
"""Times of directories are coarser than two changes may be apart: what was read within this time
of a change is read once more."""

_Mark = tuple[tuple[int, int], ...]
_Stamp = tuple[int, int, int]


@frozen
class Listed:
    """One client's key, as `appliance keys list` shows it.

    Attributes:
        state: `authorised` or `revoked`.
        since_s: When it became that, seconds since 1970.
    """

    client: str
    state: str
    key: str
    since_s: float


@define(eq=False)
class KeyDirectory:
    """A directory of keys. One owner.

    Attributes:
        ring: The clients' keys, as last read.
    """

    path: Path
    ring: Ring = field(factory=Ring, init=False)
    _mark: _Mark | None = field(default=None, init=False)
    _marked_ns: int = field(default=0, init=False)
    _settled: bool = field(default=False, init=False)
    _read: dict[Path, tuple[_Stamp, str]] = field(
        factory=dict[Path, "tuple[_Stamp, str]"], init=False
    )

    # ---------------------------------------------------------------------------- the server

    def server_pair(self, name: str) -> KeyPair:
        """Return a key pair of the appliance's own.

        Raises:
            KeyFileError: It is not there, or cannot be used.
        """
        path = self._server_path(name)
        if not path.exists():
            raise KeyFileError(
                f"{path}: the appliance has no key of that name; `appliance keys new-server {name}`"
                " makes one"
            )
        return KeyPair.read(path)

    def server_names(self) -> list[str]:
        """Return the names of the appliance's own keys."""
        directory = self.path / SERVER
        if not directory.is_dir():
            return []
        return [path.stem for path in _listed(directory, SECRET_SUFFIX)]

    def add_server(self, name: str, pair: KeyPair) -> Path:
        """Keep a new key pair of the appliance's own; return where.

        Raises:
            KeyFileError: There is one of that name, or it cannot be written.
        """
        _check_name(name)
        self._make(SERVER, 0o700)
        path = self._server_path(name)
        pair.write(path)
        return path

    # --------------------------------------------------------------------------- the clients

    def authorise(self, client: str, key: str) -> Path:
        """Let a client come with a key; return the file that says so.

        Raises:
            KeyFileError: It has one, its name cannot be a file's, or it cannot be written.
        """
        _check_name(client)
        path = self._authorised_path(client)
        if path.exists():
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
        _check_name(client)
        path = self._authorised_path(client)
        self._make(REVOKED, 0o755)
        number = 1
        while (kept := self.path / REVOKED / f"{client}{AGAIN}{number}{PUBLIC_SUFFIX}").exists():
            number += 1
        try:
            path.rename(kept)
        except FileNotFoundError as error:
            raise KeyFileError(f"{client} has no key in {path.parent}") from error
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be moved: {error.strerror}") from error
        return kept

    def clients(self) -> Iterator[Listed]:
        """Yield every client's key, by name; what cannot be read has an empty one."""
        found: list[Listed] = []
        for state in (AUTHORISED, REVOKED):
            directory = self.path / state
            for path in _listed(directory, PUBLIC_SUFFIX) if directory.is_dir() else ():
                try:
                    key = read_public(path)
                except KeyFileError:
                    key = ""
                # A rename keeps the file's own time and sets that of its inode.
                found.append(Listed(_client(path), state, key, path.stat().st_ctime))
        yield from sorted(found, key=lambda each: (each.client, each.since_s))

    # ---------------------------------------------------------------------- what may change

    def is_stale(self, now_ns: int) -> bool:
        """Return whether `read` may find something new. Costs two system calls."""
        mark = tuple(_changed(self.path / name) for name in (AUTHORISED, REVOKED))
        if mark != self._mark:
            self._mark, self._marked_ns, self._settled = mark, now_ns, False
            return True
        if not self._settled and now_ns - self._marked_ns > SETTLED_NS:
            self._settled = True
            return True
        return False

    def read(self) -> Ring:
        """Read the clients' keys; files that have not changed are not opened again.

        Raises:
            KeyFileError: A directory cannot be read, has gone, or anybody may write there. `ring`
                is then what it was.
        """
        problems: list[str] = []
        authorised = self._keys_in(AUTHORISED, problems)
        revoked = self._keys_in(REVOKED, problems)
        self._read = {path: self._read[path] for path in (*authorised, *revoked)}
        by_key: dict[str, str] = {}
        for path, key in authorised.items():
            if key in by_key:
                problems.append(f"{path}: is the key of {by_key[key]} too; left out")
            else:
                by_key[key] = _client(path)
        self.ring = Ring(
            by_key, {key: _client(path) for path, key in revoked.items()}, tuple(problems)
        )
        return self.ring

    def _keys_in(self, name: str, problems: list[str]) -> dict[Path, str]:
        directory = self.path / name
        keys: dict[Path, str] = {}
        try:
            for each in (self.path, directory):
                if each.stat().st_mode & stat.S_IWOTH:
                    raise KeyFileError(
                        f"{each}: anybody may write there, so nobody can be known by it; "
                        "chmod o-w it"
                    )
            paths = _listed(directory, PUBLIC_SUFFIX)
        except FileNotFoundError as error:
            if name == REVOKED or not self.ring.authorised:
                return keys
            raise KeyFileError(f"{directory}: has gone; the keys read before hold on") from error
        except OSError as error:
            raise KeyFileError(f"{directory}: cannot be read: {error.strerror}") from error
        for path in paths:
            try:
                keys[path] = self._key_in(path)
            except KeyFileError as error:  # noqa: PERF203  # the others hold all the same
                problems.append(str(error))
        return keys

    def _key_in(self, path: Path) -> str:
        try:
            found = path.stat()
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (stamp, read_public(path))
        return known[1]

    def _server_path(self, name: str) -> Path:
        return self.path / SERVER / f"{name}{SECRET_SUFFIX}"

    def _authorised_path(self, client: str) -> Path:
        return self.path / AUTHORISED / f"{client}{PUBLIC_SUFFIX}"

    def _make(self, name: str, mode: int) -> None:
        directory = self.path / name
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            directory.mkdir(mode=mode, exist_ok=True)
        except OSError as error:
            raise KeyFileError(f"{directory}: cannot be made: {error.strerror}") from error


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        raise KeyFileError(
            f"{name!r} cannot be the name of a key: letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit"
        )


def _client(path: Path) -> str:
    return path.name.removesuffix(PUBLIC_SUFFIX).partition(AGAIN)[0]


def _listed(directory: Path, suffix: str) -> list[Path]:
    """Return the files there that are keys, by name."""
    return sorted(
        path for path in directory.iterdir() if path.suffix == suffix and path.name[0] != "."
    )


def _changed(directory: Path) -> tuple[int, int]:
    try:
        found = directory.stat()
    except OSError:
        return 0, 0
    return found.st_ctime_ns, found.st_ino  # of its files, and of who may write there
