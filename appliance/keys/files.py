"""What a key file holds, and who may be able to read it.

A key file is lines of `name = "value"`, and comments that begin with `#`. It is refused unless it
belongs to us or root and nobody else may write to it: whoever may could have put another key there.
One with a secret in it is refused as well if others can read it: then it is no secret.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from appliance.errors import KeyFileError
from appliance.keys import z85

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a keyed client, or a key, may be called: it is a file's name too."""

MAX_BYTES = 4096
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_LINE = re.compile(r'([a-z_]+)\s*=\s*"([^"]*)"')
_KEYS = ("public_key", "secret_key", "server_key")
_ROOT = 0


@frozen(kw_only=True)
class KeyPair:
    """A key of the appliance's own, as Z85."""

    public_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> KeyPair:
        """Read a secret file.

        Raises:
            KeyFileError: It cannot be read, others can read it, or it holds no key.
        """
        values = parse(read_secret(path), str(path), ("public_key", "secret_key"))
        return cls(public_key=values["public_key"], secret_key=values["secret_key"])

    def write(self, path: Path) -> None:
        """Write a secret file where there is none.

        Raises:
            KeyFileError: There is one, or it cannot be written.
        """
        text = _written(
            f"Secret key of the appliance ({path.stem}): it stays here, mode 0600.",
            {"public_key": self.public_key, "secret_key": self.secret_key},
        )
        write_new(path, text, SECRET_MODE)


@frozen(kw_only=True)
class ClientKeys:
    """What a client needs: its own key pair, and the public key of its appliance. As Z85.

    Attributes:
        client: The client id that the key was made for; may be empty.
    """

    public_key: str
    secret_key: str = field(repr=False)
    server_key: str
    client: str = ""

    def __attrs_post_init__(self) -> None:
        for name in _KEYS:
            if not z85.is_key(getattr(self, name)):
                raise KeyFileError(f"{name}: this is no key; it has {z85.KEY_CHARACTERS} of Z85")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ClientKeys:
        """Read the file that `appliance keys new` wrote.

        Raises:
            KeyFileError: It cannot be read, others can read it, or it holds no keys.
        """
        values = parse(read_secret(Path(path)), str(path), _KEYS)
        return cls(
            public_key=values["public_key"],
            secret_key=values["secret_key"],
            server_key=values["server_key"],
            client=values.get("client", ""),
        )

    def write(self, path: Path) -> None:
        """Write such a file where there is none.

        Raises:
            KeyFileError: There is one, or it cannot be written.
        """
        text = _written(
            f"Secret key of client {self.client}: for it alone, mode 0600.",
            {
                "client": self.client,
                "public_key": self.public_key,
                "secret_key": self.secret_key,
                "server_key": self.server_key,
            },
        )
        write_new(path, text, SECRET_MODE)


def read_public(path: Path, *, owner: int | None = None) -> str:
    """Read the file of a public key.

    Args:
        owner: Whose it may be, beside ours and root's.

    Raises:
        KeyFileError: It cannot be read, others may write to it, or it holds none.
    """
    return parse(_read(path, secret=False, owner=owner), str(path), ("public_key",))["public_key"]


def write_public(path: Path, client: str, key: str) -> None:
    """Write the file of a client's public key where there is none.

    Raises:
        KeyFileError: There is one, or it cannot be written.
    """
    text = _written(f"Public key of client {client}.", {"public_key": key})
    write_new(path, text, PUBLIC_MODE)


def read_plain(path: Path) -> dict[str, str]:
    """Read the lines of a file that holds no secret.

    Raises:
        KeyFileError: It cannot be read, others may write to it, or a line is none.
    """
    return parse(_read(path, secret=False), str(path), ())


def read_secret(path: Path) -> str:
    """Return the text of a file that only its owner, we or root, can read.

    Raises:
        KeyFileError: Others can, or it cannot be read.
    """
    return _read(path, secret=True)


def parse(text: str, where: str, needed: tuple[str, ...]) -> dict[str, str]:
    """Read the lines of a key file; those whose names are not known are left out.

    Raises:
        KeyFileError: A line is none, a key is none, or one that is needed is missing.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        if found is None:
            raise KeyFileError(f'{where}: line {number}: expected name = "value"')
        values[found[1]] = found[2]
    for name in needed:
        if name not in values:
            raise KeyFileError(f"{where}: {name} is missing; `appliance keys new` writes it")
        if not z85.is_key(values[name]):
            raise KeyFileError(
                f"{where}: {name} is no key: {z85.KEY_CHARACTERS} characters of Z85 are one"
            )
    return values


def write_new(path: Path, text: str, mode: int) -> None:
    """Write a whole file at once, where there is none; nobody ever sees half of it.

    Raises:
        KeyFileError: There is one, or it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, mode)  # whatever the umask
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.link(scratch, path)
        finally:
            scratch.unlink()
    except FileExistsError as error:
        raise KeyFileError(f"{path}: is there already, and is not written over") from error
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from error


def _read(path: Path, *, secret: bool, owner: int | None = None) -> str:
    try:
        # A pipe would keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"{path}: is no file")
        if found.st_uid != owner:
            check_owner(str(path), found)
        if secret:
            check_secret(str(path), found)
        else:
            check_writers(str(path), found)
        data = os.read(descriptor, MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise KeyFileError(f"{path}: is longer than {MAX_BYTES} bytes: no key file")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path}: is no text: no key file") from error


def check_owner(where: str, found: os.stat_result) -> None:
    """Refuse a file or a directory of somebody who is neither us nor root.

    Raises:
        KeyFileError: It is.
    """
    if found.st_uid not in (os.geteuid(), _ROOT):
        raise KeyFileError(
            f"{where}: belongs to user {found.st_uid}, not to us ({os.geteuid()}) or root; chown "
            "it, or let its owner run this"
        )


def check_writers(where: str, found: os.stat_result) -> None:
    """Refuse a file or a directory that others than its owner may write to.

    Raises:
        KeyFileError: They may.
    """
    if found.st_mode & OTHERS_WRITE:
        raise KeyFileError(
            f"{where}: others than its owner may write there (its mode is "
            f"{stat.S_IMODE(found.st_mode):04o}), so nobody can be known by it; chmod go-w it"
        )


def check_secret(where: str, found: os.stat_result) -> None:
    """Refuse the file of a secret that others may know.

    Raises:
        KeyFileError: They may.
    """
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~SECRET_MODE:
        raise KeyFileError(
            f"{where}: holds a secret key, and its mode is {mode:04o}; chmod 600 it, and make a "
            "new key if somebody else may have read it"
        )


def _written(comment: str, values: Mapping[str, str]) -> str:
    lines = [f"# {comment}", *(f'{name} = "{value}"' for name, value in values.items())]
    return "\n".join(lines) + "\n"
