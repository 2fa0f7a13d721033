"""A small HTTP/1.1 server on h11, over any Trio stream. It knows nothing of what it serves.

One task a connection. h11 owns the protocol's state, this module the bytes and the limits:

- MAX_CONNECTIONS are served at a time; the next one hears 503 and is closed;
- a request has REQUEST_TIMEOUT_S for its head, its body and the pause before it, however it
  trickles in; a response has as long to be taken;
- a head of more than MAX_HEAD_BYTES is refused with 431, a body of more than MAX_BODY_BYTES with
  413.

How long a handler takes is its own affair. One that raises is answered with 500.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import h11
import structlog
import trio
from attrs import define, field, frozen

MAX_CONNECTIONS = 32
MAX_BODY_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024
REQUEST_TIMEOUT_S = 10.0
# After a refusal, what the peer still sends is read and dropped, so that it can hear why: closing
# with unread bytes resets the connection and may take the answer with it.
_LINGER_TIMEOUT_S = 2.0
_LINGER_BYTES = 1024 * 1024
_READ_BYTES = 16 * 1024

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

StreamT = TypeVar("StreamT", bound=trio.abc.HalfCloseableStream)

# Tracebacks are formatted here, plainly: structlog's console renderer, left to it, draws them with
# every local variable, which takes the event loop a tenth of a second and more.
_log: Any = structlog.get_logger(__name__)


@frozen(kw_only=True)
class HttpRequest:
    """One request.

    Attributes:
        path: Before the `?`, as it came.
        query: After it, or empty.
        headers: In order; names are in lower case.
    """

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@frozen(kw_only=True)
class HttpResponse:
    """One response. Content-Length and Connection are the server's business."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


def json_response(
    document: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()
) -> HttpResponse:
    """Return `document` as JSON.

    Raises:
        TypeError: It holds something JSON has no form for.
        ValueError: It holds NaN or an infinity.
    """
    text = json.dumps(document, allow_nan=False, ensure_ascii=False)
    # What names of files hold that is no text becomes an escape of JSON.
    body = f"{text}\n".encode("utf-8", "backslashreplace")
    return HttpResponse(status=status, body=body, headers=headers)


def error_response(
    status: int, code: str, message: str, *, headers: tuple[tuple[str, str], ...] = ()
) -> HttpResponse:
    """Return `{"error": {"code", "message"}}`."""
    document = {"error": {"code": code, "message": message}}
    return json_response(document, status=status, headers=headers)


async def serve_http(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[StreamT]],
    *,
    task_status: trio.TaskStatus[list[trio.abc.Listener[StreamT]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `handler` on `listeners` until cancelled; then both they and connections are closed."""
    serving = 0

    async def serve(stream: StreamT) -> None:
        nonlocal serving
        async with stream:
            connection = _Connection(stream)
            if serving >= MAX_CONNECTIONS:
                await connection.turn_away()
                return
            serving += 1
            try:
                await connection.serve(handler)
            except Exception:  # noqa: BLE001  # a bug in one connection; the others go on
                _log.error("admin connection failed", exception=traceback.format_exc())
            finally:
                serving -= 1

    await trio.serve_listeners(serve, list(listeners), task_status=task_status)


class _Refused(Exception):
    """The request is answered with an error, and the connection ends."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = error_response(status, code, message)


class _PeerLeft(Exception):
    """There will be no (further) request, or nobody takes the response."""


@define(eq=False)
class _Connection:
    """One connection, from its first byte until nothing more is to be said."""

    _stream: trio.abc.HalfCloseableStream
    _protocol: h11.Connection = field(init=False)
    _method: str = field(default="", init=False)

    def __attrs_post_init__(self) -> None:
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def serve(self, handler: Handler) -> None:
        """Answer requests until the peer leaves or has to be refused."""
        with contextlib.suppress(_PeerLeft, trio.BrokenResourceError):
            try:
                while True:
                    request = await self._next_request()
                    await self._send(await _answer(handler, request))
                    if self._protocol.our_state is not h11.DONE:
                        return
                    self._protocol.start_next_cycle()
            except _Refused as refused:
                await self._send(refused.response, last=True)
                await self._linger()

    async def turn_away(self) -> None:
        """Answer 503 without reading anything."""
        message = f"{MAX_CONNECTIONS} connections are open already; try again later"
        with contextlib.suppress(_PeerLeft, trio.BrokenResourceError):
            await self._send(error_response(503, "TOO_MANY_CONNECTIONS", message), last=True)

    async def _next_request(self) -> HttpRequest:
        self._method = ""
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            try:
                return await self._read_request()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
                code = "HEAD_TOO_LARGE" if status == 431 else "BAD_REQUEST"
                raise _Refused(status, code, str(error)) from error
        began = self._method or self._protocol.trailing_data[0]
        if began:
            raise _Refused(408, "TIMEOUT", f"no whole request within {REQUEST_TIMEOUT_S:g} s")
        raise _PeerLeft

    async def _read_request(self) -> HttpRequest:
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            raise _PeerLeft
        self._method = head.method.decode()
        headers = tuple((name.decode(), value.decode("latin-1")) for name, value in head.headers)
        _check_length(int(dict(headers).get("content-length", "0")))
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            _check_length(len(body))
        path, _, query = head.target.decode("latin-1").partition("?")
        return HttpRequest(
            method=self._method, path=path, query=query, headers=headers, body=bytes(body)
        )

    async def _next_event(self) -> Any:
        """Return h11's next event, reading as needed.

        Raises:
            h11.RemoteProtocolError: The peer does not speak HTTP, or too much of it.
        """
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._protocol.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send_all(self._protocol.send(go_on) or b"")
            self._protocol.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))

    async def _send(self, response: HttpResponse, *, last: bool = False) -> None:
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            *response.headers,
        ]
        if last:
            headers.append(("Connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
        if self._method != "HEAD":
            events.append(h11.Data(data=response.body))
        events.append(h11.EndOfMessage())
        data = b"".join(self._protocol.send(event) or b"" for event in events)
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            await self._stream.send_all(data)
            return
        raise _PeerLeft

    async def _linger(self) -> None:
        dropped = 0
        with trio.move_on_after(_LINGER_TIMEOUT_S):
            await self._stream.send_eof()
            while dropped < _LINGER_BYTES:
                data = await self._stream.receive_some(_READ_BYTES)
                if not data:
                    return
                dropped += len(data)


def _check_length(length: int) -> None:
    if length > MAX_BODY_BYTES:
        raise _Refused(413, "TOO_LARGE", f"a body may have {MAX_BODY_BYTES} bytes at most")


async def _answer(handler: Handler, request: HttpRequest) -> HttpResponse:
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001  # whatever it is, the peer is to hear of it
        _log.error(
            "admin request failed",
            method=request.method,
            path=request.path,
            exception=traceback.format_exc(),
        )
        return error_response(500, "INTERNAL", f"{type(error).__name__}: {error}")
