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
import select
import time
from collections.abc import Callable, Sequence

import zmq

from appliance.client.boxes import Boxes
from appliance.client.core import Core
from appliance.client.curve import use_keys
from appliance.client.encoder import Encoder
from appliance.client.probe import Probe
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

DRAINED_PAUSE_NS = 10_000_000
EXACT_NS = 2_000_000
"""So long before an instant polling ends."""

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


def _check_address(server: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Refuse now what could not be connected to later.

    Raises:
        ValueError: It is no address.
    """
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        try:
            socket.connect(server)
        except zmq.ZMQError as error:
            raise ValueError(f"server {server!r}: {error}") from error


class Link:
    """A DEALER socket and the core it feeds.

    Attributes:
        core: What is asked and answered.
        arrived: Counts what is news to who waits: messages received, images that failed.
        up: The connection is there, as far as was heard.
        pumped_ns: When messages were moved last.
        moves: How often another appliance was gone to.
        edge_triggered: Somebody waits on the descriptor itself: every pump has to end with a look
            that finds nothing, because sending may swallow the news of an arrival.
    """

    edge_triggered: bool = False

    def __init__(
        self,
        servers: str | Sequence[str],
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
        self.pumped_ns = 0
        self.moves = 0
        self._keys = keys
        named = (servers,) if isinstance(servers, str) else tuple(servers)
        if not named:
            raise ValueError("no server is named")
        self._first_pause_ns = self._pause_ns = max(1, reconnect_ivl_ms) * 1_000_000
        self._longest_pause_ns = max(reconnect_ivl_ms, reconnect_max_ms) * 1_000_000
        self._tried_ns = time.monotonic_ns()
        self._again_ns: int | None = None  # when to connect anew
        self._lost = False  # it was up and is over
        self._boxes = Boxes(tuple(map(address, named)), core.heartbeat_ns, self._tried_ns)
        core.watches_silence = len(named) > 1
        self._probes: dict[str, Probe] = {}
        self._own_context = context is None
        self._context = zmq.Context() if context is None else context
        self._epoll: select.epoll | None = None
        self._encoder: Encoder | None = None
        self._pid = os.getpid()
        try:
            for each in self._boxes.addresses[1:]:
                _check_address(each, self._context)
        except ValueError:
            if self._own_context:
                self._context.term()
            raise
        self._open()

    def _open(self) -> None:
        """Make a socket for the appliance in use, and begin to connect it.

        Raises:
            ValueError: It has no address that can be connected to.
        """
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
        use_keys(self._socket, self._keys)
        name = f"link-{id(self)}-{self._tried_ns}"
        self._watch = Watch(self._socket, self._context, name, keyed=self._keys is not None)
        try:
            self._socket.connect(self._boxes.address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"server {self._boxes.address!r}: {error}") from error
        self._arrivals = zmq.Poller()
        self._arrivals.register(self._socket, zmq.POLLIN)
        self._both = zmq.Poller()
        self._both.register(self._socket, zmq.POLLIN | zmq.POLLOUT)
        for poller in (self._arrivals, self._both):
            for descriptor in self.descriptors[1:]:
                poller.register(descriptor, zmq.POLLIN)
        if self._epoll is not None:
            for descriptor in self.descriptors:
                self._epoll.register(descriptor, select.EPOLLIN)

    def _shut(self) -> None:
        """Close the socket, dropping what is unsent."""
        if self._epoll is not None and not self._epoll.closed:
            for descriptor in self.descriptors:
                self._epoll.unregister(descriptor)
        self._watch.close()
        self._socket.close(linger=0)

    @property
    def error(self) -> str:
        """Why nothing is answered, as far as it is known; empty if nothing is wrong."""
        return self._watch.error or self.core.refusal

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What turns readable when there may be something to do (edge-triggered: pump it dry)."""
        encoder = () if self._encoder is None else (self._encoder.descriptor,)
        return int(self._socket.getsockopt(zmq.FD)), self._watch.descriptor, *encoder

    def use_encoder(self) -> None:
        """Have images compressed from now on, in a thread that `close` ends.

        Raises:
            LocalProtocolError: The connection is closed.
        """
        if self.core.closed:
            raise LocalProtocolError("the connection is closed")
        if self._encoder is not None:
            return
        self._encoder = Encoder()
        descriptor = self._encoder.descriptor
        for poller in (self._arrivals, self._both):
            poller.register(descriptor, zmq.POLLIN)
        if self._epoll is not None:
            self._epoll.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when a pump may have something to do."""
        if self._epoll is None:
            self.edge_triggered = True
            self._epoll = select.epoll()
            for descriptor in self.descriptors:
                self._epoll.register(descriptor, select.EPOLLIN)
        return self._epoll.fileno()

    @property
    def idle_ns(self) -> int:
        """In how long, at most, a pump may have something to do though nothing came."""
        heartbeat_ns = self.core.heartbeat_ns
        if self._again_ns is None:
            return heartbeat_ns
        return min(heartbeat_ns, max(0, self._again_ns - time.monotonic_ns()))

    def pump(self, *, prompt: bool = False) -> bool:
        """Send and receive what can be without waiting; return whether more is left to move.

        Raises:
            LocalProtocolError: The connection is closed, or another process's.
        """
        core = self.core
        if core.closed:
            raise LocalProtocolError("the connection is closed")
        if os.getpid() != self._pid:  # ZeroMQ would wait for its threads, which are there
            raise LocalProtocolError("the connection is that of the process that made it")
        now_ns = time.monotonic_ns()
        self.pumped_ns = now_ns
        encoder = self._encoder
        if encoder is not None:
            for done in encoder.done():
                self.arrived += bool(done.error)
                core.encoded(done, now_ns)
        core.tick(now_ns)
        self._follow(now_ns)
        more = self._move_messages(now_ns, prompt=prompt)
        if encoder is not None:
            for job in core.jobs(now_ns):
                encoder.submit(job)
        if core.watches_silence:  # after what has come was read
            self._choose(now_ns)
        return more

    def _move_messages(self, now_ns: int, *, prompt: bool) -> bool:
        """Send and receive; return whether more is left to move."""
        socket, core = self._socket, self.core
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
                self._lost = self.up
                if self.core.draining:  # as it said; another one may be there at once
                    self._again_ns = now_ns + DRAINED_PAUSE_NS
                self._pause_ns = min(2 * self._pause_ns, self._longest_pause_ns)
            self.up = up

    def _choose(self, now_ns: int) -> None:
        """Of several appliances, go to another if the one in use is of no use, or to a better."""
        boxes, core = self._boxes, self.core
        heard_ns = core.last_heard_ns
        over = self._again_ns is not None and (self._lost or now_ns >= self._again_ns)
        drains = core.draining and boxes.has_another(now_ns)
        if over or drains or boxes.is_silent(core.asked_ns, now_ns, up=self.up):
            boxes.leave(now_ns)
            self._move(now_ns)
            return
        if self.up and heard_ns is not None and now_ns - heard_ns < boxes.heartbeat_ns:
            boxes.proved()
        for better in boxes.better:
            probe = self._probes.get(better)
            if probe is None:
                probe = Probe(better, self._context, core.client_id, self._keys)
                self._probes[better] = probe
            alive = probe.look(now_ns, boxes.heartbeat_ns)
            if alive is not None and boxes.sign(better, now_ns, alive=alive):
                self._move(now_ns)
                return

    def _move(self, now_ns: int) -> None:
        """Go to the appliance that is to be used. Nothing is heard of the other one any more."""
        self.core.lost()
        self.moves += 1
        self._shut()
        for rank, address in enumerate(self._boxes.addresses):
            if rank >= self._boxes.current and address in self._probes:
                self._probes.pop(address).close()
        self.up = self._lost = False
        self._again_ns = None
        self._tried_ns = now_ns
        self._open()

    def _connect_anew(self, now_ns: int) -> None:
        """Leave the connection that is over, with what it did not send, for another."""
        self._again_ns = None
        self._tried_ns = now_ns
        self._watch.begin()
        self._socket.disconnect(self._boxes.address)
        self.core.lost()
        # An appliance that has not noticed the loss yet would not hear a second one of that name.
        self._name_anew()
        self._socket.connect(self._boxes.address)

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

    def wait_until(self, instant_ns: Callable[[], int]) -> None:
        """Move messages until an instant, which what comes may change, and once more then."""
        while (remaining_ns := instant_ns() - time.monotonic_ns()) > 0:
            # Polling may take a millisecond longer than it is told; sleeping is exact.
            poll_ms = (min(remaining_ns, self.idle_ns) - EXACT_NS) // 1_000_000
            if poll_ms <= 0:
                time.sleep(min(remaining_ns, EXACT_NS) / 1e9)
                continue
            poller = self._both if self.up and self.core.has_outgoing else self._arrivals
            poller.poll(poll_ms)
            self.pump(prompt=True)  # also if nothing came: it may be time for a sign of life
        self.pump()

    def close(self) -> None:
        """Close all sockets, dropping what is unsent."""
        self.core.close()
        self._shut()
        for probe in self._probes.values():
            probe.close()
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        if self._epoll is not None:
            self._epoll.close()
        if self._own_context:
            self._context.term()
