"""`appliance infer`: one question to one model, by people, over gRPC.

Files are sent as they are; the manifest of the model says how they become tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from appliance.cli import OK
from appliance.errors import InferenceError
from appliance.wire.arrays import encode_strings, to_array
from appliance.wire.inference import DATATYPES
from appliance.wire.pb import inference_pb2
from appliance.wire.types import NUMPY_DTYPES, DType, Tensor

SERVICE = "/inference.GRPCInferenceService/"
SHOWN = 6
"""Values of an output that are shown, and its largest ones."""
MICROSECONDS = 1e6
TOKEN_VARIABLE = "APPLIANCE_TOKEN"  # noqa: S105  a name, no token
"""The environment variable of an API token: what stands in a command line, others can read."""

Metadata = inference_pb2.ModelMetadataResponse.TensorMetadata


@frozen
class Given:
    """What is sent for an input; `name` is empty where the user named none."""

    name: str
    kind: str
    value: str


def run(arguments: argparse.Namespace) -> int:
    """Ask, and print what came.

    Raises:
        InferenceError: It was refused, nobody answers there, or what was given does not fit.
    """
    given = [
        _given(kind, text)
        for kind in ("image", "audio", "text", "tensor")
        for text in getattr(arguments, kind)
    ]
    timeout_s = arguments.timeout_ms / 1000
    with _channel(arguments) as channel:
        asks = inference_pb2.ModelMetadataRequest(name=arguments.model)
        model = _call(channel, "ModelMetadata", asks, timeout_s, arguments.grpc)
        request = build(model, given)
        begin_s = time.monotonic()
        response = _call(channel, "ModelInfer", request, timeout_s, arguments.grpc)
        took_us = (time.monotonic() - begin_s) * MICROSECONDS
    outputs = arrays(response)
    if arguments.json:
        print(json.dumps(document(response, outputs, took_us)))
    else:
        print("\n".join(lines(response, outputs, took_us)))
    return OK


def _channel(arguments: argparse.Namespace) -> grpc.Channel:
    """Return a channel to where the user says, over TLS if a file for that is named."""
    names = (arguments.ca, arguments.key, arguments.certificate)
    if not any(names):
        return grpc.insecure_channel(arguments.grpc)
    try:
        ca, key, certificate = (Path(name).read_bytes() if name else None for name in names)
    except OSError as error:
        raise InferenceError(f"{error.filename}: {error.strerror}") from None
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(arguments.grpc, credentials)


def _given(kind: str, text: str) -> Given:
    name, equals, value = text.partition("=")
    return Given(name, kind, value) if equals and "/" not in name else Given("", kind, text)


def _call(channel: grpc.Channel, name: str, request: Any, timeout_s: float, address: str) -> Any:
    answer = getattr(inference_pb2, f"{name}Response")
    method: Any = channel.unary_unary(SERVICE + name, _serialized, answer.FromString)
    try:
        token = os.environ.get(TOKEN_VARIABLE)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return method(request, timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as error:
        _explain(error, address)


def _serialized(message: Any) -> bytes:
    return message.SerializeToString()


def _explain(error: Any, address: str) -> NoReturn:
    """Say what went wrong, and what to do about it."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and not dict(error.trailing_metadata() or ()):
        raise InferenceError(
            f"nobody answers at {address}: start `appliance serve --grpc {address}`, or name "
            "another address with --grpc"
        ) from None
    raise InferenceError(f"{error.code().name}: {error.details()}") from None


# --------------------------------------------------------------------------------- the request


def build(
    model: inference_pb2.ModelMetadataResponse, given: Sequence[Given]
) -> inference_pb2.ModelInferRequest:
    """Return the request for one row.

    Raises:
        InferenceError: What was given does not fit the model, or a file cannot be read.
    """
    left = {each.name: each for each in model.inputs}
    request = inference_pb2.ModelInferRequest(model_name=model.name)
    for each in sorted(given, key=lambda each: not each.name):  # those with names first
        wanted = _input_for(each, left, model)
        del left[wanted.name]
        shape, data = _read_tensor(each, wanted) if each.kind == "tensor" else _read_bytes(each)
        request.inputs.add(name=wanted.name, datatype=wanted.datatype, shape=shape)
        request.raw_input_contents.append(data)
    return request


def _input_for(
    given: Given, left: dict[str, Metadata], model: inference_pb2.ModelMetadataResponse
) -> Metadata:
    """Return the input that something is meant for."""
    if given.name:
        if given.name not in left:
            takes = ", ".join(f"{each.name} ({each.datatype})" for each in model.inputs)
            raise InferenceError(
                f"--{given.kind} {given.name}=...: {model.name} has no such input left; "
                f"it takes {takes}"
            )
        return left[given.name]
    fits = [
        each for each in left.values() if (each.datatype == "BYTES") != (given.kind == "tensor")
    ]
    if len(fits) != 1:
        names = ", ".join(f"{each.name} ({each.datatype})" for each in fits) or "none"
        raise InferenceError(
            f"--{given.kind} {given.value}: say which input it is for, as in "
            f"--{given.kind} NAME={given.value}; those that fit: {names}"
        )
    return fits[0]


def _read_bytes(given: Given) -> tuple[Sequence[int], bytes]:
    if given.kind == "text":
        data = given.value.encode()
    else:
        try:
            data = Path(given.value).read_bytes()
        except OSError as error:
            raise InferenceError(f"--{given.kind} {given.value}: {error.strerror}") from None
    return (1, 1), encode_strings([data])


def _read_tensor(given: Given, wanted: Metadata) -> tuple[Sequence[int], bytes]:
    """Return an array from a file, in the model's type if nothing is lost by that."""
    try:
        array: NDArray[Any] = np.load(given.value, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InferenceError(f"--tensor {given.value}: {error}") from None
    dtype = DATATYPES[wanted.datatype]
    if dtype not in NUMPY_DTYPES:
        raise InferenceError(f"--tensor {given.value}: {wanted.datatype} cannot come from a file")
    if not np.can_cast(array.dtype, NUMPY_DTYPES[dtype], "same_kind"):
        raise InferenceError(
            f"--tensor {given.value}: is {array.dtype}, {wanted.name} takes {wanted.datatype}"
        )
    if array.ndim == len(wanted.shape) - 1:
        array = array[None]
    return array.shape, array.astype(NUMPY_DTYPES[dtype]).tobytes()


# -------------------------------------------------------------------------------- the response


def arrays(response: inference_pb2.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """Return the outputs by name."""
    found: dict[str, NDArray[Any]] = {}
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = tuple(output.shape)
        tensor = Tensor(output.name, DATATYPES[output.datatype], shape, 0, len(data))
        found[output.name] = to_array(tensor, data)
    return found


def document(
    response: inference_pb2.ModelInferResponse, outputs: dict[str, NDArray[Any]], took_us: float
) -> dict[str, Any]:
    """Return all there is, as JSON knows it."""
    return {
        "model": response.model_name,
        "version": response.model_version,
        "took_us": round(took_us),
        "outputs": {
            output.name: {
                "datatype": output.datatype,
                "shape": list(output.shape),
                "values": _plain(outputs[output.name]),
            }
            for output in response.outputs
        },
    }


def _plain(array: NDArray[Any]) -> Any:
    if array.dtype == object:  # elements of BYTES
        texts = [text.decode(errors="replace") for text in array.reshape(-1)]
        return np.array(texts, dtype=object).reshape(array.shape).tolist()
    return array.tolist()


def lines(
    response: inference_pb2.ModelInferResponse, outputs: dict[str, NDArray[Any]], took_us: float
) -> list[str]:
    """Return what a person wants to see."""
    said = [f"{response.model_name} version {response.model_version}   {took_us / 1000:.1f} ms"]
    for output in response.outputs:
        array = outputs[output.name]
        flat = array.reshape(-1)
        shown = ", ".join(_short(value) for value in flat[:SHOWN])
        more = f", ... ({prod(array.shape)})" if len(flat) > SHOWN else ""
        said.append(f"  {output.name}  {output.datatype} {list(output.shape)}  {shown}{more}")
        if len(flat) > 1 and DATATYPES[output.datatype] in (DType.FLOAT32, DType.FLOAT64):
            best = np.argsort(-flat, kind="stable")[:SHOWN]
            largest = "  ".join(f"{index}: {_short(flat[index])}" for index in best)
            said.append(f"    largest  {largest}")
    return said


def _short(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else f"{value:.4g}"
