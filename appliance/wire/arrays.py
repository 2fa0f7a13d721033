"""Tensors to numpy arrays and back, with as little copying as the bytes allow.

A payload frame is the tensors' bytes one after another, in the order of their headers. bfloat16,
which numpy lacks, arrives as the float32 of the same value; strings as arrays of `bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Union, cast

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from appliance.errors import LocalProtocolError, Outcome, Rejected
from appliance.wire.types import NUMPY_DTYPES, Buffer, DType, Encoding, Tensor

_BY_KIND: dict[tuple[str, int], DType] = {
    (dtype.kind, dtype.itemsize): number for number, dtype in NUMPY_DTYPES.items()
}
_PREFIX = 4


@frozen
class Encoded:
    """An already compressed image or audio file, to be sent as it is.

    Attributes:
        shape: What it would be decoded, if known; only a hint.
    """

    data: bytes
    encoding: Encoding
    shape: tuple[int, ...] = ()


Item = Union["NDArray[Any]", str, bytes, Encoded, "list[str]"]


def to_array(tensor: Tensor, payload: Buffer) -> NDArray[Any]:
    """Return a tensor's values as a read-only array of the tensor's shape.

    A view into `payload`, except where that cannot be: BFLOAT16 (float32, exactly the same
    values), STRING (objects, each `bytes`), BOOL (any non-zero byte is True), and bytes that are
    not aligned for their type.

    Args:
        tensor: A header that was decoded together with this payload's length.
        payload: The payload frame.

    Raises:
        LocalProtocolError: The tensor is compressed media; decode it instead.
        Rejected: INVALID, STRING bytes that do not hold as many strings as the shape says.
    """
    if tensor.encoding is not Encoding.RAW:
        raise LocalProtocolError(
            f"tensor {tensor.key!r}: {tensor.encoding.name} data has to be decoded"
        )
    dtype = tensor.dtype
    count = prod(tensor.shape)
    if dtype is DType.STRING:
        end = tensor.offset + tensor.length
        texts = np.empty(count, dtype=np.object_)
        texts[:] = decode_strings(memoryview(payload)[tensor.offset : end], count)
        flat: NDArray[Any] = texts
    elif not count:
        flat = np.empty(0, dtype=NUMPY_DTYPES.get(dtype, np.dtype("<f4")))
    elif dtype is DType.BFLOAT16:
        flat = bfloat16_to_float32(np.frombuffer(payload, "<u2", count, tensor.offset))
    elif dtype is DType.BOOL:
        flat = np.frombuffer(payload, np.uint8, count, tensor.offset) != 0
    else:
        flat = np.frombuffer(payload, NUMPY_DTYPES[dtype], count, tensor.offset)
        if not flat.flags.aligned:
            flat = flat.copy()
    array = flat.reshape(tensor.shape)
    array.flags.writeable = False
    return array


def pack(items: Mapping[str, Item]) -> tuple[tuple[Tensor, ...], list[Buffer]]:
    """Lay out values as tensors, for the way out.

    Contiguous little-endian arrays are not copied: they must not change until they are sent.

    Args:
        items: Key to array; to `str`, `bytes` or a list of `str`, each a STRING tensor; or to
            compressed media.

    Returns:
        The headers, and the parts of the payload frame in their order.

    Raises:
        TypeError: A value that has no place on the wire; names its key and type.
    """
    tensors: list[Tensor] = []
    parts: list[Buffer] = []
    offset = 0
    for key, value in items.items():
        dtype, shape, encoding, part = _pack(key, value)
        length = len(part)
        tensors.append(Tensor(key, dtype, shape, offset, length, encoding))
        parts.append(part)
        offset += length
    return tuple(tensors), parts


def _pack(key: str, value: object) -> tuple[DType, tuple[int, ...], Encoding, Buffer]:
    if isinstance(value, (str, bytes)):
        return DType.STRING, (), Encoding.RAW, encode_strings([value])
    if isinstance(value, (np.ndarray, np.generic)):
        array = cast("NDArray[Any] | np.generic[Any]", value)
        dtype, part = array_bytes(key, array)
        return dtype, array.shape, Encoding.RAW, part
    if isinstance(value, Encoded):
        return DType.UINT8, value.shape, value.encoding, value.data
    found = type(value).__name__
    if isinstance(value, list):
        texts = cast("list[Any]", value)
        if all(isinstance(text, (str, bytes)) for text in texts):
            return DType.STRING, (len(texts),), Encoding.RAW, encode_strings(texts)
    raise TypeError(
        f"{key!r}: an array, str, bytes, list of str or Encoded is expected, {found} came"
    )


def array_bytes(key: str, array: NDArray[Any] | np.generic) -> tuple[DType, Buffer]:
    """Return an array's dtype on the wire and its bytes: row-major, little-endian.

    Arrays of `str`, `bytes` or objects of these become STRING.

    Raises:
        TypeError: The wire has no such dtype; names `key` and the dtype.
    """
    array = np.asarray(array)
    dtype = array.dtype
    if dtype.kind in "USO":
        texts: list[Any] = array.ravel().tolist()
        if all(isinstance(text, (str, bytes)) for text in texts):
            return DType.STRING, encode_strings(texts)
    if dtype.name == "bfloat16":  # of ml_dtypes, which JAX and ONNX use
        number, array = DType.BFLOAT16, array.view(np.uint16)
    else:
        number = _BY_KIND.get((dtype.kind, dtype.itemsize), DType.UNSPECIFIED)
    if number is DType.UNSPECIFIED:
        raise TypeError(f"{key!r}: the wire has no dtype for {dtype}")
    if not array.size:
        return number, b""
    little = array.dtype.newbyteorder("<")
    return number, np.ascontiguousarray(array, dtype=little).reshape(-1).view(np.uint8).data


def float32_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16, ties to even; NaN stays NaN, quiet."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return exactly the values that bfloat16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_strings(texts: Iterable[str | bytes]) -> bytes:
    """Write STRING elements: for each its length as uint32, then its bytes (UTF-8 of a `str`)."""
    parts: list[bytes] = []
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        parts.append(len(data).to_bytes(_PREFIX, "little"))
        parts.append(data)
    return b"".join(parts)


def decode_strings(data: Buffer, count: int) -> Sequence[bytes]:
    """Read `count` STRING elements.

    Raises:
        Rejected: INVALID, when `data` does not hold exactly `count` strings.
    """
    texts: list[bytes] = []
    position = 0
    size = len(data)
    while position < size:
        start = position + _PREFIX
        end = start + int.from_bytes(data[position:start], "little")
        if len(texts) == count or end > size:
            raise Rejected(
                Outcome.INVALID,
                f"STRING: {count} strings in {size} bytes are expected,"
                f" number {len(texts)} at byte {position} exceeds them",
            )
        texts.append(bytes(data[start:end]))
        position = end
    if len(texts) != count:
        raise Rejected(Outcome.INVALID, f"STRING: {count} strings are expected, {len(texts)} came")
    return texts
