"""Ports that nobody gets who does not ask for them."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def free_ports() -> tuple[int, int]:
    """Return two."""
    found: list[int] = []
    for port in range(22_000 + os.getpid() % 8_000, 32_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == 2:
            break
    return found[0], found[1]
