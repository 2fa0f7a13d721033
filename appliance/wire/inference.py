"""The Open Inference Protocol: its words, and what a request says beside its inputs.

`inference_rows` reads inputs, `inference_response` writes what is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field

from appliance.errors import Outcome, Rejected
from appliance.values import new_list, value
from appliance.wire.checks import MAX_NAME_BYTES
from appliance.wire.pb import inference_pb2
from appliance.wire.spec import METADATA, InputSpec, ModelSpec
from appliance.wire.types import DType, Encoding, Tensor

DATATYPES: dict[str, DType] = {
    "BOOL": DType.BOOL,
    "UINT8": DType.UINT8,
    "UINT16": DType.UINT16,
    "UINT32": DType.UINT32,
    "UINT64": DType.UINT64,
    "INT8": DType.INT8,
    "INT16": DType.INT16,
    "INT32": DType.INT32,
    "INT64": DType.INT64,
    "FP16": DType.FLOAT16,
    "BF16": DType.BFLOAT16,
    "FP32": DType.FLOAT32,
    "FP64": DType.FLOAT64,
    "BYTES": DType.STRING,
}
NAMES: dict[DType, str] = {dtype: name for name, dtype in DATATYPES.items()}

LENGTH_BYTES = 4
"""Of the length in front of each element of BYTES, little-endian."""

LONGEST_MESSAGE = 1000

MOST_TENSORS = 256
"""Inputs of a request, and outputs that it asks for; parameters of each of them, and of it."""
MOST_DIMENSIONS = 16
MOST_STRINGS = 1 << 16
"""Elements of BYTES in an input: each is looked at by itself, while others wait."""
MOST_TYPED = 1 << 20
"""Elements of an input in typed fields, likewise; raw contents have no such bound."""
LONGEST_ID = 4096

CLASSIFICATION = "classification"
REGION = "shared_memory_region"
OFFSET = "shared_memory_offset"
BYTE_SIZE = "shared_memory_byte_size"
RESERVED = "triton_"
"""Parameters that begin so are the server's own."""
EMPTY_FINAL, FINAL = "triton_enable_empty_final_response", "triton_final_response"

_RAW = Encoding.RAW  # members are slow to find before Python 3.12
_STRING = DType.STRING


@value(kw_only=True)
class Options:
    """What a request says beside its tensors.

    Attributes:
        priority: 1 is highest; None: the client's own.
        timeout_us: From arrival to answer; None: no such bound.
        sequence_id: Whose state a recurrent model carries on; empty: nobody's.
        sequence_start, sequence_end: It begins, or ends, with this request.
        latest: A newer request of this client replaces it while it waits.
    """

    priority: int | None = None
    timeout_us: int | None = None
    sequence_id: str = ""
    sequence_start: bool = False
    sequence_end: bool = False
    latest: bool = False


@value
class SharedPart:
    """Where a tensor lies in shared memory: bytes of a region that was registered."""

    region: str
    offset: int
    size: int


@value
class Output:
    """What a client wants of one output.

    Attributes:
        classes: Instead of its values the so many largest, as text; 0: its values.
        shared: Where it shall lie in shared memory; None: in the response.
    """

    name: str
    classes: int = 0
    shared: SharedPart | None = None


@value
class RowOutputs:
    """The outputs of one row, and their bytes one by one."""

    tensors: Sequence[Tensor]
    parts: Sequence[bytes] = field(factory=new_list)


def invalid(message: str) -> Rejected:
    """Return the refusal of what is not as the protocol, or the model, has it."""
    # It may quote what came, which may be as long as a message.
    return Rejected(Outcome.INVALID, message[:LONGEST_MESSAGE])


def input_name(wanted: InputSpec) -> str:
    """Return the name that this protocol has for an input."""
    return wanted.source.removeprefix(METADATA)


def is_file(wanted: InputSpec) -> bool:
    """Return whether an input may be sent as an image or a sound, as it is in its file."""
    return any(encoding is not _RAW for encoding in wanted.encodings)


def check_bounds(request: inference_pb2.ModelInferRequest) -> None:
    """Refuse what would take long merely to look at, whatever model it is for.

    Raises:
        Rejected: INVALID, what there is too much of.
    """
    counts = [
        ("inputs", request.inputs),
        ("outputs", request.outputs),
        ("raw_input_contents", request.raw_input_contents),
        ("parameters", request.parameters),
    ]
    for what, there in counts:
        if len(there) > MOST_TENSORS:
            raise invalid(f"{what}: at most {MOST_TENSORS} are allowed, {len(there)} came")
    if len(request.id) > LONGEST_ID:
        raise invalid(f"id: at most {LONGEST_ID} characters are allowed, {len(request.id)} came")
    for tensor in request.inputs:
        if len(tensor.shape) > MOST_DIMENSIONS:
            raise invalid(
                f"input {tensor.name!r}: at most {MOST_DIMENSIONS} dimensions are allowed, "
                f"{len(tensor.shape)} came"
            )
    for tensor in (*request.inputs, *request.outputs):
        if len(tensor.parameters) > MOST_TENSORS:
            raise invalid(
                f"tensor {tensor.name!r}: at most {MOST_TENSORS} parameters are allowed, "
                f"{len(tensor.parameters)} came"
            )


def read_options(request: inference_pb2.ModelInferRequest) -> Options:
    """Return what the parameters of a request say.

    Raises:
        Rejected: INVALID, one is not of the type that it has, or reserved.
    """
    if not request.parameters:
        return Options()
    found: dict[str, Any] = {}
    for name, parameter in request.parameters.items():
        if name == EMPTY_FINAL:
            continue  # each request has one response, and that is the last one
        if name.startswith(RESERVED):
            raise invalid(f"parameter {name!r}: names that begin with {RESERVED!r} are reserved")
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(parameter, kind)
    priority, timeout = _integer(found, "priority"), _integer(found, "timeout")
    sequence = found.get("sequence_id", "")
    if not isinstance(sequence, str) and _integer(found, "sequence_id") is None:
        sequence = ""
    if isinstance(sequence, str) and len(sequence.encode()) > MAX_NAME_BYTES:
        raise invalid(f"parameter 'sequence_id': has at most {MAX_NAME_BYTES} bytes")
    keep = found.get("keep", "all")
    if keep not in ("all", "latest"):
        raise invalid(f"parameter 'keep': expected 'all' or 'latest', came {keep!r}")
    return Options(
        priority=priority or None,
        timeout_us=timeout or None,
        sequence_id="" if sequence in (0, "") else str(sequence),
        sequence_start=_boolean(found, "sequence_start"),
        sequence_end=_boolean(found, "sequence_end"),
        latest=keep == "latest",
    )


def _integer(found: Mapping[str, Any], name: str) -> int | None:
    number = found.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise invalid(f"parameter {name!r}: expected an integer from 0 on, came {number!r}")
    return number


def _boolean(found: Mapping[str, Any], name: str) -> bool:
    answer = found.get(name, False)
    if not isinstance(answer, bool):
        raise invalid(f"parameter {name!r}: expected a boolean, came {answer!r}")
    return answer


def read_outputs(request: inference_pb2.ModelInferRequest, spec: ModelSpec) -> list[Output]:
    """Return which outputs a client wants, in its order; all, if it names none.

    Raises:
        Rejected: INVALID, the model does not give one, or it is there twice.
    """
    there = [output.name for output in spec.outputs]
    if not request.outputs:
        return [Output(name) for name in there]
    wanted: list[Output] = []
    for output in request.outputs:
        if output.name not in there:
            gives = ", ".join(map(repr, there))
            raise invalid(
                f"model {spec.model_id!r} gives {gives}; it does not give {output.name!r}"
            )
        if any(output.name == other.name for other in wanted):
            raise invalid(f"output {output.name!r} is asked for twice")
        classes = 0
        if CLASSIFICATION in output.parameters:
            classes = output.parameters[CLASSIFICATION].int64_param
            if classes < 1:
                raise invalid(f"output {output.name!r}: {CLASSIFICATION} is an integer from 1 on")
        shared = shared_part(output.name, output.parameters)
        wanted.append(Output(output.name, classes, shared))
    return wanted


def shared_part(name: str, parameters: Mapping[str, Any]) -> SharedPart | None:
    """Return where in shared memory a tensor lies, by its parameters; None: it does not.

    Raises:
        Rejected: INVALID, they do not say it whole.
    """
    if REGION not in parameters:
        return None
    part = SharedPart(
        parameters[REGION].string_param,
        parameters[OFFSET].int64_param if OFFSET in parameters else 0,
        parameters[BYTE_SIZE].int64_param if BYTE_SIZE in parameters else 0,
    )
    if not part.region or part.offset < 0 or part.size <= 0:
        raise invalid(
            f"tensor {name!r}: {REGION}, {OFFSET} and {BYTE_SIZE} say where it lies; "
            f"came {part.region!r}, {part.offset}, {part.size}"
        )
    return part
