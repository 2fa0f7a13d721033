"""The one owner of a connection's socket: moves messages between it and the core, never waiting.

What cannot be sent stays in the core, where a newer observation replaces it: the socket is given
messages only while its connection is up, and few of them, for what it has taken nothing replaces.

A socket whose connection is over keeps what it received, until that is read, and what it was to
send. So it must not connect again by itself, or what is stale by then would leave before anybody
here has a say. The link does it, in the calls that are made anyway, once everything received is
read and a pause is over; what was unsent is dropped there. (ZMQ_IMMEDIATE would keep stale messages
back too, but drops the answers with them.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import ClassVar

import zmq

from appliance.client.core import HEARTBEAT_NS, Core
from appliance.client.watch import Watch
from appliance.errors import LocalProtocolError
from appliance.keys.files import ClientKeys

ZERO_COPY_BYTES = 64 * 1024
"""From here on handing over a reference costs less than copying."""

SEND_MARK = 16
RECEIVE_MARK = 1000
MAX_MESSAGE_BYTES = 256 << 20
MAX_MOVES = 512
"""Messages moved by one pump: a flood cannot hold the caller."""
NOT_BY_ITSELF_MS = 1 << 30
"""How long libzmq waits before it connects again: days. Told never to, it would drop what it
received; told twice as long, some versions overflow and do it at once."""

# Plain integers: arithmetic on pyzmq's enums costs more than the calls they are for.
_EVENTS, _POLLIN, _POLLOUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT)
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)


def address(server: str) -> str:
    """Return the ZeroMQ address of `host:port`, or of an address with its transport.

    Raises:
        ValueError: It is in-process, where nothing reports whether a connection is there.
    """
    if server.startswith("inproc:"):
        raise ValueError(f"server {server!r}: an appliance is reached by tcp:// or ipc://")
    return server if "://" in server else f"tcp://{server}"


class Link:
    """A DEALER socket and the core it feeds.

    Attributes:
        core: What is asked and answered.
        arrived: Messages received so far.
        up: The connection is there, as far as was heard.
        edge_triggered: Somebody waits on the descriptor itself: every pump has to end with a look
            that finds nothing, because sending may swallow the news of an arrival.
    """

    edge_triggered: ClassVar[bool] = False

    def __init__(
        self,
        server: str,
        core: Core,
        *,
        reconnect_ivl_ms: int,
        reconnect_max_ms: int,
        keys: ClientKeys | None,
        context: zmq.Context[zmq.Socket[bytes]] | None,
    ) -> None:
        self.core = core
        self.arrived = 0
        self.up = False
        self._address = address(server)
        self._first_pause_ns = self._pause_ns = max(1, reconnect_ivl_ms) * 1_000_000
        self._longest_pause_ns = max(reconnect_ivl_ms, reconnect_max_ms) * 1_000_000
        self._tried_ns = time.monotonic_ns()
        self._again_ns: int | None = None  # when to connect anew
        self._own_context = context is None
        self._context = zmq.Context() if context is None else context
        self._socket = self._context.socket(zmq.DEALER)
        self._name_anew()
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, SEND_MARK),
            (zmq.RCVHWM, RECEIVE_MARK),
            (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
            (zmq.RECONNECT_IVL, NOT_BY_ITSELF_MS),
            (zmq.HEARTBEAT_IVL, 1000),  # a server that is gone without a word is noticed
            (zmq.HEARTBEAT_TIMEOUT, 3000),
        ):
            self._socket.setsockopt(option, value)
        if keys is not None:
            for option, key in (
                (zmq.CURVE_SERVERKEY, keys.server_key),
                (zmq.CURVE_PUBLICKEY, keys.public_key),
                (zmq.CURVE_SECRETKEY, keys.secret_key),
            ):
                self._socket.setsockopt(option, key.encode())
        self._watch = Watch(self._socket, self._context, f"link-{id(self)}", keyed=keys is not None)
        try:
            self._socket.connect(self._address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"server {server!r}: {error}") from error
        self._arrivals = zmq.Poller()
        self._arrivals.register(self._socket, zmq.POLLIN)
        self._both = zmq.Poller()
        self._both.register(self._socket, zmq.POLLIN | zmq.POLLOUT)
        for poller in (self._arrivals, self._both):
            poller.register(self._watch.descriptor, zmq.POLLIN)

    @property
    def error(self) -> str:
        """Why nothing is answered, as far as it is known; empty if nothing is wrong."""
        return self._watch.error or self.core.refusal

    @property
    def descriptors(self) -> tuple[int, int]:
        """What turns readable when there may be something to do (edge-triggered: pump it dry)."""
        return int(self._socket.getsockopt(zmq.FD)), self._watch.descriptor

    @property
    def idle_ns(self) -> int:
        """In how long, at most, a pump may have something to do though nothing came."""
        if self._again_ns is None:
            return HEARTBEAT_NS
        return min(HEARTBEAT_NS, max(0, self._again_ns - time.monotonic_ns()))

    def pump(self, *, prompt: bool = False) -> bool:
        """Send and receive what can be without waiting; return whether more is left to move.

        Raises:
            LocalProtocolError: The connection is closed.
        """
        socket, core = self._socket, self.core
        if core.closed:
            raise LocalProtocolError("the connection is closed")
        now_ns = time.monotonic_ns()
        core.tick(now_ns)
        self._follow(now_ns)
        for _ in range(MAX_MOVES):
            events = int(socket.getsockopt(_EVENTS))
            if self.up and events & _POLLOUT and core.has_outgoing:
                self._send()
                if not (self.edge_triggered or core.has_outgoing or events & _POLLIN):
                    return False
            elif events & _POLLIN:
                self._receive(prompt=prompt)
            elif self._again_ns is not None and now_ns >= self._again_ns:
                self._connect_anew(now_ns)
            else:
                return False
        return True

    def _follow(self, now_ns: int) -> None:
        """Take in what became of the connection; if it is over, say when to connect anew."""
        for up in self._watch.news():
            if up:
                self._again_ns = None
                self._pause_ns = self._first_pause_ns
            elif self._again_ns is None:
                # What was lost may still be there for the appliance, which would not take another.
                self._again_ns = self._pause_ns + (now_ns if self.up else self._tried_ns)
                self._pause_ns = min(2 * self._pause_ns, self._longest_pause_ns)
            self.up = up

    def _connect_anew(self, now_ns: int) -> None:
        """Leave the connection that is over, with what it did not send, for another."""
        self._again_ns = None
        self._tried_ns = now_ns
        self._watch.begin()
        self._socket.disconnect(self._address)
        # An appliance that has not noticed the loss yet would not hear a second one of that name.
        self._name_anew()
        self._socket.connect(self._address)

    def _name_anew(self) -> None:
        # Random, so that nobody else's replies can come here; printable, for those who debug.
        self._socket.setsockopt(zmq.ROUTING_ID, os.urandom(16).hex().encode())

    def _send(self) -> None:
        outgoing = self.core.outgoing(time.monotonic_ns())
        # The payload is immutable bytes of our own: the caller's arrays were copied into it, once,
        # because ZeroMQ reads it after `observe` has returned.
        copy = len(outgoing.payload) < ZERO_COPY_BYTES
        send = self._socket.send
        try:
            send(b"", _NOBLOCK_MORE)
            send(outgoing.envelope, _NOBLOCK_MORE)
            send(outgoing.payload, _NOBLOCK, copy)
        except zmq.Again:  # only the first frame can fail so: nothing is sent by halves
            return
        self.core.sent(outgoing, time.monotonic_ns())

    def _receive(self, *, prompt: bool) -> None:
        try:
            frames = self._socket.recv_multipart(_NOBLOCK)
        except zmq.Again:
            return
        self.arrived += 1
        self.core.receive(frames, time.monotonic_ns(), prompt=prompt)

    def wait(self, ready: Callable[[], bool], timeout_ms: float) -> None:
        """Move messages until `ready()` or the time is up; 0 only looks."""
        self.pump()
        if ready() or timeout_ms <= 0:
            return
        deadline_ns = time.monotonic_ns() + int(timeout_ms * 1e6)
        while (remaining_ns := deadline_ns - time.monotonic_ns()) > 0:
            poller = self._both if self.up and self.core.has_outgoing else self._arrivals
            # Rounded up: the last fraction of a millisecond is slept, not spun.
            poller.poll(-(-min(remaining_ns, self.idle_ns) // 1_000_000))
            self.pump(prompt=True)
            if ready():
                return

    def close(self) -> None:
        """Close the socket, dropping what is unsent."""
        self.core.close()
        self._watch.close()
        self._socket.close(linger=0)
        if self._own_context:
            self._context.term()
