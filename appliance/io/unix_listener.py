"""A unix socket to listen on, and who is at the other end of a connection."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from pathlib import Path

import trio
from attrs import frozen

from appliance.errors import ConfigError

_BACKLOG = 64
# sockaddr_un holds 108 bytes, the closing zero among them.
_PATH_BYTES = 107
_UCRED = struct.Struct("=iII")


@frozen
class Credentials:
    """The process that connected, as the kernel knew it at that moment."""

    pid: int
    uid: int
    gid: int


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """Listens on a socket file, and removes that file when closed. Made by `open_unix_listener`."""

    def __init__(self, listener: trio.SocketListener, path: Path) -> None:
        self.path = path
        self._listener = listener
        self._inode = _inode(path)

    async def accept(self) -> trio.SocketStream:
        """Wait for the next connection."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Stop listening and remove the file, if it is still ours. Idempotent."""
        if self._inode is not None and _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)
        self._inode = None
        await self._listener.aclose()


async def open_unix_listener(path: str | os.PathLike[str], mode: int = 0o660) -> UnixListener:
    """Listen on the socket file `path`, created with `mode`.

    A socket file that nobody listens on, left by a process that was killed, is replaced.

    Raises:
        ConfigError: Somebody listens there; something else than a socket lies there; or the file
            cannot be made there. The message says what to do.
    """
    path = Path(path)
    await trio.lowlevel.checkpoint()
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise ConfigError(
            f"{path}: too long for a socket: at most {_PATH_BYTES} bytes; choose a shorter path"
        )
    _remove_stale(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(server, path, mode)
        server.listen(_BACKLOG)
    except BaseException:
        server.close()
        raise
    return UnixListener(trio.SocketListener(trio.socket.from_stdlib_socket(server)), path)


def peer_credentials(stream: trio.SocketStream) -> Credentials:
    """Return who connected `stream`, a unix socket's stream."""
    data = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(data))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except OSError:
        return  # binding says what is wrong, if anything is
    if not stat.S_ISSOCK(kind):
        raise ConfigError(
            f"{path}: there is something else than a socket; move it or choose another"
        )
    if somebody_listens(path):
        raise ConfigError(
            f"{path}: another instance is listening there; stop it, or give this one another path"
        )
    with contextlib.suppress(OSError):
        path.unlink()


def somebody_listens(path: Path) -> bool:
    """Return whether a process listens on `path`.

    Found by connecting; whatever is not a plain refusal may be somebody (busy, or not ours).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError as error:
            return error.errno != errno.ENOENT
        return True


def _bind(server: socket.socket, path: Path, mode: int) -> None:
    # The file must never exist with more rights than `mode`, so chmod afterwards is too late.
    before = os.umask(0o777 & ~mode)
    try:
        server.bind(os.fspath(path))
    except OSError as error:
        raise ConfigError(_why_not(path, error)) from error
    finally:
        os.umask(before)


def _why_not(path: Path, error: OSError) -> str:
    directory = path.parent
    if error.errno == errno.ENOENT:
        return f"{path}: there is no directory {directory}; create it or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{path}: user {os.geteuid()} may not write in {directory}; "
            f"let it (chown {os.geteuid()} {directory}) or choose another path"
        )
    if error.errno == errno.EADDRINUSE:
        return f"{path}: another instance came first; stop it, or give this one another path"
    return f"{path}: cannot listen there: {error.strerror}; choose another path"
