"""A bare grpc.aio server of the protocol: what comes goes back, and nothing is done meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from appliance.wire.pb import inference_pb2 as pb
from benchmarks.inference.servers import DATATYPES

MAX_BYTES = 64 << 20


class Floor:
    """Its methods."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def infer(self, request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        """Give back the input."""
        self.counts[request.model_name] += 1
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        (sent,) = request.inputs
        response.outputs.add(name="y", datatype=sent.datatype, shape=sent.shape)
        response.raw_output_contents.append(request.raw_input_contents[0])
        return response

    async def stream(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Give each back in its turn."""
        async for request in requests:
            response = await self.infer(request, context)
            response.parameters["triton_final_response"].bool_param = True
            yield pb.ModelStreamInferResponse(infer_response=response)

    def metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Say what a model takes."""
        _, datatype, shape, most = DATATYPES[request.name]
        tensor = pb.ModelMetadataResponse.TensorMetadata
        dims = [-1, *shape] if most > 1 else shape
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            inputs=[tensor(name="x", datatype=datatype, shape=dims)],
            outputs=[tensor(name="y", datatype=datatype, shape=dims)],
        )

    def config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Say it as a configuration."""
        _, datatype, shape, most = DATATYPES[request.name]
        kind = getattr(pb, f"TYPE_{datatype}")
        config = pb.ModelConfig(
            name=request.name,
            max_batch_size=most if most > 1 else 0,
            input=[pb.ModelInput(name="x", data_type=kind, dims=shape)],
            output=[pb.ModelOutput(name="y", data_type=kind, dims=shape)],
        )
        config.dynamic_batching.SetInParent()
        return pb.ModelConfigResponse(config=config)

    def statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Say how many were answered."""
        count = self.counts[request.name]
        took = pb.StatisticDuration(count=count, ns=count)
        inference = pb.InferStatistics(
            success=took, queue=took, compute_input=took, compute_infer=took, compute_output=took
        )
        return pb.ModelStatisticsResponse(
            model_stats=[
                pb.ModelStatistics(
                    name=request.name,
                    version="1",
                    inference_count=count,
                    execution_count=count,
                    inference_stats=inference,
                )
            ]
        )


def _asked(answer: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    async def method(request: Any, _: Any) -> Any:
        return answer(request)

    return method


async def _serve() -> None:
    floor = Floor()
    asked: dict[str, Callable[[Any], Any]] = {
        "ServerReady": lambda _: pb.ServerReadyResponse(ready=True),
        "ModelReady": lambda _: pb.ModelReadyResponse(ready=True),
        "ServerMetadata": lambda _: pb.ServerMetadataResponse(
            name="floor", version="1", extensions=["statistics", "model_configuration"]
        ),
        "ModelMetadata": floor.metadata,
        "ModelConfig": floor.config,
        "ModelStatistics": floor.statistics,
    }
    methods: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(
            _asked(answer), getattr(pb, f"{name}Request").FromString, _serialized
        )
        for name, answer in asked.items()
    }
    read = pb.ModelInferRequest.FromString
    methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(floor.infer, read, _serialized)
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        floor.stream, read, _serialized
    )
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_BYTES),
            ("grpc.max_send_message_length", MAX_BYTES),
        ]
    )
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print("{}", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)


def _serialized(message: Any) -> bytes:
    return message.SerializeToString()


if __name__ == "__main__":
    asyncio.run(_serve())
