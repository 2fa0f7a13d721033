"""Tells systemd how the service is: sd_notify, one datagram a message.

Nothing here blocks or raises: the service manager's absence never disturbs the service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from attrs import define, field


@define(eq=False)
class Notifier:
    """Sends to one service manager, or to none.

    Attributes:
        address: The manager's datagram socket; a leading NUL means the abstract namespace; empty:
            there is no manager.
        watchdog_interval_ns: Call `watchdog` this often (half of what the manager tolerates);
            None: it does not watch.
    """

    address: str = ""
    watchdog_interval_ns: int | None = None
    _socket: socket.socket | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        if address.startswith("@"):
            address = "\0" + address[1:]
        return cls(address, _watchdog_interval_ns(environ))

    def ready(self) -> bool:
        """Tell that the service is up. This and the others return whether a manager took it."""
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """Tell in one line, for people, what the service is doing."""
        return self._send("STATUS=" + " ".join(text.splitlines()))

    def extend_start(self, by_ns: int) -> bool:
        """Ask to be given this long from now on to be up, if that is more than is left."""
        return self._send(f"EXTEND_TIMEOUT_USEC={by_ns // 1000}")

    def watchdog(self) -> bool:
        """Tell that the service is alive."""
        return self._send("WATCHDOG=1")

    def stopping(self) -> bool:
        """Tell that the service has begun to stop."""
        return self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> bool:
        if not self.address:
            return False
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.sendto(message.encode(errors="replace"), self.address)
        except OSError:
            return False
        return True


def _watchdog_interval_ns(environ: Mapping[str, str]) -> int | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "") or str(os.getpid())
    if not microseconds.isdecimal() or int(microseconds) == 0 or meant_for != str(os.getpid()):
        return None
    return int(microseconds) * 1000 // 2
