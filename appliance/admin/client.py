"""Asks a running appliance over its admin socket. Standard library only, for a quick CLI."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any

from appliance.errors import AdminError, AdminUnreachable

_TIMEOUT_S = 2.0


def get(
    socket_path: str | os.PathLike[str], path: str, timeout_s: float = _TIMEOUT_S
) -> dict[str, Any] | str:
    """GET `path` and return its document, or its text where it is not JSON.

    Raises:
        AdminUnreachable: Nobody answers there within `timeout_s`; the message says what to do.
        AdminError: The appliance answered with an error.
    """
    return _ask("GET", os.fspath(socket_path), path, timeout_s)


def post(
    socket_path: str | os.PathLike[str], path: str, timeout_s: float = _TIMEOUT_S
) -> dict[str, Any] | str:
    """POST to `path`, without a body; otherwise as `get`."""
    return _ask("POST", os.fspath(socket_path), path, timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _ask(method: str, socket_path: str, path: str, timeout_s: float) -> dict[str, Any] | str:
    connection = _UnixConnection(socket_path, timeout_s)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise AdminUnreachable(_why(socket_path, timeout_s, error)) from error
    finally:
        connection.close()
    is_json = response.headers.get_content_type() == "application/json"
    try:
        document: dict[str, Any] | str = json.loads(body) if is_json else body.decode()
    except ValueError as error:
        raise AdminUnreachable(_why(socket_path, timeout_s, error)) from error
    if response.status >= 400:
        raise AdminError(f"{method} {path}: {_message(document) or response.reason}")
    return document


def _message(document: dict[str, Any] | str) -> str:
    return document if isinstance(document, str) else document["error"]["message"]


def _why(socket_path: str, timeout_s: float, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return (
            f"{socket_path}: no such socket: is the appliance running? Start it with "
            "`appliance serve`, or name its socket with --socket"
        )
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{socket_path}: nobody listens; the appliance ended without tidying up. "
            "Start it with `appliance serve`"
        )
    if isinstance(error, PermissionError):
        return (
            f"{socket_path}: user {os.geteuid()} may not open it; "
            "join the group that owns it, or use sudo"
        )
    if isinstance(error, TimeoutError):
        return f"{socket_path}: no answer within {timeout_s:g} s; the appliance is stuck or stopped"
    return f"{socket_path}: no appliance answers there ({type(error).__name__}: {error})"
