"""The methods that infer, as asyncio runs them: each request becomes a `Call`, waited for.

How far a stream may be ahead of its reader is bounded here; how many calls a client may have, by
`methods`; how many bytes of answers may wait for it, by the door.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, cast

from attrs import define, field

from appliance.errors import Outcome, Rejected
from appliance.ingest.callers import Callers, Metadata, trace_of
from appliance.ingest.calls import Call, GivenUp, Item
from appliance.ingest.held_answers import HeldAnswers
from appliance.ingest.regions import Regions
from appliance.ingest.status import Context, message_of, status_of
from appliance.values import value
from appliance.wire.inference import FINAL, check_bounds
from appliance.wire.inference_response import write_response
from appliance.wire.inference_rows import read_contents
from appliance.wire.pb import inference_pb2

if TYPE_CHECKING:  # needs the extra `otel`
    from appliance.ingest.spans import Spans

STREAM_AHEAD = 64
"""Requests of a stream whose answers have not left: the next one is not read before one has."""
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
    """The calls of a stream whose answers have not left: how far it is ahead of its reader. Pure.

    Attributes:
        answer_bytes: Of the longest answer so far; None: there was none.
    """

    calls: deque[Call] = field(factory=deque[Call])
    answer_bytes: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether another request may be read."""
        if self.answer_bytes is None:
            return len(self.calls) < AHEAD_UNKNOWN
        room = AHEAD_BYTES // max(1, self.answer_bytes)
        return len(self.calls) < min(STREAM_AHEAD, max(1, room))

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
        held: Told when an answer has left.
        spans: Told of each call; None: nobody is.
    """

    post: Callable[[Item], None]
    regions: Regions
    callers: Callers
    held: HeldAnswers
    spans: Spans | None = None

    async def unary(self, request: Request | Rejected, client: str, context: Context) -> bytes:
        """Return the answer to one request, written.

        Raises:
            Rejected: It was refused.
        """
        call = self._call(request, self._asker(client, context), "ModelInfer")
        try:
            await call.response
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        task = asyncio.current_task()
        if call.held_bytes >= LARGE and task is not None:  # it may wait in gRPC for its reader
            task.add_done_callback(lambda _: self.held.let_go(call))
            return self._response(call).SerializeToString()
        try:
            return self._response(call).SerializeToString()
        finally:
            self.held.let_go(call)

    async def stream(
        self, requests: AsyncIterator[Request | Rejected], client: str, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """Answer each request of a stream, in their order; a refusal does not end it."""
        window = StreamWindow()
        calls = window.calls
        came, left = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            asker = self._asker(client, context)
            try:
                async for request in requests:
                    if self.callers.tokens is not None:
                        # It may be revoked meanwhile.
                        asker = self._asker(self.callers.name(context), context)
                    calls.append(self._call(request, asker, "ModelStreamInfer"))
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
                yield self._streamed(call).SerializeToString()
                self.held.let_go(calls.popleft())
                left.set()
        finally:
            reader.cancel()
            for call in calls:
                self._give_up(call)

    def _asker(self, client: str, context: Context) -> _Asker:
        """Return what is true of all requests of a call: one, or those of its stream."""
        remaining_s = cast("float | None", context.time_remaining())
        now_ns = time.monotonic_ns()
        metadata = context.invocation_metadata() or ()
        return _Asker(
            client=client,
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
                    request,
                    self.regions.of(asker.client).read,
                    self.regions.settings.max_message_bytes,
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
        if not call.is_answered:
            self.post(GivenUp(call))
            if self.spans is not None and call.span is not None:
                self.spans.give_up(call, call.span)
        self.held.let_go(call)

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
        call.rows = [None] * len(call.rows)  # the response has them from here on
        return write_response(
            call.request,
            call.spec,
            call.outputs,
            rows,
            self.regions.of(call.client).write,
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
