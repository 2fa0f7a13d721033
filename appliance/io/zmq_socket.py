"""One ZeroMQ socket as Trio sees it. Owner: the task that made it; one waiter per direction.

`ZMQ_FD` is edge-triggered and stands for both directions, and *any* call on the socket may swallow
the edge that somebody waits for. These rules make waiting on it safe:

1. Try the operation first, without blocking. Only EAGAIN parks.
2. Before parking, read `ZMQ_EVENTS`. That read takes in everything that has arrived, so afterwards
   the descriptor can be trusted; if it says "ready", try again instead of parking. (EAGAIN alone
   proves little: libzmq looks for new room only now and then while sending.)
3. After every call on the socket, if somebody is parked, read `ZMQ_EVENTS` again and wake whoever
   can go on: the call may have taken the edge that would have woken them.
4. At most one task is parked for each direction. Trio allows one waiter for a descriptor, so the
   sender parks on a `dup` of it.

No message is lost to cancellation: nothing is awaited, cancellably, with a message in hand.

**What is cheapest** (CPU on the loop for a message of 100 bytes and a payload, pyzmq 27, ipc):

```
payload                         1 KB   64 KB   1 MB
recv_multipart(copy=True)       10.6    19.2    194 µs
recv_multipart(copy=False)      13.5    14.2   15.4
by part, small ones as bytes     6.9     7.3    9.7   <- receive_some
send_multipart(copy=True)        8.6    28.4    484
send_multipart(copy=False)       9.4    12.9   15.4
by part, copy by size            3.2     9.3   10.4   <- send
```
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

import trio
import zmq
from attrs import define, frozen
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    notify_closing,
    wait_readable,
)

from appliance.errors import LocalProtocolError, PeerGone

# What `receive` hands out: a part below SMALL_BYTES is `bytes`; a larger one is a view of ZeroMQ's
# own memory, which lives as long as the view and which nobody else touches.
Part = bytes | memoryview
# What `send` takes.
Buffer = bytes | bytearray | memoryview | zmq.Frame

# libzmq reads into 8 KiB blocks and lets small messages share one; a view kept would pin it whole.
SMALL_BYTES = 8 * 1024
# Below this, handing memory over costs ZeroMQ more than copying it.
BY_REFERENCE_BYTES = 64 * 1024
# A batch stops growing here, so that one wake-up does not draw in a whole burst of images.
BATCH_BYTES = 4 * 1024 * 1024

# How ZeroMQ calls what authentication answered (RFC 27), with each part of a message.
USER_ID = "User-Id"

_MORE = zmq.SNDMORE | zmq.NOBLOCK

T = TypeVar("T")


class SendResult(enum.Enum):
    """What became of one message of `ZmqSocket.send_some_nowait`."""

    SENT = enum.auto()
    FULL = enum.auto()
    GONE = enum.auto()


@frozen(kw_only=True)
class ZmqStatistics:
    """What a socket did so far.

    Attributes:
        messages_received: Handed out.
        messages_sent: Taken over by ZeroMQ.
        sends_full: Non-blocking sends refused because the peer's queue was full.
        sends_gone: Sends refused because a ROUTER did not know the peer.
        edges_saved: Waiters woken by rule 3, who would else have slept on.
        receiver_waiting: A task is parked in a receive.
        sender_waiting: A task is parked in a send.
    """

    messages_received: int
    messages_sent: int
    sends_full: int
    sends_gone: int
    edges_saved: int
    receiver_waiting: bool
    sender_waiting: bool


@define(eq=False)
class _Direction:
    """The descriptor that the one waiter of a direction parks on, and how far it is."""

    fd: int
    flag: int
    parked: bool = False
    woken: bool = False


class ZmqSocket:
    """Trio face of a ZeroMQ socket, which from here on must be used through this alone.

    Raises, from every method once closed, `trio.ClosedResourceError`.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        # What `zmq.Socket.send` ends in, after looking for options of draft sockets at twice the
        # cost.
        self._send_part = super(zmq.Socket, socket).send
        fd = socket.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        # Plain numbers: operators of flags are slow.
        self._receiving = _Direction(fd, int(zmq.POLLIN))
        self._sending = _Direction(os.dup(fd), int(zmq.POLLOUT))
        self._is_router = socket.getsockopt(zmq.TYPE) == zmq.ROUTER
        self._closed = False
        self._received = self._sent = self._full = self._gone = self._saved = 0

    async def receive_some(self, limit: int = 64) -> list[list[Part]]:
        """Wait for a message, then take what else is there: the way for throughput.

        Returns at least one message and at most `limit`, each a list of its parts; stops early
        once the batch holds `BATCH_BYTES`.

        Raises:
            trio.BusyResourceError: Another task is receiving.
        """
        return await self._when_ready(self._receiving, lambda: self._drain(limit))

    async def receive(self) -> list[Part]:
        """Wait for one message and return its parts.

        Raises:
            trio.BusyResourceError: Another task is receiving.
        """
        return (await self.receive_some(1))[0]

    async def when_readable(self, take: Callable[[], T]) -> T:
        """Call `take`, which receives without waiting, as soon as something is there.

        Args:
            take: Receives through this socket's `receive_nowait`, or by its own means from the
                ZeroMQ socket underneath; raises `zmq.Again` if nothing is there.

        Raises:
            trio.BusyResourceError: Another task is receiving.
        """

        def take_and_settle() -> T:
            if self._closed:
                raise trio.ClosedResourceError
            try:
                return take()
            finally:
                self._settle_if_parked()

        return await self._when_ready(self._receiving, take_and_settle)

    def touched(self) -> None:
        """Note that the ZeroMQ socket underneath was used: rule 3."""
        self._settle_if_parked()

    def receive_nowait(self) -> list[Part]:
        """Take one message.

        Raises:
            zmq.Again: Nothing is there.
        """
        return self._drain(1)[0]

    def receive_from_nowait(self) -> tuple[list[Part], str]:
        """Take one message, and the user id that authentication gave its connection, or "".

        Raises:
            zmq.Again: Nothing is there.
        """
        users: list[str] = []
        return self._drain(1, users)[0], users[0]

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message, waiting for room.

        `bytes` and `zmq.Frame` of `BY_REFERENCE_BYTES` and more are handed over, not copied; memory
        that could change meanwhile (`memoryview`, `bytearray`) is copied, once, by ZeroMQ.

        Raises:
            trio.BusyResourceError: Another task is waiting to send.
            LocalProtocolError: The socket is a ROUTER: it cannot wait for one peer.
        """
        if self._is_router:
            raise LocalProtocolError("a ROUTER cannot wait for room at one peer: use send_nowait")
        await self._when_ready(self._sending, lambda: self._send_and_settle(parts))

    def send_nowait(self, parts: Sequence[Buffer]) -> None:
        """Send one message (see `send`) at once or not at all.

        Raises:
            trio.WouldBlock: The peer's queue is full.
            PeerGone: A ROUTER with ROUTER_MANDATORY does not know the peer (any longer).
        """
        try:
            self._send_and_settle(parts)
        except zmq.Again:
            self._full += 1
            raise trio.WouldBlock from None

    def send_some_nowait(self, messages: Sequence[Sequence[Buffer]]) -> list[SendResult]:
        """Send each message at once or drop it; return what became of each, in order.

        A peer that is full or gone does not keep the others from theirs: for a ROUTER.
        """
        results: list[SendResult] = []
        try:
            for parts in messages:
                try:
                    self._send(parts)
                except zmq.Again:  # noqa: PERF203  # each message has its own result
                    self._full += 1
                    results.append(SendResult.FULL)
                except PeerGone:
                    results.append(SendResult.GONE)
                else:
                    results.append(SendResult.SENT)
        finally:
            self._settle_if_parked()
        return results

    def statistics(self) -> ZmqStatistics:
        """Return an immutable snapshot."""
        return ZmqStatistics(
            messages_received=self._received,
            messages_sent=self._sent,
            sends_full=self._full,
            sends_gone=self._gone,
            edges_saved=self._saved,
            receiver_waiting=self._receiving.parked,
            sender_waiting=self._sending.parked,
        )

    def close(self, *, linger_ms: int = 0) -> None:
        """Close the socket; whoever waits on it gets `trio.ClosedResourceError`. Idempotent.

        Args:
            linger_ms: How long ZeroMQ goes on, in its own thread, delivering what was sent.
        """
        if self._closed:
            return
        self._closed = True
        notify_closing(self._receiving.fd)
        notify_closing(self._sending.fd)
        os.close(self._sending.fd)
        self._socket.close(linger=linger_ms)

    async def __aenter__(self) -> ZmqSocket:  # noqa: PYI034  # Self needs Python 3.11
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _when_ready(self, direction: _Direction, operation: Callable[[], T]) -> T:
        """Run `operation` as soon as it does not raise `zmq.Again`. A checkpoint in any case."""
        await checkpoint_if_cancelled()
        if direction.parked:
            raise trio.BusyResourceError("another task is waiting on this socket already")
        try:
            result = operation()
        except zmq.Again:
            pass
        else:
            await cancel_shielded_checkpoint()
            return result
        while True:
            await self._park(direction)
            try:
                return operation()
            except zmq.Again:
                continue

    async def _park(self, direction: _Direction) -> None:
        """Wait until it is worth trying again; early rather than late."""
        if self._settle() & direction.flag:
            await trio.lowlevel.checkpoint()
            return
        if direction.parked:
            raise trio.BusyResourceError("another task is waiting on this socket already")
        direction.parked, direction.woken = True, False
        try:
            await wait_readable(direction.fd)
        except trio.ClosedResourceError:  # how `_settle` wakes, too
            if self._closed:
                raise
        finally:
            direction.parked = False

    def _settle_if_parked(self) -> None:
        if self._receiving.parked or self._sending.parked:
            self._settle()

    def _settle(self) -> int:
        """Take in what has arrived, wake who can go on, return the events (POLLIN, POLLOUT)."""
        events = self._socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        for direction in (self._receiving, self._sending):
            if direction.parked and not direction.woken and events & direction.flag:
                self._saved += 1
                direction.woken = True
                notify_closing(direction.fd)  # the cheapest way to wake whoever waits on it
        return events

    def _drain(self, limit: int, users: list[str] | None = None) -> list[list[Part]]:
        if self._closed:
            raise trio.ClosedResourceError
        receive = self._socket.recv
        batch: list[list[Part]] = []
        size = 0
        try:
            while len(batch) < limit and size < BATCH_BYTES:
                parts: list[Part] = []
                while True:
                    frame = receive(zmq.NOBLOCK, copy=False)
                    length = len(frame)
                    size += length
                    parts.append(frame.buffer if length >= SMALL_BYTES else frame.bytes)
                    if not frame.more:
                        break
                batch.append(parts)
                if users is not None:
                    users.append(_user_of(frame))
        except zmq.ZMQError:
            # What was read before is handed out; an error that lasts comes back at the next call.
            if not batch:
                raise
        finally:
            self._settle_if_parked()
        self._received += len(batch)
        return batch

    def _send_and_settle(self, parts: Sequence[Buffer]) -> None:
        try:
            self._send(parts)
        finally:
            self._settle_if_parked()

    def _send(self, parts: Sequence[Buffer]) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        # Checked first: a part refused half-way would leave the socket inside a message.
        copies = [
            len(part) < BY_REFERENCE_BYTES if type(part) is bytes else _copied(part)
            for part in parts
        ]
        send = self._send_part
        last = len(parts) - 1
        try:
            for index, (part, copy) in enumerate(zip(parts, copies, strict=True)):
                send(part, _MORE if index < last else zmq.NOBLOCK, copy)
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                self._gone += 1
                raise PeerGone("the peer is not connected") from error
            raise
        self._sent += 1


def _user_of(frame: zmq.Frame) -> str:
    try:
        return str(frame.get(USER_ID))
    except zmq.ZMQError:  # it has none
        return ""


def _copied(part: Buffer) -> bool:
    """Return whether ZeroMQ shall copy `part` rather than refer to it.

    Raises:
        TypeError: It is not memory, or not contiguous.
    """
    if isinstance(part, (bytes, zmq.Frame)):
        return len(part) < BY_REFERENCE_BYTES
    if not memoryview(part).c_contiguous:
        raise TypeError(f"a message part must be contiguous memory, not {part!r:.80}")
    return True
