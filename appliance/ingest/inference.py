"""The methods that infer, as asyncio runs them: each request becomes a `Call`, waited for.

How far a stream may be ahead of its reader is bounded here; how many calls a client may have, in
`open_calls`; how many bytes of answers may wait for it, by the door.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from attrs import define

from appliance.errors import Outcome, Rejected
from appliance.ingest.callers import Callers, Metadata, trace_of
from appliance.ingest.calls import Call, GivenUp, Item
from appliance.ingest.open_calls import OpenCalls
from appliance.ingest.regions import Regions
from appliance.ingest.status import Context, message_of, refuse, status_of
from appliance.values import value
from appliance.wire.inference import FINAL, check_bounds
from appliance.wire.inference_response import write_response
from appliance.wire.inference_rows import read_contents
from appliance.wire.pb import inference_pb2

if TYPE_CHECKING:  # needs the extra `otel`
    from appliance.ingest.spans import Spans

STREAM_AHEAD = 64
"""Requests of a stream that are under way; the next one is not read before the first has left."""
AHEAD_BYTES = 16 << 20
"""And the next one is not read if their answers would be longer than this, one excepted."""
AHEAD_UNKNOWN = 8
"""So many are, until the first answer shows how long they are."""
LARGE = 1 << 16
"""An answer as long as this may wait in gRPC for its reader."""
SECOND_NS = 1_000_000_000

Request = inference_pb2.ModelInferRequest
Response = inference_pb2.ModelInferResponse
Streamed = inference_pb2.ModelStreamInferResponse


@value
class _Asker:
    """Whose requests they are.

    Attributes:
        client: Its name; empty: it may not ask any more.
        trace_id: See `Call`.
        deadline_ns: When it waits no longer, monotonic; None: no bound.
    """

    client: str
    metadata: Metadata
    trace_id: str
    deadline_ns: int | None


@define(eq=False)
class StreamWindow:
    """How far a stream is ahead of its reader. Pure.

    Attributes:
        ahead: Its requests whose answers have not left.
        answer_bytes: Of the longest answer so far; None: there was none.
    """

    ahead: int = 0
    answer_bytes: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether another request may be read."""
        if self.answer_bytes is None:
            return self.ahead < AHEAD_UNKNOWN
        room = AHEAD_BYTES // max(1, self.answer_bytes)
        return self.ahead < min(STREAM_AHEAD, max(1, room))

    def answered(self, answer_bytes: int) -> None:
        """Take in how long an answer is; 0: a refusal."""
        if answer_bytes:
            self.answer_bytes = max(answer_bytes, self.answer_bytes or 0)


@define(eq=False)
class Inference:
    """See the module's docstring.

    Args:
        post: Hands something over to Trio's side.
        regions: Shared memory of clients.
        callers: Says who they are.
        open_calls: Says how many there may be.
        spans: Told of each call; None: nobody is.
    """

    post: Callable[[Item], None]
    regions: Regions
    callers: Callers
    open_calls: OpenCalls
    spans: Spans | None = None

    async def unary(self, request: Request | Rejected, context: Context) -> Response:
        """Answer one request."""
        asker = self._asker(context)
        try:
            self.open_calls.begin(asker.client)
        except Rejected as rejected:
            return await self._answered(self._call(rejected, asker, "ModelInfer"), context)
        try:
            return await self._answered(self._call(request, asker, "ModelInfer"), context)
        finally:
            self.open_calls.end(asker.client)

    async def _answered(self, call: Call, context: Context) -> Response:
        """Wait for a call's end, and return what it is answered."""
        try:
            await call.response
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        if call.held_bytes >= LARGE:

            def let_go(_: object) -> None:
                call.let_go()

            context.add_done_callback(cast("Any", let_go))
        else:
            call.let_go()
        try:
            return self._response(call)
        except Rejected as rejected:
            await refuse(context, rejected)

    async def stream(
        self, requests: AsyncIterator[Request | Rejected], context: Context
    ) -> AsyncIterator[Streamed]:
        """Answer each request of a stream, in their order; a refusal does not end it."""
        try:
            with self.open_calls.stream(self.callers.name(context)):
                async with aclosing(self._stream(requests, context)) as responses:
                    async for response in responses:
                        yield response
        except Rejected as rejected:
            await refuse(context, rejected)

    async def _stream(
        self, requests: AsyncIterator[Request | Rejected], context: Context
    ) -> AsyncGenerator[Streamed, None]:
        window = StreamWindow()
        calls = deque[Call]()  # whose answers have not left
        came, left = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            asker = self._asker(context)
            try:
                async for request in requests:
                    if self.callers.tokens is not None:
                        asker = self._asker(context)  # a token may be revoked meanwhile
                    calls.append(self._call(request, asker, "ModelStreamInfer"))
                    window.ahead += 1
                    came.set()
                    while not window.is_open:
                        left.clear()
                        await left.wait()
            finally:
                came.set()

        reader = asyncio.ensure_future(read())
        try:
            while True:
                if not calls:
                    if reader.done():
                        reader.result()  # what has come is answered before it is raised
                        return
                    came.clear()
                    await came.wait()
                    continue
                call = calls[0]
                await call.response
                window.answered(call.held_bytes)
                yield self._streamed(call)
                call.let_go()
                calls.popleft()
                window.ahead -= 1
                left.set()
        finally:
            reader.cancel()
            for call in calls:
                self._give_up(call)

    def _asker(self, context: Context) -> _Asker:
        """Return what is true of all requests of a call: one, or those of its stream."""
        remaining_s = cast("float | None", context.time_remaining())
        now_ns = time.monotonic_ns()
        metadata = context.invocation_metadata() or ()
        return _Asker(
            client=self.callers.name(context),
            metadata=metadata,
            trace_id=trace_of(metadata),
            deadline_ns=None if remaining_s is None else now_ns + int(remaining_s * SECOND_NS),
        )

    def _call(self, request: Request | Rejected, asker: _Asker, method: str) -> Call:
        """Hand a request over."""
        received_ns = time.monotonic_ns()
        refusal, contents = None, list[bytes]()
        if isinstance(request, Rejected):
            request, refusal = inference_pb2.ModelInferRequest(), request
        elif not asker.client:
            refusal = Rejected(Outcome.UNAUTHENTICATED, self.callers.why_nobody)
        else:
            try:
                check_bounds(request)
                contents = read_contents(
                    request, self.regions.read, self.regions.settings.max_message_bytes
                )
            except Rejected as rejected:
                refusal = rejected
        trace_id, span = asker.trace_id, None
        if self.spans is not None:
            span = self.spans.begin(method, asker.metadata, received_ns)
            if span is not None:
                trace_id = f"{span.get_span_context().trace_id:032x}"
        deadline_ns = asker.deadline_ns
        call = Call(
            request=request,
            client=asker.client,
            trace_id=trace_id,
            received_ns=received_ns,
            timeout_ns=None if deadline_ns is None else deadline_ns - received_ns,
            response=asyncio.get_running_loop().create_future(),
            contents=contents,
            span=span,
            refusal=refusal,
        )
        self.post(call)
        return call

    def _give_up(self, call: Call) -> None:
        """Wait no longer for a call; one that has ended is let go of."""
        call.let_go()
        if call.is_answered:
            return
        self.post(GivenUp(call))
        if self.spans is not None and call.span is not None:
            self.spans.give_up(call, call.span)

    def _response(self, call: Call) -> Response:
        """Return what a call that has ended is answered.

        Raises:
            Rejected: It was refused.
        """
        call.is_answered = True
        if self.spans is None or call.span is None:
            return self._written(call)
        try:
            response = self._written(call)
        except Exception as error:
            self.spans.end(call, call.span, error)
            raise
        self.spans.end(call, call.span, None)
        return response

    def _written(self, call: Call) -> Response:
        if call.refusal is not None:
            raise call.refusal
        assert call.spec is not None
        rows = [row for row in call.rows if row is not None]
        return write_response(
            call.request,
            call.spec,
            call.outputs,
            rows,
            self.regions.write,
            is_batched=call.is_batched,
        )

    def _streamed(self, call: Call) -> Streamed:
        try:
            response = self._response(call)
        except Rejected as rejected:
            refused = inference_pb2.ModelInferResponse(id=call.request.id)
            refused.parameters[FINAL].bool_param = True
            return inference_pb2.ModelStreamInferResponse(
                error_message=f"[{status_of(rejected).name}] {message_of(rejected)}",
                infer_response=refused,
            )
        response.parameters[FINAL].bool_param = True
        return inference_pb2.ModelStreamInferResponse(infer_response=response)
