"""The Open Inference Protocol: an inference request to rows.

A request holds one row, or a batch of them in a leading dimension of every input. Each row is an
observation of its own to the rest of the appliance. What is here is what the protocol asks for;
whether a model takes a row is for admission to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import numpy as np

from appliance.values import value
from appliance.wire.arrays import encode_strings
from appliance.wire.inference import (
    DATATYPES,
    LENGTH_BYTES,
    MOST_STRINGS,
    MOST_TYPED,
    NAMES,
    SharedPart,
    input_name,
    invalid,
    is_file,
    shared_part,
)
from appliance.wire.pb import inference_pb2
from appliance.wire.spec import METADATA, InputSpec, ModelSpec
from appliance.wire.types import ITEM_BYTES, NUMPY_DTYPES, DType, Encoding, Tensor

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

_RAW = Encoding.RAW  # members are slow to find before Python 3.12
_STRING = DType.STRING


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
            raise invalid(
                f"model {spec.model_id!r} takes {takes}; it does not take {tensor.name!r}"
            )
        if tensor.name in inputs:
            raise invalid(f"input {tensor.name!r} is there twice")
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
        raise invalid(f"inputs have different batch sizes: {shown}")
    if not 1 <= count <= spec.max_batch:
        raise invalid(
            f"model {spec.model_id!r}: a batch has 1 to {spec.max_batch} rows, came {count}"
        )
    if count > 1:
        for each in inputs:
            if each.count is None:
                raise invalid(
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
            raise invalid(f"input {tensor.name!r}: datatypes are {known}; came {tensor.datatype!r}")
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            raise invalid(f"input {tensor.name!r}: a shape has sizes from 0 on, came {list(shape)}")
        rank = len(wanted.shape)
        if wanted.source.startswith(METADATA) or (dtype is _STRING and wanted.dtype is not _STRING):
            rank = 1  # a text, or a file, is one element
        if dtype is not _STRING and prod(shape) * ITEM_BYTES[dtype] != length:
            raise invalid(
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
            raise invalid(f"input {self.name!r}: expected BYTES, came {NAMES[self.dtype]}")
        spans = self._single(self._elements(payload, count * prod(self.shape)), count)
        try:
            return [bytes(payload[start : start + length]).decode() for start, length in spans]
        except UnicodeDecodeError as error:
            raise invalid(f"input {self.name!r}: is no UTF-8: {error}") from error

    def _elements(self, payload: memoryview, count: int) -> list[tuple[int, int]]:
        """Return where each element of BYTES lies, and how long it is."""
        if count > MOST_STRINGS:
            raise invalid(
                f"input {self.name!r}: at most {MOST_STRINGS} elements of BYTES are allowed, "
                f"{count} came"
            )
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
            raise invalid(
                f"input {self.name!r}: expected {count} elements of BYTES, each behind its length "
                f"in {LENGTH_BYTES} bytes, in {self.length} bytes"
            )
        return spans

    def _single(self, spans: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
        if len(spans) != count:
            raise invalid(f"input {self.name!r}: expected an element a row, came {len(spans)}")
        return spans

    def _encoding(self, file: memoryview) -> Encoding:
        for magic, encoding in MAGIC:
            if bytes(file[: len(magic)]) == magic:
                return encoding
        allowed = ", ".join(each.name for each in self.wanted.encodings if each is not _RAW)
        raise invalid(f"input {self.name!r}: expected a file ({allowed}), came something else")


def read_contents(
    request: inference_pb2.ModelInferRequest,
    read_shared: Callable[[SharedPart], bytes],
    most_shared_bytes: int,
) -> list[bytes]:
    """Return the bytes of each input, however they were sent.

    Args:
        read_shared: Reads what lies in shared memory.
        most_shared_bytes: That may be read there for a request.

    Raises:
        Rejected: INVALID, naming the input; or as `read_shared`.
    """
    raw, inputs = request.raw_input_contents, request.inputs
    shared = [shared_part(tensor.name, tensor.parameters) for tensor in inputs]
    expected = shared.count(None)
    in_memory = sum(part.size for part in shared if part is not None)
    if in_memory > most_shared_bytes:
        raise invalid(
            f"inputs in shared memory: at most {most_shared_bytes} bytes are allowed, "
            f"{in_memory} are named"
        )
    if raw and len(raw) != expected:
        raise invalid(f"raw_input_contents: expected {expected}, one an input, came {len(raw)}")
    following = iter(raw)
    contents: list[bytes] = []
    for tensor, part in zip(inputs, shared, strict=True):
        if part is not None:
            contents.append(read_shared(part))
        elif not raw:
            contents.append(_typed(tensor))
        elif tensor.HasField("contents"):
            raise invalid(f"input {tensor.name!r}: raw_input_contents and contents were sent")
        else:
            contents.append(next(following))
    return contents


def _typed(tensor: inference_pb2.ModelInferRequest.InferInputTensor) -> bytes:
    """Return the bytes of an input that was sent in typed fields."""
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        return b""  # it is refused for that
    name = TYPED.get(dtype)
    if name is None:
        raise invalid(f"input {tensor.name!r}: {tensor.datatype} goes in raw_input_contents only")
    for other in set(TYPED.values()) - {name}:
        if getattr(tensor.contents, other):
            raise invalid(f"input {tensor.name!r}: {tensor.datatype} goes in {name}, not {other}")
    items = getattr(tensor.contents, name)
    most = MOST_STRINGS if dtype is _STRING else MOST_TYPED
    if len(items) > most:
        raise invalid(
            f"input {tensor.name!r}: at most {most} elements in {name} are allowed, "
            f"{len(items)} came; raw_input_contents takes more"
        )
    if dtype is _STRING:
        return encode_strings(items)
    narrow = NUMPY_DTYPES[dtype]
    if narrow.kind in "iu":
        wide = np.array(items, np.uint64 if dtype is DType.UINT64 else np.int64)
        limits = np.iinfo(narrow.name)
        if wide.size and not limits.min <= wide.min() <= wide.max() <= limits.max:
            raise invalid(f"input {tensor.name!r}: a number in {name} is no {tensor.datatype}")
        return wide.astype(narrow).tobytes()
    return np.array(items, narrow).tobytes()
