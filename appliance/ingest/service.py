"""What asyncio runs: the protocol's methods.

Nothing of the appliance is touched here. A method makes a `Call` or a `Question`, hands it over,
and waits for its end.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
import grpc.aio
from attrs import define, field
from google.protobuf.message import DecodeError

from appliance.errors import Outcome, Rejected
from appliance.ingest import documents
from appliance.ingest.callers import Callers, Metadata, trace_of
from appliance.ingest.calls import Call, GivenUp, Item, Question
from appliance.ingest.door import GrpcDoor
from appliance.ingest.regions import Regions
from appliance.ingest.status import RefusedWith, message_of, status_of, trailers
from appliance.values import value
from appliance.wire.inference import FINAL, check_bounds
from appliance.wire.inference_response import write_response
from appliance.wire.inference_rows import read_contents
from appliance.wire.pb import inference_pb2

if TYPE_CHECKING:  # needs the extra `otel`
    from appliance.ingest.spans import Spans

NAME = "inference.GRPCInferenceService"
STREAM_AHEAD = 64
"""Requests of a stream that are under way; the next one is not read before the first has ended."""
SECOND_NS = 1_000_000_000

Context = grpc.aio.ServicerContext[Any, Any]


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
class Service:
    """See the module's docstring.

    Args:
        door: Asked questions; only ever called by Trio's side.
        post: Hands something over to Trio's side.
        regions: Shared memory of clients.
        callers: Says who they are.
        model_control: They may load and unload models.
        most_streams: That one client may have open, so that others have theirs.
        spans: Told of each inference call; None: nobody is.
    """

    door: GrpcDoor
    post: Callable[[Item], None]
    regions: Regions
    callers: Callers
    model_control: bool
    most_streams: int
    spans: Spans | None = None
    _streams: Counter[str] = field(factory=Counter[str], init=False)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the methods by name, with how their messages are read and written."""
        pb = inference_pb2
        door = self.door
        catalog = door.intake.admission.catalog
        asked: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "ServerLive": (
                pb.ServerLiveRequest,
                lambda _: pb.ServerLiveResponse(live=True),
            ),
            "ServerReady": (
                pb.ServerReadyRequest,
                lambda _: pb.ServerReadyResponse(ready=door.all_ready()),
            ),
            "ModelReady": (
                pb.ModelReadyRequest,
                lambda asked: pb.ModelReadyResponse(ready=door.is_ready(asked.name, asked.version)),
            ),
            "ServerMetadata": (
                pb.ServerMetadataRequest,
                lambda _: documents.server_metadata(
                    shared_memory=self.regions.settings.shared_memory
                ),
            ),
            "ModelMetadata": (
                pb.ModelMetadataRequest,
                lambda asked: documents.model_metadata(door.find(asked.name, asked.version)),
            ),
            "ModelConfig": (
                pb.ModelConfigRequest,
                lambda asked: documents.model_config(door.find(asked.name, asked.version)),
            ),
            "ModelStatistics": (
                pb.ModelStatisticsRequest,
                lambda asked: door.statistics(asked.name, asked.version),
            ),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
            "RepositoryIndex": (
                pb.RepositoryIndexRequest,
                lambda asked: documents.repository_index(catalog, ready=asked.ready),
            ),
        }
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._asks(answer), _reads(request), _serialized
            )
            for name, (request, answer) in asked.items()
        }
        for name, (request, answer) in self._own().items():
            methods[name] = grpc.unary_unary_rpc_method_handler(
                _answers(answer), _reads(request), _serialized
            )
        methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self.infer, _reads(pb.ModelInferRequest), _serialized
        )
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.infer_stream, _reads(pb.ModelInferRequest), _serialized
        )
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _own(self) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
        """Return what is answered in this thread, where what it is about lives."""
        pb, regions = inference_pb2, self.regions
        return {
            "SystemSharedMemoryStatus": (pb.SystemSharedMemoryStatusRequest, regions.status),
            "SystemSharedMemoryRegister": (pb.SystemSharedMemoryRegisterRequest, regions.register),
            "SystemSharedMemoryUnregister": (
                pb.SystemSharedMemoryUnregisterRequest,
                regions.unregister,
            ),
            "CudaSharedMemoryStatus": (
                pb.CudaSharedMemoryStatusRequest,
                lambda _: pb.CudaSharedMemoryStatusResponse(),
            ),
            "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, _no_gpu),
            "CudaSharedMemoryUnregister": (
                pb.CudaSharedMemoryUnregisterRequest,
                lambda _: pb.CudaSharedMemoryUnregisterResponse(),
            ),
            "TraceSetting": (pb.TraceSettingRequest, _traces),
            "LogSettings": (pb.LogSettingsRequest, _logs),
        }

    # ------------------------------------------------------------------------------- questions

    def _asks(self, answer: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
        async def method(request: Any, context: Context) -> Any:
            if isinstance(request, Rejected):
                await _refuse(context, request)
            question = Question(lambda: answer(request), asyncio.get_running_loop().create_future())
            self.post(question)
            await question.response
            if question.refusal is not None:
                await _refuse(context, question.refusal)
            return question.answer

        return method

    def _load(self, asked: inference_pb2.RepositoryModelLoadRequest) -> Any:
        self._check_control()
        if asked.parameters:
            names = ", ".join(sorted(asked.parameters))
            text = f"a model is loaded as it lies in the repository; found parameters: {names}"
            raise Rejected(Outcome.INVALID, text)
        return self.door.load(asked.model_name)

    def _unload(self, asked: inference_pb2.RepositoryModelUnloadRequest) -> Any:
        self._check_control()
        return self.door.unload(asked.model_name)

    def _check_control(self) -> None:
        if not self.model_control:
            raise Rejected(
                Outcome.FORBIDDEN,
                "models are not to be changed through this door: use `appliance models load`, or "
                "set ingest.grpc.model_control = true",
            )

    # ------------------------------------------------------------------------------- inference

    async def infer(
        self, request: inference_pb2.ModelInferRequest | Rejected, context: Context
    ) -> inference_pb2.ModelInferResponse:
        """Answer one request."""
        call = self._call(request, self._asker(context), "ModelInfer")
        try:
            await call.response
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        try:
            return self._response(call)
        except Rejected as rejected:
            await _refuse(context, rejected)

    async def infer_stream(
        self,
        requests: AsyncIterator[inference_pb2.ModelInferRequest | Rejected],
        context: Context,
    ) -> AsyncIterator[inference_pb2.ModelStreamInferResponse]:
        """Answer each request of a stream, in their order; a refusal does not end it."""
        client = self.callers.name(context)
        if self._streams[client] >= self.most_streams:
            await _refuse(
                context,
                Rejected(
                    Outcome.RATE_LIMITED,
                    f"client {client!r} has {self.most_streams} streams open, as many as one may",
                ),
            )
        self._streams[client] += 1
        try:
            async with aclosing(self._answered(requests, context)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams[client] -= 1
            if not self._streams[client]:
                del self._streams[client]

    async def _answered(
        self,
        requests: AsyncIterator[inference_pb2.ModelInferRequest | Rejected],
        context: Context,
    ) -> AsyncGenerator[inference_pb2.ModelStreamInferResponse, None]:
        calls: asyncio.Queue[Call | None] = asyncio.Queue(STREAM_AHEAD)
        under_way: set[Call] = set()

        async def read() -> None:
            asker = self._asker(context)
            try:
                async for request in requests:
                    if self.callers.tokens is not None:
                        asker = self._asker(context)  # a token may be revoked meanwhile
                    call = self._call(request, asker, "ModelStreamInfer")
                    under_way.add(call)
                    await calls.put(call)
            except Exception:
                await calls.put(None)  # so that what has come is answered before it is raised
                raise
            await calls.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (call := await calls.get()) is not None:
                await call.response
                under_way.discard(call)
                yield self._streamed(call)
            await reader
        finally:
            reader.cancel()
            for call in under_way:
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

    def _call(
        self, request: inference_pb2.ModelInferRequest | Rejected, asker: _Asker, method: str
    ) -> Call:
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
        self.post(GivenUp(call))
        if self.spans is not None and call.span is not None:
            self.spans.give_up(call, call.span)

    def _response(self, call: Call) -> inference_pb2.ModelInferResponse:
        """Return what a call that has ended is answered.

        Raises:
            Rejected: It was refused.
        """
        if self.spans is None or call.span is None:
            return self._written(call)
        try:
            response = self._written(call)
        except Exception as error:
            self.spans.end(call, call.span, error)
            raise
        self.spans.end(call, call.span, None)
        return response

    def _written(self, call: Call) -> inference_pb2.ModelInferResponse:
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

    def _streamed(self, call: Call) -> inference_pb2.ModelStreamInferResponse:
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


def _answers(answer: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
    async def method(request: Any, context: Context) -> Any:
        try:
            if isinstance(request, Rejected):
                raise request
            return answer(request)
        except Rejected as rejected:
            await _refuse(context, rejected)

    return method


def _no_gpu(_: Any) -> Any:
    raise RefusedWith(grpc.StatusCode.UNIMPLEMENTED, "there is no GPU whose memory could be shared")


def _traces(asked: inference_pb2.TraceSettingRequest) -> inference_pb2.TraceSettingResponse:
    _only_read(asked.settings)
    return inference_pb2.TraceSettingResponse()


def _logs(asked: inference_pb2.LogSettingsRequest) -> inference_pb2.LogSettingsResponse:
    _only_read(asked.settings)
    return inference_pb2.LogSettingsResponse()


def _only_read(settings: Any) -> None:
    if settings:
        text = "there is nothing to set here; [log] of the configuration says what is logged"
        raise RefusedWith(grpc.StatusCode.UNIMPLEMENTED, text)


def _reads(message: Any) -> Callable[[bytes], Any]:
    """Return what reads a message, or says that it is none: to gRPC that would be its own fault."""

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError as error:
            text = f"what came is no {message.DESCRIPTOR.name}: {error}"
            return Rejected(Outcome.INVALID, text)

    return read


def _serialized(message: Any) -> bytes:
    return message.SerializeToString()


async def _refuse(context: Context, rejected: Rejected) -> NoReturn:
    await context.abort(
        status_of(rejected),
        message_of(rejected),
        trailers(rejected.outcome, rejected.retry_after_ns),
    )
    raise AssertionError("abort raises")
