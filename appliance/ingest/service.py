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

from appliance.errors import Outcome, Rejected
from appliance.ingest import documents
from appliance.ingest.calls import Item, Question
from appliance.ingest.door import GrpcDoor
from appliance.ingest.inference import Inference
from appliance.ingest.methods import Answer, Methods
from appliance.ingest.regions import Regions
from appliance.ingest.status import Context, RefusedWith
from appliance.wire.pb import inference_pb2

NAME = "inference.GRPCInferenceService"


@define(eq=False)
class Service:
    """See the module's docstring.

    Args:
        door: Asked questions; only ever called by Trio's side.
        post: Hands something over to Trio's side.
        methods: Runs them.
        inference: Those that infer.
        regions: Shared memory of clients.
        model_control: They may load and unload models.
    """

    door: GrpcDoor
    post: Callable[[Item], None]
    methods: Methods
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
        methods = {
            name: self.methods.unary(self._answered_by_door(answer), request)
            for name, (request, answer) in asked.items()
        }
        for name, (request, answer) in self._own().items():
            methods[name] = self.methods.unary(_answered_here(answer), request)
        infer = pb.ModelInferRequest
        methods["ModelInfer"] = self.methods.unary(self.inference.unary, infer)
        methods["ModelStreamInfer"] = self.methods.stream(self.inference.stream, infer)
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _own(self) -> dict[str, tuple[Any, Callable[[Any, str], Any]]]:
        """Return what is answered in this loop, where what it is about lives."""
        pb, regions = inference_pb2, self.regions
        return {
            "SystemSharedMemoryStatus": (
                pb.SystemSharedMemoryStatusRequest,
                lambda asked, client: regions.of(client).status(asked),
            ),
            "SystemSharedMemoryRegister": (
                pb.SystemSharedMemoryRegisterRequest,
                lambda asked, client: regions.of(client).register(asked),
            ),
            "SystemSharedMemoryUnregister": (
                pb.SystemSharedMemoryUnregisterRequest,
                lambda asked, client: regions.of(client).unregister(asked),
            ),
            "CudaSharedMemoryStatus": (
                pb.CudaSharedMemoryStatusRequest,
                lambda _, __: pb.CudaSharedMemoryStatusResponse(),
            ),
            "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, _no_gpu),
            "CudaSharedMemoryUnregister": (
                pb.CudaSharedMemoryUnregisterRequest,
                lambda _, __: pb.CudaSharedMemoryUnregisterResponse(),
            ),
            "TraceSetting": (pb.TraceSettingRequest, _traces),
            "LogSettings": (pb.LogSettingsRequest, _logs),
        }

    # ------------------------------------------------------------------------------- questions

    def _answered_by_door(self, answer: Callable[[Any], Any]) -> Answer:
        async def ask(request: Any, _: str, __: Context) -> Any:
            if isinstance(request, Rejected):
                raise request
            question = Question(lambda: answer(request), asyncio.get_running_loop().create_future())
            self.post(question)
            await question.response
            if question.refusal is not None:
                raise question.refusal
            return question.answer

        return ask

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


def _answered_here(answer: Callable[[Any, str], Any]) -> Answer:
    async def ask(request: Any, client: str, _: Context) -> Any:
        if isinstance(request, Rejected):
            raise request
        return answer(request, client)

    return ask


def _check_repository(asked: Any) -> None:
    """Refuse a question about a repository by name: there is one, and it has none."""
    if asked.repository_name:
        text = f"there is one repository; leave repository_name out, came {asked.repository_name!r}"
        raise Rejected(Outcome.INVALID, text)


def _no_gpu(_: Any, __: str) -> Any:
    raise RefusedWith(grpc.StatusCode.UNIMPLEMENTED, "there is no GPU whose memory could be shared")


def _traces(asked: inference_pb2.TraceSettingRequest, _: str) -> inference_pb2.TraceSettingResponse:
    _only_read(asked.settings)
    return inference_pb2.TraceSettingResponse()


def _logs(asked: inference_pb2.LogSettingsRequest, _: str) -> inference_pb2.LogSettingsResponse:
    _only_read(asked.settings)
    return inference_pb2.LogSettingsResponse()


def _only_read(settings: Any) -> None:
    if settings:
        text = "there is nothing to set here; [log] of the configuration says what is logged"
        raise RefusedWith(grpc.StatusCode.UNIMPLEMENTED, text)
