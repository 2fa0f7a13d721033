"""The Open Inference Protocol: an inference request to rows, and rows' outputs to its response.

A request holds one row, or a batch of them in a leading dimension of every input. Each row is an
observation of its own to the rest of the appliance. What is here is what the protocol asks for;
whether a model takes a row is for admission to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from attrs import evolve, field

from appliance.errors import Outcome, Rejected
from appliance.values import value
from appliance.wire.arrays import to_array
from appliance.wire.pb import inference_pb2
from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import ITEM_BYTES, NUMPY_DTYPES, Buffer, DType, Encoding, Tensor

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

METADATA = "metadata:"
LENGTH_BYTES = 4
"""Of the length in front of each element of BYTES, little-endian."""

MAGIC: tuple[tuple[bytes, Encoding], ...] = (
    (b"\xff\xd8\xff", Encoding.JPEG),
    (b"\x89PNG\r\n\x1a\n", Encoding.PNG),
    (b"RIFF", Encoding.WAV),
    (b"fLaC", Encoding.FLAC),
)
"""What files begin with that a client may send as they are."""

TYPED: dict[DType, str] = {
    DType.BOOL: "bool_contents",
    DType.INT8: "int_contents",
    DType.INT16: "int_contents",
    DType.INT32: "int_contents",
    DType.INT64: "int64_contents",
    DType.UINT8: "uint_contents",
    DType.UINT16: "uint_contents",
    DType.UINT32: "uint_contents",
    DType.UINT64: "uint64_contents",
    DType.FLOAT32: "fp32_contents",
    DType.FLOAT64: "fp64_contents",
    DType.STRING: "bytes_contents",
}
"""The field of typed contents for each type; FP16 and BF16 have none."""

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
class Rows:
    """What a request asks for.

    Attributes:
        tensors: Of each row; their bytes lie in `payload`.
        metadata: Of each row.
        is_batched: Inputs have a batch dimension, and so have the outputs.
    """

    tensors: list[tuple[Tensor, ...]]
    metadata: list[dict[str, str]]
    payload: memoryview
    is_batched: bool


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
    parts: Sequence[bytes] = field(factory=list[bytes])


def _invalid(message: str) -> Rejected:
    return Rejected(Outcome.INVALID, message)


def input_name(wanted: InputSpec) -> str:
    """Return the name that this protocol has for an input."""
    return wanted.source.removeprefix(METADATA)


def is_file(wanted: InputSpec) -> bool:
    """Return whether an input may be sent as an image or a sound, as it is in its file."""
    return any(encoding is not _RAW for encoding in wanted.encodings)


# ------------------------------------------------------------------------------------ requests


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
            raise _invalid(f"parameter {name!r}: names that begin with {RESERVED!r} are reserved")
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(parameter, kind)
    priority, timeout = _integer(found, "priority"), _integer(found, "timeout")
    sequence = found.get("sequence_id", "")
    if not isinstance(sequence, str) and _integer(found, "sequence_id") is None:
        sequence = ""
    return Options(
        priority=priority or None,
        timeout_us=timeout or None,
        sequence_id="" if sequence in (0, "") else str(sequence),
        sequence_start=_boolean(found, "sequence_start"),
        sequence_end=_boolean(found, "sequence_end"),
        latest=found.get("keep") == "latest",
    )


def _integer(found: Mapping[str, Any], name: str) -> int | None:
    number = found.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise _invalid(f"parameter {name!r}: expected an integer from 0 on, came {number!r}")
    return number


def _boolean(found: Mapping[str, Any], name: str) -> bool:
    answer = found.get(name, False)
    if not isinstance(answer, bool):
        raise _invalid(f"parameter {name!r}: expected a boolean, came {answer!r}")
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
            raise _invalid(
                f"model {spec.model_id!r} gives {gives}; it does not give {output.name!r}"
            )
        if any(output.name == other.name for other in wanted):
            raise _invalid(f"output {output.name!r} is asked for twice")
        classes = 0
        if CLASSIFICATION in output.parameters:
            classes = output.parameters[CLASSIFICATION].int64_param
            if classes < 1:
                raise _invalid(f"output {output.name!r}: {CLASSIFICATION} is an integer from 1 on")
        shared = shared_part(output.name, output.parameters)
        wanted.append(Output(output.name, classes, shared))
    return wanted


def read_rows(
    request: inference_pb2.ModelInferRequest, contents: Sequence[bytes], spec: ModelSpec
) -> Rows:
    """Return the rows of a request for a model.

    Args:
        contents: The bytes of each input.

    Raises:
        Rejected: INVALID, naming the input, what was expected and what came.
    """
    known = {input_name(wanted): wanted for wanted in spec.inputs}
    inputs: dict[str, _Input] = {}
    offset = 0
    for tensor, data in zip(request.inputs, contents, strict=True):
        wanted = known.get(tensor.name)
        if wanted is None:
            takes = ", ".join(map(repr, known)) or "none"
            raise _invalid(
                f"model {spec.model_id!r} takes {takes}; it does not take {tensor.name!r}"
            )
        if tensor.name in inputs:
            raise _invalid(f"input {tensor.name!r} is there twice")
        inputs[tensor.name] = _Input.of(tensor, wanted, offset, len(data))
        offset += len(data)
    payload = memoryview(contents[0] if len(contents) == 1 else b"".join(contents))
    count, is_batched = _count(inputs.values(), spec)
    tensors: list[list[Tensor]] = [[] for _ in range(count)]
    metadata: list[dict[str, str]] = [{} for _ in range(count)]
    for each in inputs.values():
        if each.wanted.source.startswith(METADATA):
            for row, text in enumerate(each.texts(payload, count)):
                metadata[row][each.name] = text
        else:
            for row, tensor in enumerate(each.rows(payload, count)):
                tensors[row].append(tensor)
    return Rows([tuple(row) for row in tensors], metadata, payload, is_batched)


def _count(inputs: Iterable[_Input], spec: ModelSpec) -> tuple[int, bool]:
    """Return how many rows there are, and whether inputs have a batch dimension."""
    counts = {each.name: each.count for each in inputs if each.count is not None}
    if not counts:
        return 1, False
    count = next(iter(counts.values()))
    if any(other != count for other in counts.values()):
        shown = ", ".join(f"{name!r} {rows}" for name, rows in counts.items())
        raise _invalid(f"inputs have different batch sizes: {shown}")
    if not 1 <= count <= spec.max_batch:
        raise _invalid(
            f"model {spec.model_id!r}: a batch has 1 to {spec.max_batch} rows, came {count}"
        )
    if count > 1:
        for each in inputs:
            if each.count is None:
                raise _invalid(
                    f"input {each.name!r} has no batch dimension, and others have {count}"
                )
    return count, True


@value
class _Input:
    """One input of a request.

    Attributes:
        count: Its batch dimension; None: it has none.
        shape: Of one row.
        offset, length: Of its bytes in the payload.
    """

    name: str
    wanted: InputSpec
    dtype: DType
    shape: tuple[int, ...]
    count: int | None
    offset: int
    length: int

    @classmethod
    def of(
        cls,
        tensor: inference_pb2.ModelInferRequest.InferInputTensor,
        wanted: InputSpec,
        offset: int,
        length: int,
    ) -> _Input:
        dtype = DATATYPES.get(tensor.datatype)
        if dtype is None:
            known = ", ".join(DATATYPES)
            raise _invalid(
                f"input {tensor.name!r}: datatypes are {known}; came {tensor.datatype!r}"
            )
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            raise _invalid(
                f"input {tensor.name!r}: a shape has sizes from 0 on, came {list(shape)}"
            )
        rank = len(wanted.shape)
        if wanted.source.startswith(METADATA) or (dtype is _STRING and wanted.dtype is not _STRING):
            rank = 1  # a text, or a file, is one element
        if dtype is not _STRING and prod(shape) * ITEM_BYTES[dtype] != length:
            raise _invalid(
                f"input {tensor.name!r}: {tensor.datatype} {list(shape)} has "
                f"{prod(shape) * ITEM_BYTES[dtype]} bytes, came {length}"
            )
        if len(shape) == rank + 1:
            return cls(tensor.name, wanted, dtype, shape[1:], shape[0], offset, length)
        return cls(tensor.name, wanted, dtype, shape, None, offset, length)

    def rows(self, payload: memoryview, count: int) -> list[Tensor]:
        """Return it row by row, for the model's own check."""
        key = self.wanted.source
        if self.dtype is not _STRING:
            length = self.length // count
            return [
                Tensor(key, self.dtype, self.shape, self.offset + row * length, length)
                for row in range(count)
            ]
        spans = self._elements(payload, count * prod(self.shape))
        if self.wanted.dtype is not _STRING and is_file(self.wanted):
            return [
                Tensor(
                    key, DType.UINT8, (), start, length, self._encoding(payload[start:][:length])
                )
                for start, length in self._single(spans, count)
            ]
        each = prod(self.shape)
        if not each:
            return [Tensor(key, _STRING, self.shape, self.offset, 0)] * count
        starts = [start - LENGTH_BYTES for start, _ in spans[::each]]
        ends = [*starts[1:], self.offset + self.length]
        return [
            Tensor(key, _STRING, self.shape, start, end - start)
            for start, end in zip(starts, ends, strict=True)
        ]

    def texts(self, payload: memoryview, count: int) -> list[str]:
        """Return the text of each row."""
        if self.dtype is not _STRING:
            raise _invalid(f"input {self.name!r}: expected BYTES, came {NAMES[self.dtype]}")
        spans = self._single(self._elements(payload, count * prod(self.shape)), count)
        try:
            return [bytes(payload[start : start + length]).decode() for start, length in spans]
        except UnicodeDecodeError as error:
            raise _invalid(f"input {self.name!r}: is no UTF-8: {error}") from error

    def _elements(self, payload: memoryview, count: int) -> list[tuple[int, int]]:
        """Return where each element of BYTES lies, and how long it is."""
        spans: list[tuple[int, int]] = []
        position, end = self.offset, self.offset + self.length
        while position + LENGTH_BYTES <= end and len(spans) < count:
            length = int.from_bytes(payload[position : position + LENGTH_BYTES], "little")
            position += LENGTH_BYTES
            if length > end - position:
                break
            spans.append((position, length))
            position += length
        if position != end or len(spans) != count:
            raise _invalid(
                f"input {self.name!r}: expected {count} elements of BYTES, each behind its length "
                f"in {LENGTH_BYTES} bytes, in {self.length} bytes"
            )
        return spans

    def _single(self, spans: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
        if len(spans) != count:
            raise _invalid(f"input {self.name!r}: expected an element a row, came {len(spans)}")
        return spans

    def _encoding(self, file: memoryview) -> Encoding:
        for magic, encoding in MAGIC:
            if bytes(file[: len(magic)]) == magic:
                return encoding
        allowed = ", ".join(each.name for each in self.wanted.encodings if each is not _RAW)
        raise _invalid(f"input {self.name!r}: expected a file ({allowed}), came something else")


def read_contents(
    request: inference_pb2.ModelInferRequest, read_shared: Callable[[SharedPart], bytes]
) -> list[bytes]:
    """Return the bytes of each input, however they were sent.

    Args:
        read_shared: Reads what lies in shared memory.

    Raises:
        Rejected: INVALID, naming the input; or as `read_shared`.
    """
    raw, inputs = request.raw_input_contents, request.inputs
    shared = [shared_part(tensor.name, tensor.parameters) for tensor in inputs]
    expected = shared.count(None)
    if raw and len(raw) != expected:
        raise _invalid(f"raw_input_contents: expected {expected}, one an input, came {len(raw)}")
    following = iter(raw)
    contents: list[bytes] = []
    for tensor, part in zip(inputs, shared, strict=True):
        if part is not None:
            contents.append(read_shared(part))
        elif not raw:
            contents.append(_typed(tensor))
        elif tensor.HasField("contents"):
            raise _invalid(f"input {tensor.name!r}: raw_input_contents and contents were sent")
        else:
            contents.append(next(following))
    return contents


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
        raise _invalid(
            f"tensor {name!r}: {REGION}, {OFFSET} and {BYTE_SIZE} say where it lies; "
            f"came {part.region!r}, {part.offset}, {part.size}"
        )
    return part


def _typed(tensor: inference_pb2.ModelInferRequest.InferInputTensor) -> bytes:
    """Return the bytes of an input that was sent in typed fields."""
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        return b""  # it is refused for that
    name = TYPED.get(dtype)
    if name is None:
        raise _invalid(f"input {tensor.name!r}: {tensor.datatype} goes in raw_input_contents only")
    for other in set(TYPED.values()) - {name}:
        if getattr(tensor.contents, other):
            raise _invalid(f"input {tensor.name!r}: {tensor.datatype} goes in {name}, not {other}")
    items = getattr(tensor.contents, name)
    if dtype is _STRING:
        return b"".join(_element(item) for item in items)
    narrow = NUMPY_DTYPES[dtype]
    if narrow.kind in "iu":
        wide = np.array(items, np.uint64 if dtype is DType.UINT64 else np.int64)
        limits = np.iinfo(narrow.name)
        if wide.size and not limits.min <= wide.min() <= wide.max() <= limits.max:
            raise _invalid(f"input {tensor.name!r}: a number in {name} is no {tensor.datatype}")
        return wide.astype(narrow).tobytes()
    return np.array(items, narrow).tobytes()


def _element(item: bytes) -> bytes:
    return len(item).to_bytes(LENGTH_BYTES, "little") + item


# ----------------------------------------------------------------------------------- responses


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
        raise _invalid(f"output {output.name!r}: has {len(data)} bytes, {part.size} are there")
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
        raise _invalid(f"output {tensor.key!r}: {CLASSIFICATION} is for numbers")
    values = to_array(evolve(tensor, offset=0), part).reshape(-1).astype(np.float64)
    best = np.argsort(-values, kind="stable")[:count]
    return b"".join(_element(f"{values[index]:f}:{index}".encode()) for index in best)
