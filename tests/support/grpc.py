"""The gRPC door, for tests: a plain client of its methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from appliance.wire.pb import inference_pb2 as pb
from support.box import Box

OVERRIDE = 'ingest.grpc.bind="127.0.0.1:0"'
"""Of the configuration: the door is open, at any port."""
SERVICE = "/inference.GRPCInferenceService/"


def grpc_address(running: Box) -> str:
    """Return HOST:PORT of an appliance that has the door."""
    (bind,) = (bind for bind in running.status()["binds"] if bind.startswith("grpc://"))
    return bind.removeprefix("grpc://")


@contextmanager
def channel(running: Box, *options: tuple[str, int]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(grpc_address(running), options=options) as channel:
        yield channel


def method(channel: grpc.Channel, name: str) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
    """Return a method that takes and gives one message."""
    answer = getattr(pb, f"{name}Response")
    return channel.unary_unary(
        SERVICE + name,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )


def stream(channel: grpc.Channel) -> grpc.StreamStreamMultiCallable[Any, Any]:
    return channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )


def request(
    model: str, values: np.ndarray, key: str = "state", datatype: str = "FP32", **more: Any
) -> pb.ModelInferRequest:
    """Return a request with one raw input."""
    made = pb.ModelInferRequest(model_name=model, **more)
    made.inputs.add(name=key, datatype=datatype, shape=values.shape)
    made.raw_input_contents.append(values.tobytes())
    return made


def refusal(call: Any) -> grpc.RpcError:
    """Return why a call that is refused is."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was answered")
