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
_REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_BROKEN = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_CUT = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_MISMATCH = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)

NOBODY = "nobody answers"
LOST = "the connection was lost"
REFUSED = "the appliance refused the key: it does not know it, or it was revoked"
NO_KEY = "the appliance asks for a key, and this connection has none: Connection(..., keys=FILE)"
UNEXPECTED_KEY = "who answers asks for no key: it may not be the appliance that was meant"
CUT_WITH_KEY = (
    "who answers ended the handshake: it has another server key than this connection expects, or "
    "asks for no key"
)
CUT_WITHOUT_KEY = "who answers ended the handshake: it may ask for a key, or be starting"
NO_APPLIANCE = "who answers does not speak as an appliance does"


class Watch:
    """The reports on one socket's connection; begins before the socket connects.

    Args:
        keyed: The connection has a key.

    Attributes:
        descriptor: Readable while there is news.
        error: Why there is no connection, as far as that was reported; empty while there is one.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        *,
        keyed: bool = False,
    ) -> None:
        self.error = ""
        self._keyed = keyed
        self._explained = False  # this attempt's end
        self._socket = socket
        self._reports = context.socket(zmq.PAIR)
        # Nothing else is asked for: libzmq stalls when what it reports is not read.
        socket.monitor(f"inproc://{name}", _MADE | _ENDED | _FAILED | _REFUSED | _BROKEN | _CUT)
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
            event, value = _REPORT.unpack(reports.recv_multipart(_NOBLOCK)[0])
            if event in (_MADE, _ENDED, _FAILED):
                self._over(event)
                yield event == _MADE
            else:
                self.error = self._explanation(event, value)
                self._explained = True  # the end itself follows

    def begin(self) -> None:
        """Another attempt is made."""
        self._explained = False

    def _over(self, event: int) -> None:
        if event == _MADE:
            self.error = ""
        elif not self._explained:
            self.error = LOST if event == _ENDED else NOBODY

    def _explanation(self, event: int, value: int) -> str:
        if event == _REFUSED:
            return REFUSED
        if event == _CUT:
            return CUT_WITH_KEY if self._keyed else CUT_WITHOUT_KEY
        if value == _MISMATCH:
            return UNEXPECTED_KEY if self._keyed else NO_KEY
        return NO_APPLIANCE

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        if not self._socket.closed:
            # First: libzmq waits for ever if it reports to nobody.
            self._socket.disable_monitor()
        self._reports.close(linger=0)
