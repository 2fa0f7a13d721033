"""The Open Inference Protocol: rows' outputs to the response of their request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from attrs import evolve

from appliance.errors import Outcome, Rejected
from appliance.wire.arrays import encode_strings, to_array
from appliance.wire.inference import (
    BYTE_SIZE,
    CLASSIFICATION,
    NAMES,
    OFFSET,
    REGION,
    Output,
    RowOutputs,
    SharedPart,
    invalid,
)
from appliance.wire.pb import inference_pb2
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Buffer, DType, Tensor

_STRING = DType.STRING


def write_response(
    request: inference_pb2.ModelInferRequest,
    spec: ModelSpec,
    outputs: Sequence[Output],
    rows: Sequence[RowOutputs],
    write_shared: Callable[[SharedPart, bytes], None],
    *,
    is_batched: bool,
) -> inference_pb2.ModelInferResponse:
    """Return the response to a request whose rows were all answered.

    Args:
        write_shared: Writes what is wanted in shared memory.

    Raises:
        Rejected: ENGINE_FAILED, the outputs of different rows do not go into one tensor; INVALID,
            one does not fit where it shall lie; or as `write_shared`.
    """
    response = inference_pb2.ModelInferResponse(
        model_name=spec.model_id, model_version=spec.version, id=request.id
    )
    for wanted in outputs:
        found = [_find(row, wanted.name) for row in rows]
        tensor, _ = found[0]
        parts = [part for _, part in found]
        shape, dtype = tensor.shape, tensor.dtype
        if any(other.shape != shape for other, _ in found):
            raise Rejected(
                Outcome.ENGINE_FAILED,
                f"output {wanted.name!r}: its shape differs from row to row; ask row by row",
            )
        if wanted.classes:
            parts = [_classes(tensor, part, wanted.classes) for part in parts]
            shape, dtype = (min(wanted.classes, prod(shape)),), _STRING
        output = response.outputs.add(
            name=wanted.name,
            datatype=NAMES[dtype],
            shape=(len(rows), *shape) if is_batched else shape,
        )
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if wanted.shared is not None:
            _put(output, data, wanted.shared, write_shared)
            data = b""  # clients count on a place for it
        response.raw_output_contents.append(data)
    return response


def _put(
    output: inference_pb2.ModelInferResponse.InferOutputTensor,
    data: bytes,
    part: SharedPart,
    write_shared: Callable[[SharedPart, bytes], None],
) -> None:
    """Write an output to shared memory, and say so."""
    if len(data) > part.size:
        raise invalid(f"output {output.name!r}: has {len(data)} bytes, {part.size} are there")
    write_shared(part, data)
    output.parameters[REGION].string_param = part.region
    output.parameters[BYTE_SIZE].int64_param = len(data)
    if part.offset:
        output.parameters[OFFSET].int64_param = part.offset


def _find(row: RowOutputs, name: str) -> tuple[Tensor, bytes]:
    for tensor, part in zip(row.tensors, row.parts, strict=True):
        if tensor.key == name:
            return tensor, part
    raise Rejected(Outcome.ENGINE_FAILED, f"the engine gave no output {name!r}")


def _classes(tensor: Tensor, part: Buffer, count: int) -> bytes:
    """Return the largest values of an output as elements `value:index`, largest first."""
    if tensor.dtype is _STRING:
        raise invalid(f"output {tensor.key!r}: {CLASSIFICATION} is for numbers")
    values = to_array(evolve(tensor, offset=0), part).reshape(-1).astype(np.float64)
    best = np.argsort(-values, kind="stable")[:count]
    return encode_strings(f"{values[index]:f}:{index}" for index in best)
