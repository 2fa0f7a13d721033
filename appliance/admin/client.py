"""Asks a running appliance over its admin socket. Standard library only, for a quick CLI."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
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
    socket_path: str | os.PathLike[str],
    path: str,
    timeout_s: float = _TIMEOUT_S,
    document: Mapping[str, Any] | None = None,
) -> dict[str, Any] | str:
    """POST `document` to `path`; otherwise as `get`."""
    return _ask("POST", os.fspath(socket_path), path, timeout_s, document)


def _ask(
    method: str,
    socket_path: str,
    path: str,
    timeout_s: float,
    sent: Mapping[str, Any] | None = None,
) -> dict[str, Any] | str:
    try:
        raw = _exchange(socket_path, request(method, path, sent), timeout_s)
        return answer(method, path, raw)
    except (OSError, ValueError) as error:
        raise AdminUnreachable(why(socket_path, timeout_s, error)) from error


def request(method: str, path: str, sent: Mapping[str, Any] | None = None) -> bytes:
    """Return what to send: HTTP/1.0, where the answer ends with the connection.

    By hand, because importing http.client takes longer than everything else `status` does.
    """
    body = b"" if sent is None else json.dumps(sent).encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def answer(method: str, path: str, raw: bytes) -> dict[str, Any] | str:
    """Return the document, or the text, of an answer that came whole.

    Raises:
        AdminError: The appliance answered with an error.
        ValueError: It is not HTTP, or was cut off.
    """
    status, content_type, body = _parse(raw)
    is_json = content_type.startswith("application/json")
    document: dict[str, Any] | str = json.loads(body) if is_json else body.decode()
    if status >= 400:
        raise AdminError(f"{method} {path}: {_message(document) or status}")
    return document


def _exchange(socket_path: str, sent: bytes, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(socket_path)
        connection.sendall(sent)
        parts: list[bytes] = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def _parse(raw: bytes) -> tuple[int, str, bytes]:
    """Return status, content type and body of an answer.

    Raises:
        ValueError: It is not HTTP, or was cut off.
    """
    head, separator, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not separator or not version.startswith("HTTP/1."):
        raise ValueError("that is no HTTP")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if len(body) != int(headers.get("content-length", len(body))):
        raise ValueError("the answer was cut off")
    return int(rest[:3]), headers.get("content-type", ""), body


def _message(document: dict[str, Any] | str) -> str:
    return document if isinstance(document, str) else document["error"]["message"]


def why(socket_path: str, timeout_s: float, error: Exception) -> str:
    """Say why nobody answers, and what to do."""
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
