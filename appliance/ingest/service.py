"""What runs in gRPC's thread: the protocol's methods, as asyncio has them.

Nothing of the appliance is touched here. A method makes a `Call` or a `Question`, hands it over,
and waits for its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
from attrs import define
from google.protobuf.message import DecodeError

from appliance.errors import Outcome, Rejected
from appliance.ingest import documents
from appliance.ingest.calls import Call, GivenUp, Item, Question
from appliance.ingest.door import GrpcDoor
from appliance.ingest.status import CODES, trailers
from appliance.wire.inference import FINAL, write_response
from appliance.wire.pb import inference_pb2

NAME = "inference.GRPCInferenceService"
CLIENT = "client-id"
"""The metadata in which a caller may say who it is."""
LONGEST_NAME = 255
STREAM_AHEAD = 64
"""Requests of a stream that are under way; the next one is not read before the first has ended."""
SECOND_NS = 1_000_000_000

Context = grpc.aio.ServicerContext[Any, Any]


@define(eq=False)
class Service:
    """See the module's docstring.

    Args:
        door: Asked questions; only ever called in Trio's thread.
        post: Hands something over to Trio's thread.
    """

    door: GrpcDoor
    post: Callable[[Item], None]

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
            "ServerMetadata": (pb.ServerMetadataRequest, lambda _: documents.server_metadata()),
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
        methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self.infer, _reads(pb.ModelInferRequest), _serialized
        )
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.infer_stream, _reads(pb.ModelInferRequest), _serialized
        )
        return grpc.method_handlers_generic_handler(NAME, methods)

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

    # ------------------------------------------------------------------------------- inference

    async def infer(
        self, request: inference_pb2.ModelInferRequest | Rejected, context: Context
    ) -> inference_pb2.ModelInferResponse:
        """Answer one request."""
        call = self._call(request, context)
        try:
            await call.response
        except asyncio.CancelledError:
            self.post(GivenUp(call))
            raise
        try:
            return _response(call)
        except Rejected as rejected:
            await _refuse(context, rejected)

    async def infer_stream(
        self,
        requests: AsyncIterator[inference_pb2.ModelInferRequest | Rejected],
        context: Context,
    ) -> AsyncIterator[inference_pb2.ModelStreamInferResponse]:
        """Answer each request of a stream, in their order; a refusal does not end it."""
        calls: asyncio.Queue[Call | None] = asyncio.Queue(STREAM_AHEAD)
        under_way: set[Call] = set()

        async def read() -> None:
            async for request in requests:
                call = self._call(request, context)
                under_way.add(call)
                await calls.put(call)
            await calls.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (call := await calls.get()) is not None:
                await call.response
                under_way.discard(call)
                yield _streamed(call)
            await reader
        finally:
            reader.cancel()
            for call in under_way:
                self.post(GivenUp(call))

    def _call(self, request: inference_pb2.ModelInferRequest | Rejected, context: Context) -> Call:
        remaining_s = cast("float | None", context.time_remaining())
        refusal = request if isinstance(request, Rejected) else None
        call = Call(
            refusal=refusal,
            request=inference_pb2.ModelInferRequest() if isinstance(request, Rejected) else request,
            client=_client(context),
            received_ns=time.monotonic_ns(),
            timeout_ns=None if remaining_s is None else int(remaining_s * SECOND_NS),
            response=asyncio.get_running_loop().create_future(),
        )
        self.post(call)
        return call


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


def _client(context: Context) -> str:
    """Return who a call counts for: who it says it is, or the address it comes from."""
    for key, text in context.invocation_metadata() or ():
        if key == CLIENT and isinstance(text, str) and 0 < len(text) <= LONGEST_NAME:
            return text
    peer = context.peer()
    return peer.rpartition(":")[0] or peer


def _response(call: Call) -> inference_pb2.ModelInferResponse:
    """Return what a call that has ended is answered.

    Raises:
        Rejected: It was refused.
    """
    if call.refusal is not None:
        raise call.refusal
    assert call.spec is not None
    rows = [row for row in call.rows if row is not None]
    return write_response(call.request, call.spec, call.outputs, rows, is_batched=call.is_batched)


def _streamed(call: Call) -> inference_pb2.ModelStreamInferResponse:
    try:
        response = _response(call)
    except Rejected as rejected:
        refused = inference_pb2.ModelInferResponse(id=call.request.id)
        refused.parameters[FINAL].bool_param = True
        return inference_pb2.ModelStreamInferResponse(
            error_message=f"[{CODES[rejected.outcome].name}] {rejected.message}",
            infer_response=refused,
        )
    response.parameters[FINAL].bool_param = True
    return inference_pb2.ModelStreamInferResponse(infer_response=response)


async def _refuse(context: Context, rejected: Rejected) -> NoReturn:
    await context.abort(
        CODES[rejected.outcome],
        rejected.message,
        trailers(rejected.outcome, rejected.retry_after_ns),
    )
    raise AssertionError("abort raises")
