"""The HTTP server over memory streams, where time is virtual, and over real sockets."""

import http.client
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MemoryReceiveStream, MockClock, memory_stream_pair, wait_all_tasks_blocked

from appliance.admin import http as admin_http
from appliance.admin.http import (
    MAX_BODY_BYTES,
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    REQUEST_TIMEOUT_S,
    HttpRequest,
    HttpResponse,
    json_response,
    serve_http,
)

Stream = trio.StapledStream[Any, Any]


@pytest.fixture(autouse=True)
def quiet_log() -> Any:
    with structlog.testing.capture_logs() as logs:
        yield logs


class MemoryListener(trio.abc.Listener[Stream]):
    """Accepts what `connect` makes."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Stream](1000)

    def connect(self) -> Stream:
        ours, theirs = memory_stream_pair()
        self._send.send_nowait(theirs)
        return ours

    async def accept(self) -> Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        await self._receive.aclose()


async def echo(request: HttpRequest) -> HttpResponse:
    if request.path == "/raise":
        raise LookupError("no luck")
    if request.path == "/not-a-response":
        return HttpResponse(headers=(("bad name", "x"),))
    return json_response(
        {"method": request.method, "path": request.path, "query": request.query}
        | {"body": request.body.decode()}
    )


@asynccontextmanager
async def serving(
    handler: Callable[[HttpRequest], Awaitable[HttpResponse]] = echo,
) -> AsyncIterator[MemoryListener]:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, handler, [listener])
        yield listener
        nursery.cancel_scope.cancel()


async def read_all(stream: Stream) -> bytes:
    data = b""
    async for chunk in stream:
        data += chunk
    return data


def parse(data: bytes) -> list[tuple[int, dict[str, str], Any]]:
    """Parse responses with Content-Length, one after another."""
    responses = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0"))
        body, data = data[:length], data[length:]
        responses.append((int(first.split()[1]), headers, json.loads(body) if body else None))
    return responses


async def ask(listener: MemoryListener, data: bytes, *, eof: bool = True) -> list[Any]:
    stream = listener.connect()
    await stream.send_all(data)
    if eof:
        await stream.send_eof()
    return parse(await read_all(stream))


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


# ------------------------------------------------------------------------------ requests


async def test_a_request_and_its_response() -> None:
    async with serving() as listener:
        [(status, headers, document)] = await ask(listener, get("/a/b?c=d&e"))
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert document == {"method": "GET", "path": "/a/b", "query": "c=d&e", "body": ""}


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_a_body(body: bytes) -> None:
    async with serving() as listener:
        [(status, _, document)] = await ask(listener, b"POST / HTTP/1.1\r\nHost: x\r\n" + body)
    assert (status, document["body"]) == (200, "hello")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as listener:
        responses = await ask(listener, b"".join(get(f"/{number}") for number in range(50)))
    assert [document["path"] for _, _, document in responses] == [f"/{n}" for n in range(50)]


async def test_a_request_byte_by_byte() -> None:
    async with serving() as listener:
        stream = listener.connect()
        for byte in get("/slow"):
            await stream.send_all(bytes([byte]))
        await stream.send_eof()
        [(_, _, document)] = parse(await read_all(stream))
    assert document["path"] == "/slow"


async def test_head_has_the_length_but_no_body() -> None:
    async with serving() as listener:
        stream = listener.connect()
        await stream.send_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.send_eof()
        data = await read_all(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"Content-Length: 5" in head
    assert body == b""


@pytest.mark.parametrize(
    "version_and_headers", ["1.0\r\n", "1.1\r\nHost: x\r\nConnection: close\r\n"]
)
async def test_a_peer_that_wants_it_so_is_closed_after_one(version_and_headers: str) -> None:
    request = f"GET / HTTP/{version_and_headers}\r\n".encode()
    async with serving() as listener:
        responses = await ask(listener, request * 2, eof=False)
    assert len(responses) == 1


async def test_a_peer_that_asks_first_is_told_to_go_on() -> None:
    async with serving() as listener:
        stream = listener.connect()
        await stream.send_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"ok")
        await stream.send_eof()
        [(_, _, document)] = parse(await read_all(stream))
    assert document["body"] == "ok"


# ---------------------------------------------------------------------------- bad requests


def error_of(responses: list[Any]) -> tuple[int, str]:
    [(status, headers, document)] = responses
    assert headers["connection"] == "close"
    assert document["error"].keys() == {"code", "message"}
    return status, document["error"]["code"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n", (400, "BAD_REQUEST")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "BAD_REQUEST")),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", (400, "BAD_REQUEST")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe", (400, "BAD_REQUEST")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", (400, "BAD_REQUEST")),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
            (400, "BAD_REQUEST"),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            (400, "BAD_REQUEST"),
        ),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES, (431, "HEAD_TOO_LARGE")),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n" + bytes(65537),
            (413, "TOO_LARGE"),
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"8000\r\n%s\r\n" % bytes(0x8000) * 4,
            (413, "TOO_LARGE"),
        ),
    ],
)
async def test_a_bad_request_hears_why_and_is_closed(
    data: bytes, expected: tuple[int, str], quiet_log: list[Any]
) -> None:
    async with serving() as listener:
        assert error_of(await ask(listener, data)) == expected
        assert len(await ask(listener, get())) == 1
    assert quiet_log == []


async def test_a_body_of_just_the_limit_is_taken() -> None:
    data = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_BODY_BYTES
    async with serving() as listener:
        [(status, _, document)] = await ask(listener, data + b"x" * MAX_BODY_BYTES)
    assert (status, len(document["body"])) == (200, MAX_BODY_BYTES)


@given(data=st.binary(max_size=200), seed=st.integers(0, 2**32))
def test_garbage_never_ends_the_server(data: bytes, seed: int) -> None:
    """Neither noise, nor a good request with a few bytes broken."""
    broken = bytearray(get("/x") * 2)
    chance = random.Random(seed)
    for _ in range(3):
        broken[chance.randrange(len(broken))] = chance.randrange(256)

    async def main() -> None:
        async with serving() as listener:
            for garbage in (data, bytes(broken)):
                await ask(listener, garbage)
            assert len(await ask(listener, get())) == 1

    with structlog.testing.capture_logs() as logs:
        trio.run(main)
    assert logs == []


# ------------------------------------------------------------------------------- handlers


async def test_a_handler_that_raises_gives_500_and_the_connection_lives_on(
    quiet_log: list[Any],
) -> None:
    async with serving() as listener:
        [(status, _, document), (after, _, _)] = await ask(listener, get("/raise") + get("/"))
    assert (status, after) == (500, 200)
    assert document == {"error": {"code": "INTERNAL", "message": "LookupError: no luck"}}
    [entry] = quiet_log
    assert (entry["log_level"], entry["path"]) == ("error", "/raise")
    assert entry["exception"].endswith("LookupError: no luck\n")
    assert "exc_info" not in entry  # else a renderer may draw it at length, on the loop


async def test_a_response_that_is_none_ends_its_connection_only(quiet_log: list[Any]) -> None:
    async with serving() as listener:
        assert await ask(listener, get("/not-a-response")) == []
        assert len(await ask(listener, get())) == 1
    [entry] = quiet_log
    assert entry["event"] == "admin connection failed"


async def test_a_peer_that_leaves_before_its_response_disturbs_nobody(
    quiet_log: list[Any],
) -> None:
    release = trio.Event()

    async def wait(request: HttpRequest) -> HttpResponse:
        await release.wait()
        return json_response({})

    async with serving(wait) as listener:
        stream = listener.connect()
        await stream.send_all(get())
        await wait_all_tasks_blocked()
        await stream.aclose()
        release.set()
        assert len(await ask(listener, get())) == 1
    assert quiet_log == []


# --------------------------------------------------------------------- slow and many peers


async def test_an_idle_connection_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with serving() as listener:
        began = trio.current_time()
        assert await ask(listener, b"", eof=False) == []
        assert trio.current_time() - began == pytest.approx(REQUEST_TIMEOUT_S)


async def test_keep_alive_lasts_from_response_to_request(autojump_clock: MockClock) -> None:
    async with serving() as listener:
        stream = listener.connect()
        for _ in range(3):
            await stream.send_all(get())
            assert parse(await stream.receive_some())
            await trio.sleep(REQUEST_TIMEOUT_S - 1)
        await trio.sleep(1.5)
        assert await read_all(stream) == b""


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"]
)
async def test_a_request_that_trickles_in_hears_408(head: bytes, autojump_clock: MockClock) -> None:
    """However often a byte comes: the time is for the whole request."""
    async with serving() as listener, trio.open_nursery() as nursery:
        stream = listener.connect()
        cut_off = []

        async def trickle() -> None:
            await stream.send_all(head)
            try:
                while True:
                    await trio.sleep(1)
                    await stream.send_all(b"x")
            except trio.BrokenResourceError:
                cut_off.append(trio.current_time() - began)

        began = trio.current_time()
        nursery.start_soon(trickle)
        responses = parse(await read_all(stream))
        assert trio.current_time() - began == pytest.approx(REQUEST_TIMEOUT_S)
        assert error_of(responses) == (408, "TIMEOUT")
    assert REQUEST_TIMEOUT_S < cut_off[0] <= REQUEST_TIMEOUT_S + 3


async def test_a_refused_peer_may_go_on_sending_for_a_while() -> None:
    """Else it would run into a reset before it reads why; but it may not go on for ever."""
    async with serving() as listener:
        stream = listener.connect()
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n")
        await wait_all_tasks_blocked()
        sent = 0
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while sent < 9_999_999:
                await stream.send_all(bytes(10_000))
                await wait_all_tasks_blocked()
                sent += 10_000
        assert 500_000 < sent < 2_000_000
        assert error_of(parse(await read_all(stream))) == (413, "TOO_LARGE")


async def test_a_peer_that_does_not_take_its_response_is_cut_off(
    autojump_clock: MockClock,
) -> None:
    left = trio.Event()

    class Clogged(trio.abc.SendStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None:
            await trio.sleep_forever()

        async def send_eof(self) -> None:
            await trio.sleep_forever()

        async def aclose(self) -> None:
            left.set()

    incoming = MemoryReceiveStream()
    incoming.put_data(get())
    listener = MemoryListener()
    listener._send.send_nowait(trio.StapledStream(Clogged(), incoming))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, echo, [listener])
        await left.wait()
        assert trio.current_time() == pytest.approx(REQUEST_TIMEOUT_S)
        nursery.cancel_scope.cancel()


async def test_one_connection_too_many_hears_503_and_room_is_made_again(
    autojump_clock: MockClock,
) -> None:
    async with serving() as listener:
        streams = [listener.connect() for _ in range(MAX_CONNECTIONS)]
        await wait_all_tasks_blocked()
        assert error_of(await ask(listener, get(), eof=False)) == (503, "TOO_MANY_CONNECTIONS")
        for stream in streams:
            await stream.send_all(get())
            assert parse(await stream.receive_some())[0][0] == 200
        await streams.pop().aclose()
        await wait_all_tasks_blocked()
        [(status, _, _)] = await ask(listener, get())
        assert status == 200


# ----------------------------------------------------------------------------- real sockets


async def test_over_tcp_a_reset_disturbs_nobody(quiet_log: list[Any]) -> None:
    def client(port: int) -> int:
        rude = socket.create_connection(("127.0.0.1", port))
        rude.sendall(get()[:10])
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        first = connection.getresponse().read()
        connection.request("GET", "/")  # on the same connection
        assert connection.getresponse().read() == first
        connection.close()
        return len(first)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(
            serve_http, echo, await trio.open_tcp_listeners(0, host="127.0.0.1")
        )
        assert await trio.to_thread.run_sync(client, listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
    assert quiet_log == []


def test_the_limits_are_those_promised() -> None:
    assert (admin_http.MAX_BODY_BYTES, admin_http.MAX_CONNECTIONS) == (64 * 1024, 32)
    assert admin_http.REQUEST_TIMEOUT_S == 10


def test_what_is_no_text_is_escaped() -> None:
    document = {"reason": "caf\udce9.pub: café"}
    body = json_response(document).body
    assert body == b'{"reason": "caf\\udce9.pub: caf\xc3\xa9"}\n'
    assert json.loads(body) == document
