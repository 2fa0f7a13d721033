"""The control socket of one generation: whole messages, never a wait.

A SOCK_SEQPACKET pair keeps message boundaries and order and reports the other side's end. Each
generation has its own, so nothing of an older one can arrive on it.
"""

from __future__ import annotations

import contextlib
import socket

from appliance.wire.worker import MAX_DATAGRAM


class Channel:
    """Our end. All calls return at once.

    Attributes:
        socket: To wait on.
        closed: Whether the worker has closed its end, and all it sent has been received.
    """

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(0)
        self.socket = end
        self.closed = False
        # Received into, as memory of that size made anew for each message takes 20 µs.
        self._datagram = memoryview(bytearray(MAX_DATAGRAM + 1))

    def send(self, datagram: bytes) -> None:
        """Send one message; to a worker that has closed its end it goes nowhere.

        Raises:
            OSError: It is not taken, as the worker is so far behind that the socket is full.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `closed` will tell
            self.socket.send(datagram)

    def receive(self) -> bytes | None:
        """Return one message, or None if there is none now.

        A message longer than `MAX_DATAGRAM` comes cut to one byte more than that.
        """
        try:
            datagram = self._receive()
        except BlockingIOError:
            return None
        if not datagram:  # the end; an empty message looks the same and is no message either
            self.closed = True
            return None
        return datagram

    def _receive(self) -> bytes:
        try:
            size = self.socket.recv_into(self._datagram)
        except ConnectionResetError:
            # Told once, before what is still queued: it ended without having read all it was sent.
            size = self.socket.recv_into(self._datagram)
        return bytes(self._datagram[:size])

    def close(self) -> None:
        """Close our end."""
        self.socket.close()


def open_channel() -> tuple[Channel, socket.socket]:
    """Return our end, and the one for the worker process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs
