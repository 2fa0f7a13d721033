"""Counts what happens to the connections of a listening ZeroMQ socket.

libzmq's I/O thread reports through an in-process PAIR socket and would stall if nobody read it;
`ConnectionMonitor.run` must therefore run for as long as the socket is open.
"""

from __future__ import annotations

import struct

import trio
import zmq
from attrs import evolve, frozen

from appliance.io.zmq_socket import ZmqSocket

_EVENT = struct.Struct("=HI")
_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)

# Each event counts one field of ConnectionCounts.
_FIELD_OF = {
    int(zmq.EVENT_ACCEPTED): "accepted",
    int(zmq.EVENT_ACCEPT_FAILED): "accept_failed",
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): "handshakes",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "handshakes_failed",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "handshakes_failed",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "handshakes_refused",
    int(zmq.EVENT_DISCONNECTED): "disconnected",
}

# How the protocol was broken, where that is counted once more.
_FIELD_OF_BREACH = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): "handshakes_mismatched",
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): "handshakes_undeciphered",
}


@frozen(kw_only=True)
class ConnectionCounts:
    """Connections since the start.

    Attributes:
        accepted: Accepted by the kernel; nothing is known about the peer yet.
        accept_failed: Not accepted, as when descriptors run out.
        handshakes: Became ZeroMQ peers.
        handshakes_failed: Broke the protocol or gave up half-way. What does not even begin like
            ZeroMQ (a browser, say) is not among them, but among `disconnected`.
        handshakes_refused: Failed authentication.
        handshakes_mismatched: Of those that failed: came without a key where one is asked for, or
            the other way round.
        handshakes_undeciphered: Of those that failed: took this for somebody with another key.
        disconnected: Ended, by either side, after or instead of a handshake.
    """

    accepted: int = 0
    accept_failed: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    handshakes_refused: int = 0
    handshakes_mismatched: int = 0
    handshakes_undeciphered: int = 0
    disconnected: int = 0

    @property
    def open(self) -> int:
        """Connections open now."""
        return self.accepted - self.disconnected


class ConnectionMonitor:
    """Watches one socket. Make it before the socket binds, so that nothing is missed."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        events = zmq.EVENT_MONITOR_STOPPED
        for event in _FIELD_OF:
            events |= event
        self._socket = socket
        self._reports = ZmqSocket(socket.get_monitor_socket(events))
        self._counts = ConnectionCounts()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Count until the watched socket is closed."""
        task_status.started()
        while True:
            for report in await self._reports.receive_some():
                event, value = _EVENT.unpack(report[0])
                if event == zmq.EVENT_MONITOR_STOPPED:
                    return
                names = [_FIELD_OF[event]]
                if event == _PROTOCOL and value in _FIELD_OF_BREACH:
                    names.append(_FIELD_OF_BREACH[value])
                counts = {name: getattr(self._counts, name) + 1 for name in names}
                self._counts = evolve(self._counts, **counts)

    def statistics(self) -> ConnectionCounts:
        """Return an immutable snapshot."""
        return self._counts

    def close(self) -> None:
        """Stop watching; `run` ends with `trio.ClosedResourceError` if it still waits."""
        if not self._socket.closed:
            # First: libzmq reports the end of monitoring, and waits for ever if nobody can read.
            self._socket.disable_monitor()
        self._reports.close()
