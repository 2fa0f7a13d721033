"""What asyncio runs: the protocol's methods.

Nothing of the appliance is touched here. What is asked about it becomes a `Question`, which is
handed over and waited for; what infers, see `inference`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from attrs import define
from google.protobuf.message import DecodeError

from appliance.errors import Outcome, Rejected
from appliance.ingest import documents
from appliance.ingest.calls import Item, Question
from appliance.ingest.door import GrpcDoor
from appliance.ingest.inference import Inference
from appliance.ingest.regions import Regions
from appliance.ingest.status import Context, RefusedWith, refuse
from appliance.wire.pb import inference_pb2

NAME = "inference.GRPCInferenceService"


@define(eq=False)
class Service:
    """See the module's docstring.

    Args:
        door: Asked questions; only ever called by Trio's side.
        post: Hands something over to Trio's side.
        inference: The methods that infer.
        regions: Shared memory of clients.
        model_control: They may load and unload models.
    """

    door: GrpcDoor
    post: Callable[[Item], None]
    inference: Inference
    regions: Regions
    model_control: bool

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
                lambda asked: (
                    _check_repository(asked)
                    or documents.repository_index(catalog, ready=asked.ready)
                ),
            ),
        }
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answered_there(answer), _reads(request), _serialized
            )
            for name, (request, answer) in asked.items()
        }
        for name, (request, answer) in self._own().items():
            methods[name] = grpc.unary_unary_rpc_method_handler(
                _answered_here(answer), _reads(request), _serialized
            )
        methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self.inference.unary, _reads(pb.ModelInferRequest), _serialized
        )
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.inference.stream, _reads(pb.ModelInferRequest), _serialized
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

    def _answered_there(self, answer: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
        async def method(request: Any, context: Context) -> Any:
            if isinstance(request, Rejected):
                await refuse(context, request)
            question = Question(lambda: answer(request), asyncio.get_running_loop().create_future())
            self.post(question)
            await question.response
            if question.refusal is not None:
                await refuse(context, question.refusal)
            return question.answer

        return method

    def _load(self, asked: inference_pb2.RepositoryModelLoadRequest) -> Any:
        self._check_control()
        _check_repository(asked)
        if asked.parameters:
            names = ", ".join(sorted(asked.parameters))
            text = f"a model is loaded as it lies in the repository; found parameters: {names}"
            raise Rejected(Outcome.INVALID, text)
        return self.door.load(asked.model_name)

    def _unload(self, asked: inference_pb2.RepositoryModelUnloadRequest) -> Any:
        self._check_control()
        _check_repository(asked)
        return self.door.unload(asked.model_name)

    def _check_control(self) -> None:
        if not self.model_control:
            raise Rejected(
                Outcome.FORBIDDEN,
                "models are not to be changed through this door: use `appliance models load`, or "
                "set ingest.grpc.model_control = true",
            )


def _answered_here(answer: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
    async def method(request: Any, context: Context) -> Any:
        try:
            if isinstance(request, Rejected):
                raise request
            return answer(request)
        except Rejected as rejected:
            await refuse(context, rejected)

    return method


def _check_repository(asked: Any) -> None:
    """Refuse a question about a repository by name: there is one, and it has none."""
    if asked.repository_name:
        text = f"there is one repository; leave repository_name out, came {asked.repository_name!r}"
        raise Rejected(Outcome.INVALID, text)


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
