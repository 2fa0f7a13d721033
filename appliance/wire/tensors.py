"""Tensor headers: read with every check that needs no model, written field by field.

This runs for every message. The common tensor (RAW, sane, in payload order) passes through a few
comparisons; the reasons of a refusal are worked out only once it is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from appliance.errors import Outcome, Rejected
from appliance.wire.pb import session_pb2
from appliance.wire.types import ITEM_BYTES, DType, Encoding, Tensor

MAX_TENSORS = 64
MAX_KEY_BYTES = 128
MAX_RANK = 8
DAY_US = 86_400_000_000
"""No duration on the wire is longer."""

_DTYPES: dict[int, DType] = {int(dtype): dtype for dtype in DType}
_ENCODINGS: dict[int, Encoding] = {
    session_pb2.ENCODING_UNSPECIFIED: Encoding.RAW,
    **{int(encoding): encoding for encoding in Encoding},
}
_MAX_BYTES = (1 << 63) - 1
_STRING_PREFIX_BYTES = 4
_RAW = Encoding.RAW  # members are slow to find before Python 3.12


def decode_tensors(
    messages: Sequence[session_pb2.Tensor], payload_bytes: int
) -> tuple[Tensor, ...]:
    """Read and check the headers of all tensors of one message.

    Afterwards every tensor lies inside the payload and overlaps no other, nothing follows the
    last one, keys are unique, and RAW bytes are exactly what dtype and shape need. (Of STRING
    tensors only the least length is known; `arrays.to_array` checks their inside.)

    Raises:
        Rejected: INVALID or TOO_LARGE, saying which tensor, what was expected and what came.
    """
    if len(messages) > MAX_TENSORS:
        raise Rejected(
            Outcome.TOO_LARGE, f"tensors: at most {MAX_TENSORS} are allowed, {len(messages)} came"
        )
    tensors: list[Tensor] = []
    end = 0
    in_order = True
    for message in messages[:]:  # a slice is a list, quicker to walk
        tensor = _decode_tensor(message)
        if tensor.offset < end:
            in_order = False
        end = tensor.offset + tensor.length
        tensors.append(tensor)
    if not in_order:
        end = _end_of_scattered(tensors)
    if end != payload_bytes:
        _refuse_payload(tensors, end, payload_bytes)
    if len(tensors) > 1 and len({tensor.key for tensor in tensors}) != len(tensors):
        _refuse_duplicate(tensors)
    return tuple(tensors)


def _decode_tensor(message: session_pb2.Tensor) -> Tensor:
    key = message.key
    number = message.dtype
    dtype = _DTYPES.get(number)
    encoding = _ENCODINGS.get(message.encoding)
    shape = tuple(message.shape[:])
    length = message.byte_length
    age_us = message.age_us
    # A character takes at most 4 bytes.
    if not key or (len(key) > MAX_KEY_BYTES // 4 and len(key.encode()) > MAX_KEY_BYTES):
        raise _invalid(key, f"a key of 1 to {MAX_KEY_BYTES} bytes is expected", len(key.encode()))
    if dtype is None:
        raise _invalid(key, "a known dtype is expected", number)
    if encoding is None:
        raise _invalid(key, "a known encoding is expected", message.encoding)
    if shape and (len(shape) > MAX_RANK or min(shape) < 0):
        found = shape if len(shape) <= MAX_RANK else f"{len(shape)} dimensions"
        raise _invalid(key, f"at most {MAX_RANK} dimensions, none negative, are expected", found)
    if age_us > DAY_US:
        raise _invalid(key, f"age_us is at most one day ({DAY_US})", age_us)
    if encoding is not _RAW:
        if not length:
            raise _invalid(key, f"{encoding.name} data is expected", "0 bytes")
    else:
        item_bytes = ITEM_BYTES.get(dtype)
        # A product of zero may hide dimensions that no array can have.
        if item_bytes is None or prod(shape) * item_bytes != length or not length:
            _check_raw(key, dtype, shape, length)
    return Tensor(
        key, dtype, shape, message.byte_offset, length, encoding, message.timestamp_ns, age_us
    )


def _check_raw(key: str, dtype: DType, shape: tuple[int, ...], length: int) -> None:
    """Judge the RAW tensors that are not simply as long as they should be."""
    if dtype is DType.UNSPECIFIED:
        raise _invalid(key, "a raw tensor needs a dtype", "none")
    item_bytes = ITEM_BYTES.get(dtype, _STRING_PREFIX_BYTES)
    if prod(max(dimension, 1) for dimension in shape) * item_bytes > _MAX_BYTES:
        raise _invalid(key, "a shape within 63 bits is expected", shape)
    expected = prod(shape) * item_bytes
    if dtype is not DType.STRING:
        if length != expected:
            raise _invalid(key, f"{dtype.name}{shape} has {expected} bytes", length)
    elif length < expected or (not expected and length):
        wanted = f"at least {expected}" if expected else "0"
        raise _invalid(key, f"STRING{shape} has {wanted} bytes", length)


def _end_of_scattered(tensors: list[Tensor]) -> int:
    """Return where the last tensor ends, of tensors that do not follow payload order."""
    end = 0
    previous = ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.length)):
        # An empty tensor covers nothing, wherever it lies.
        if tensor.length and tensor.offset < end:
            raise _invalid(
                tensor.key,
                f"bytes after {end}, where {previous!r} ends, are expected",
                _span(tensor),
            )
        if tensor.offset + tensor.length > end:
            end, previous = tensor.offset + tensor.length, tensor.key
    return end


def _refuse_payload(tensors: list[Tensor], end: int, payload_bytes: int) -> None:
    for tensor in tensors:
        if tensor.offset + tensor.length > payload_bytes:
            raise _invalid(tensor.key, f"the payload has {payload_bytes} bytes", _span(tensor))
    if end < payload_bytes:
        raise Rejected(
            Outcome.INVALID,
            f"payload: {end} bytes are expected by its tensors, {payload_bytes} came",
        )


def _refuse_duplicate(tensors: list[Tensor]) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.key in seen:
            raise _invalid(tensor.key, "each key is expected once", "a second one")
        seen.add(tensor.key)


def _invalid(key: str, expected: str, found: object) -> Rejected:
    name = key if len(key) <= MAX_KEY_BYTES else f"{key[:MAX_KEY_BYTES]}..."
    return Rejected(Outcome.INVALID, f"tensor {name!r}: {expected}; {found} came")


def _span(tensor: Tensor) -> str:
    return f"[{tensor.offset}, {tensor.offset + tensor.length})"


def encode_tensors(
    tensors: Sequence[Tensor],
    message: session_pb2.Observation | session_pb2.ModelResponse,
    *,
    extended: bool = True,
) -> None:
    """Append the headers of `tensors` to `message`; without our fields unless `extended`."""
    for tensor in tensors:
        wire = message.tensors.add()
        wire.key = tensor.key
        wire.dtype = tensor.dtype  # pyright: ignore[reportAttributeAccessIssue] - any int enum does
        wire.shape.extend(tensor.shape)
        if tensor.offset:
            wire.byte_offset = tensor.offset
        wire.byte_length = tensor.length
        if tensor.timestamp_ns:
            wire.timestamp_ns = tensor.timestamp_ns
        wire.encoding = tensor.encoding  # pyright: ignore[reportAttributeAccessIssue] - as above
        if extended and tensor.age_us:
            wire.age_us = tensor.age_us
