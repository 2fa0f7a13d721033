"""What became of a socket's connection, as libzmq itself reports it."""

from __future__ import annotations

import select
import struct
from collections.abc import Iterator

import zmq

_REPORT = struct.Struct("=HI")
_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
_MADE = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_ENDED = int(zmq.EVENT_DISCONNECTED)
_FAILED = int(zmq.EVENT_CONNECT_RETRIED)


class Watch:
    """The reports on one socket's connection; begins before the socket connects.

    Attributes:
        descriptor: Readable while there is news.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], name: str
    ) -> None:
        self._socket = socket
        self._reports = context.socket(zmq.PAIR)
        # Nothing else is asked for: libzmq stalls when what it reports is not read.
        socket.monitor(f"inproc://{name}", _MADE | _ENDED | _FAILED)
        self._reports.connect(f"inproc://{name}")
        # Asking the descriptor costs a fifth of asking ZeroMQ. It tells of everything that comes
        # after a look that found nothing: this one, and the one that `news` ends with.
        self._reports.getsockopt(_EVENTS)
        self.descriptor = int(self._reports.getsockopt(zmq.FD))
        self._descriptor = select.poll()
        self._descriptor.register(self.descriptor, select.POLLIN)

    def news(self) -> Iterator[bool]:
        """Yield, in order, True for a connection that was made, False for one that is over.

        A failed attempt to connect is over, too.
        """
        if not self._descriptor.poll(0):
            return
        reports = self._reports
        while int(reports.getsockopt(_EVENTS)) & _POLLIN:
            event, _ = _REPORT.unpack(reports.recv_multipart(_NOBLOCK)[0])
            yield event == _MADE

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        if not self._socket.closed:
            # First: libzmq waits for ever if it reports to nobody.
            self._socket.disable_monitor()
        self._reports.close(linger=0)
