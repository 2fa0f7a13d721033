"""A client of HTTP/2 that keeps no rules, for tests: frames by hand (RFC 9113), headers plain."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8
INITIAL_WINDOW_SIZE = 4
PONG = b"\x00\x00\x08\x06\x01"
"""How the answer to a ping begins."""


class RawClient:
    """One connection; a stream is an odd number, growing."""

    def __init__(self, address: str, *, reads: bool = True) -> None:
        """Connect; one that does not read opens no window for answers."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.socket.sendall(PREFACE)
        self.frame(SETTINGS, 0, 0, b"" if reads else struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
        self.socket.sendall(head + struct.pack(">I", stream) + payload)

    def open(self, stream: int, path: str, **more: str) -> None:
        """Send the headers of a call, and others (`_` for `-`)."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "box",
            "content-type": "application/grpc",
            "te": "trailers",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        payload = b"".join(
            b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
            for name, value in fields.items()
        )
        self.frame(HEADERS, END_HEADERS, stream, payload)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.frame(PING, 0, 0, bytes(8))

    def reset(self, stream: int) -> None:
        self.frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))

    def vanish(self) -> None:
        """Reset the connection, without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def wait_for(self, wanted: bytes) -> bytes:
        """Return what came until it held that; what came in all if the other side hung up."""
        came = b""
        with suppress(ConnectionError):
            while wanted not in came:
                part = self.socket.recv(1 << 16)
                if not part:
                    break
                came += part
        return came


def message(length: int, body: bytes = b"", *, compressed: bool = False) -> bytes:
    """Return the beginning of a gRPC message that says it has so many bytes."""
    return bytes((compressed,)) + struct.pack(">I", length) + body
