"""API tokens of the gRPC door's clients: who holds one is who it was made for.

`keys/tokens/NAME.token` holds the token's SHA-256, never the token: whoever reads the file cannot
come in by it. A token is 256 random bits, so that its hash need be neither slow nor salted.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from attrs import define, field

from appliance.errors import KeyFileError
from appliance.keys.directory import check_name, directory_stamp
from appliance.keys.files import (
    NAME,
    PUBLIC_MODE,
    check_owner,
    check_writers,
    read_plain,
    write_new,
)

DIRECTORY, SUFFIX = "tokens", ".token"
PREFIX = "appliance_"
"""So that scanners for leaked secrets can find them."""

_BYTES = 32
_MOST_CHARACTERS = 128
_DIGEST = re.compile(r"[0-9a-f]{64}")


@define(eq=False)
class Tokens:
    """Those in a directory of keys. One owner.

    Attributes:
        problems: Files that are left out, and why.
    """

    path: Path
    problems: tuple[str, ...] = field(default=(), init=False)
    _clients: dict[str, str] = field(factory=dict[str, str], init=False)  # by digest
    _stamp: tuple[tuple[int, ...], ...] | None = field(default=None, init=False)

    @property
    def directory(self) -> Path:
        """Where they lie."""
        return self.path / DIRECTORY

    def add(self, client: str) -> str:
        """Make a client's token and keep its hash; return the token, which nobody can see again.

        Raises:
            KeyFileError: It has one, its name cannot be a file's, or it cannot be written.
        """
        check_name(client)
        token = PREFIX + secrets.token_urlsafe(_BYTES)
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise KeyFileError(f"{self.directory}: cannot be made: {error.strerror}") from error
        text = f'# Hash of the API token of client {client}.\ndigest = "{_digest(token)}"\n'
        write_new(self._file(client), text, PUBLIC_MODE)
        return token

    def revoke(self, client: str) -> Path:
        """Let a client's token hold no more; return the file that is gone.

        Raises:
            KeyFileError: It has none, or it cannot be removed.
        """
        check_name(client)
        path = self._file(client)
        try:
            path.unlink()
        except FileNotFoundError as error:
            raise KeyFileError(f"{client} has no token in {self.directory}") from error
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be removed: {error.strerror}") from error
        return path

    def look(self) -> None:
        """Read them again if any of them, or who may write there, has changed.

        Raises:
            KeyFileError: It cannot be read, or others may write there. Nobody comes in then.
        """
        paths = sorted(self.directory.glob(f"*{SUFFIX}"))
        stamp = tuple(map(directory_stamp, (self.path, self.directory, *paths)))
        if stamp == self._stamp:
            return
        self._clients, self.problems = {}, ()
        clients: dict[str, str] = {}
        problems: list[str] = []
        try:
            for each in (self.path, self.directory):
                found = each.stat()
                check_owner(str(each), found)
                check_writers(str(each), found)
        except FileNotFoundError:
            pass  # none was made yet
        except OSError as error:
            raise KeyFileError(f"{self.directory}: cannot be read: {error.strerror}") from error
        for path in paths:
            digest, problem = _read(path)
            if problem:  # the others hold all the same
                problems.append(problem)
            else:
                clients[digest] = path.stem
        self._clients, self.problems, self._stamp = clients, tuple(problems), stamp

    def client_of(self, token: str) -> str | None:
        """Return whose a token is; None: nobody's."""
        if len(token) > _MOST_CHARACTERS:
            return None
        return self._clients.get(_digest(token))

    def clients(self) -> list[str]:
        """Return who has a token, by name."""
        return sorted(self._clients.values())

    def _file(self, client: str) -> Path:
        return self.directory / f"{client}{SUFFIX}"


def _digest(token: str) -> str:
    return hashlib.sha256(os.fsencode(token)).hexdigest()


def _read(path: Path) -> tuple[str, str]:
    """Return a hash, and what is wrong with the file if it cannot be used."""
    if NAME.fullmatch(path.stem) is None:
        return "", f"{path.parent}/{ascii(path.name)[1:-1]}: no client can have that name"
    try:
        digest = read_plain(path).get("digest", "")
    except KeyFileError as error:
        return "", str(error)
    if _DIGEST.fullmatch(digest) is None:
        return "", f"{path}: digest is no SHA-256; `appliance keys new-token` writes it"
    return digest, ""
