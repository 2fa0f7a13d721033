"""ZmqSocket against real libzmq: no hang, no loss, order kept."""

import random
import select
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import zmq
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from appliance.errors import LocalProtocolError, PeerGone
from appliance.io.zmq_socket import (
    BATCH_BYTES,
    BY_REFERENCE_BYTES,
    Buffer,
    Part,
    SendResult,
    ZmqSocket,
)


class Unsettled(ZmqSocket):
    """Without rules 2 and 3: what the naive `wait_readable(ZMQ_FD)` loop does."""

    def _settle(self) -> int:
        return 0


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


Pair = Callable[..., tuple[zmq.Socket, zmq.Socket]]


@pytest.fixture
def pair(context: zmq.Context, tmp_path: Path) -> Pair:
    """Make two connected sockets: `pair(zmq.ROUTER, zmq.DEALER)`."""

    def make(
        first: int = zmq.DEALER, second: int = zmq.DEALER, *, hwm: int = 1000
    ) -> tuple[zmq.Socket, zmq.Socket]:
        a, b = context.socket(first), context.socket(second)
        for socket in (a, b):
            socket.sndhwm = socket.rcvhwm = hwm
            socket.linger = 0
        a.bind(f"ipc://{tmp_path}/{id(a):x}")
        b.connect(a.last_endpoint.decode())
        return a, b

    return make


def wait_readable_now(socket: zmq.Socket, timeout_ms: int = 5000) -> None:
    """Block until the edge is there, without taking it: only poll the descriptor."""
    poll = select.poll()
    poll.register(socket.getsockopt(zmq.FD), select.POLLIN)
    assert poll.poll(timeout_ms)


def edge_is_pending(socket: zmq.Socket) -> bool:
    poll = select.poll()
    poll.register(socket.getsockopt(zmq.FD), select.POLLIN)
    return bool(poll.poll(0))


# ------------------------------------------------------------------ the swallowed edge


async def receive_across_a_swallowed_edge(
    kind: type[ZmqSocket], pair: Pair
) -> tuple[list[list[Part]], int]:
    """Park a receiver, let a message arrive, and take its edge with sends before Trio polls."""
    a, b = pair()
    b.send(b"are you there?")
    assert a.recv() == b"are you there?"
    a.send(b"yes")
    assert b.recv() == b"yes"
    received = []
    async with kind(a) as ours:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    received.append(await ours.receive())

                nursery.start_soon(receive)
                await wait_all_tasks_blocked()
                assert ours.statistics().receiver_waiting
                while edge_is_pending(a):  # of the connection itself
                    await wait_all_tasks_blocked(0.001)
                b.send(b"hello")
                wait_readable_now(a)
                while edge_is_pending(a):
                    ours.send_nowait([b"x"])
                # The message is there, its edge is gone, and nobody but us has run.
                assert a.getsockopt(zmq.EVENTS) & zmq.POLLIN
                await wait_all_tasks_blocked(0.01)
                scope.cancel()
        saved = ours.statistics().edges_saved
    b.close()
    return received, saved


async def test_a_swallowed_edge_wakes_the_receiver(pair: Pair) -> None:
    assert await receive_across_a_swallowed_edge(ZmqSocket, pair) == ([[b"hello"]], 1)


async def test_without_settling_the_receiver_sleeps_on(pair: Pair) -> None:
    """Shows that the test above can fail."""
    assert await receive_across_a_swallowed_edge(Unsettled, pair) == ([], 0)


class LateSocket(zmq.Socket):
    """Says EAGAIN once though a message is there, its edge already taken."""

    late = True

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        if self.late:
            type(self).late = False
            raise zmq.Again
        return super().recv(*args, **kwargs)


@pytest.mark.parametrize(("kind", "expected"), [(ZmqSocket, [b"hello"]), (Unsettled, None)])
async def test_what_comes_between_trying_and_parking_is_seen(
    context: zmq.Context, tmp_path: Path, kind: type[ZmqSocket], expected: list[Part] | None
) -> None:
    LateSocket.late = True
    a = LateSocket(context, zmq.PAIR)
    b = context.socket(zmq.PAIR)
    a.bind(f"ipc://{tmp_path}/late")
    b.connect(f"ipc://{tmp_path}/late")
    b.send(b"hello")
    assert a.poll(5000)  # takes the edge
    received = None
    async with kind(a) as ours:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    nonlocal received
                    received = await ours.receive()

                nursery.start_soon(receive)
                await wait_all_tasks_blocked(0.01)
                scope.cancel()
    b.close()
    assert received == expected


# ---------------------------------------------------------------------- duplex stress


@pytest.mark.parametrize("cancelling", [False, True])
@pytest.mark.parametrize("hwm", [2, 1000])
async def test_duplex_stress(pair: Pair, hwm: int, cancelling: bool) -> None:  # noqa: FBT001
    """Both ends send and receive at once, queues full, receives and sends cancelled at random."""
    count = 4000
    chance = random.Random(20 * hwm + cancelling)
    a, b = pair(hwm=hwm)
    cancelled = 0

    async def attempt(operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        nonlocal cancelled
        while True:
            if not cancelling or chance.random() > 0.3:
                return await operation(*args)
            with trio.move_on_after(chance.random() * 0.0003):
                return await operation(*args)
            cancelled += 1

    async def send_all(socket: ZmqSocket) -> None:
        for number in range(count):
            await attempt(socket.send, [number.to_bytes(4, "big")])
            if chance.random() < 0.02:
                await trio.sleep(chance.random() * 0.0005)

    async def receive_all(socket: ZmqSocket) -> None:
        numbers = []
        while len(numbers) < count:
            limit = chance.choice([1, 7, 64])
            batch = await attempt(socket.receive_some, limit)
            assert 1 <= len(batch) <= limit
            numbers += [int.from_bytes(parts[0], "big") for parts in batch]
        assert numbers == list(range(count))

    with trio.fail_after(30):
        async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs, trio.open_nursery() as nursery:
            for socket in (ours, theirs):
                nursery.start_soon(send_all, socket)
                nursery.start_soon(receive_all, socket)
    assert ours.statistics().messages_received == theirs.statistics().messages_sent == count
    assert cancelled > 10 or not cancelling


# --------------------------------------------------------------------- single behaviours


async def test_small_parts_are_bytes_and_large_ones_views_of_zmq_memory(pair: Pair) -> None:
    a, b = pair()
    async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs:
        payload = bytes(range(256)) * 4096
        await theirs.send([b"id", bytearray(b"envelope"), memoryview(payload)])
        identity, envelope, received = await ours.receive()
    assert (identity, envelope) == (b"id", b"envelope")
    assert isinstance(received, memoryview)
    assert isinstance(received.obj, zmq.Frame)
    assert received == payload


async def test_large_immutable_parts_are_handed_over_and_mutable_ones_copied(pair: Pair) -> None:
    a, b = pair(hwm=4)
    size = BY_REFERENCE_BYTES
    mutable = bytearray(b"1" * size)
    async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs:
        theirs.send_nowait([b"1" * size, mutable, memoryview(mutable)])
        mutable[:] = b"2" * size
        for part in await ours.receive():
            assert part == b"1" * size


@pytest.mark.parametrize(
    ("make", "size", "by_reference"),
    [
        (bytes, BY_REFERENCE_BYTES, True),
        (bytes, BY_REFERENCE_BYTES - 1, False),
        (bytearray, BY_REFERENCE_BYTES, False),
    ],
)
async def test_what_waits_in_the_queue_is_ours_or_a_copy(
    context: zmq.Context,
    make: Callable[[int], Buffer],
    size: int,
    by_reference: bool,  # noqa: FBT001
) -> None:
    socket = context.socket(zmq.PUSH)
    socket.connect("ipc:///nobody/listens/here")
    part = make(size)
    before = sys.getrefcount(part)
    async with ZmqSocket(socket) as ours:
        ours.send_nowait([part])
        assert (sys.getrefcount(part) > before) == by_reference


async def test_receive_some_takes_what_is_there_up_to_its_limit(pair: Pair) -> None:
    a, b = pair()
    async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs:
        for number in range(10):
            theirs.send_nowait([b"%d" % number])
        sizes, messages = [], []
        while len(messages) < 10:
            batch = await ours.receive_some(4)
            sizes.append(len(batch))
            messages += batch
    assert messages == [[b"%d" % number] for number in range(10)]
    assert max(sizes) <= 4


async def test_receive_some_stops_at_its_byte_limit(pair: Pair) -> None:
    a, b = pair(zmq.PAIR, zmq.PAIR)
    for _ in range(4):
        b.send(bytes(BATCH_BYTES // 2))
    b.send(b"last")
    async with ZmqSocket(a) as ours:
        messages = []
        while len(messages) < 5:
            batch = await ours.receive_some()
            assert len(batch) <= 3
            messages += batch
    b.close()
    assert messages[-1] == [b"last"]


class FailingSocket(zmq.Socket):
    """Fails once, in the third receive."""

    calls = 0

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        if self.calls == 3:
            raise zmq.ZMQError(zmq.EFSM)
        return super().recv(*args, **kwargs)


async def test_an_error_midway_loses_no_message(context: zmq.Context) -> None:
    FailingSocket.calls = 0
    a, b = FailingSocket(context, zmq.PAIR), context.socket(zmq.PAIR)
    a.bind("inproc://failing")
    b.connect("inproc://failing")
    for number in range(4):
        b.send(b"%d" % number)
    async with ZmqSocket(a) as ours:
        assert await ours.receive_some() == [[b"0"], [b"1"]]
        assert await ours.receive_some() == [[b"2"], [b"3"]]
        assert ours.statistics().messages_received == 4
    b.close()


async def test_an_error_without_a_message_is_raised(context: zmq.Context) -> None:
    FailingSocket.calls = 2
    async with ZmqSocket(FailingSocket(context, zmq.PAIR)) as ours:
        with pytest.raises(zmq.ZMQError):
            await ours.receive()


async def test_a_full_queue_would_block_and_a_waiting_send_goes_on(
    context: zmq.Context, tmp_path: Path
) -> None:
    a, b = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    a.sndhwm = 1
    a.reconnect_ivl = 1
    a.connect(f"ipc://{tmp_path}/nobody-yet")  # so what is sent stays queued here
    async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs, trio.open_nursery() as nursery:
        ours.send_nowait([b"queued"])
        with pytest.raises(trio.WouldBlock):
            ours.send_nowait([b"refused"])
        nursery.start_soon(ours.send, [b"waited"])
        await wait_all_tasks_blocked()
        assert ours.statistics().sender_waiting
        assert ours.statistics().sends_full == 1
        with pytest.raises(trio.BusyResourceError):
            await ours.send([b"another"])
        b.bind(f"ipc://{tmp_path}/nobody-yet")
        with trio.fail_after(10):
            assert await theirs.receive() == [b"queued"]
            assert await theirs.receive() == [b"waited"]


async def test_a_router_tells_who_is_gone_and_who_is_full(
    context: zmq.Context, tmp_path: Path
) -> None:
    router = context.socket(zmq.ROUTER)
    router.router_mandatory = True
    router.sndhwm = 2
    router.bind(f"ipc://{tmp_path}/router")
    peers = []
    for identity in (b"deaf", b"keen"):
        peer = context.socket(zmq.DEALER)
        peer.routing_id = identity
        peer.rcvhwm = 2 if identity == b"deaf" else 1000
        peer.connect(f"ipc://{tmp_path}/router")
        peer.send(b"here")
        peers.append(peer)
    async with ZmqSocket(router) as ours:
        for _ in peers:
            await ours.receive()
        with pytest.raises(PeerGone):
            ours.send_nowait([b"nobody", b"x"])
        with pytest.raises(LocalProtocolError):
            await ours.send([b"keen", b"x"])
        large = bytes(1 << 20)
        results = ours.send_some_nowait(
            [*[[b"deaf", large]] * 8, [b"nobody", b"x"], [b"keen", b"answer"]]
        )
        assert SendResult.FULL in results[:8]
        assert results[8:] == [SendResult.GONE, SendResult.SENT]
        statistics = ours.statistics()
        assert statistics.sends_gone == 2
        assert statistics.sends_full == results.count(SendResult.FULL)
        assert statistics.messages_sent == results.count(SendResult.SENT)
        keen = ZmqSocket(peers.pop())
        assert await keen.receive() == [b"answer"]
        keen.close()
    for peer in peers:
        peer.close()


async def test_a_bad_part_leaves_no_half_message(pair: Pair) -> None:
    a, b = pair()
    async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs:
        with pytest.raises(TypeError):
            theirs.send_nowait([b"first", "text"])
        with pytest.raises(TypeError):
            theirs.send_nowait([b"first", memoryview(b"abcdef")[::2]])
        theirs.send_nowait([b"whole"])
        assert await ours.receive() == [b"whole"]


async def test_one_task_for_each_direction(pair: Pair) -> None:
    a, b = pair(zmq.PAIR, zmq.PAIR)
    async with ZmqSocket(a) as ours, trio.open_nursery() as nursery:
        nursery.start_soon(ours.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.receive_some()
        b.send(b"x")
    b.close()


async def test_close_wakes_both_waiters(context: zmq.Context) -> None:
    ours = ZmqSocket(context.socket(zmq.DEALER))  # connected to nobody: neither can go on
    closed = []

    async def expect_closed(operation: Callable[..., Awaitable[Any]], *args: Any) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation(*args)
        closed.append(operation)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, ours.receive)
            nursery.start_soon(expect_closed, ours.send, [b"x"])
            await wait_all_tasks_blocked()
            ours.close()
            ours.close()
    assert len(closed) == 2
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive()
    with pytest.raises(trio.ClosedResourceError):
        ours.send_nowait([b"x"])


async def test_every_await_is_a_checkpoint(pair: Pair) -> None:
    a, b = pair()
    async with ZmqSocket(a) as ours, ZmqSocket(b) as theirs:
        with assert_checkpoints():
            await theirs.send([b"1"])
        a.poll(5000)
        with assert_checkpoints():
            await ours.receive()
