"""A user's values to one message's tensors, and an answer's tensors to values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from appliance.client.result import Encoded
from appliance.errors import PeerProtocolError, Rejected
from appliance.wire import arrays
from appliance.wire.session import decode_response
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding, Response, Tensor

_DTYPES = {dtype: number for number, dtype in NUMPY_DTYPES.items()}

Value = Union["NDArray[Any]", "np.generic", arrays.Encoded, arrays.Buffer, str, None]
"""What may be observed: arrays and scalars of numpy, compressed media, files of images, strings."""

_FILES = {b"\xff\xd8\xff": Encoding.JPEG, b"\x89PNG\r\n\x1a\n": Encoding.PNG}


def pack_inputs(
    values: Mapping[str, Value], timestamp_ns: int
) -> tuple[tuple[Tensor, ...], dict[str, str], bytes]:
    """Lay out the values of one observation.

    The payload is the one copy of the arrays' bytes; `bytes` that are alone are not copied.

    Args:
        values: By key.
        timestamp_ns: Wall clock, for the records of those who read the wire.

    Returns:
        The tensors' headers, the metadata, the payload frame.

    Raises:
        TypeError: A value that has no place on the wire; names its key and type.
    """
    headers: list[Tensor] = []
    parts: list[arrays.Buffer] = []
    metadata: dict[str, str] = {}
    offset = 0
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, str):
            metadata[key] = value
            continue
        dtype, encoding, age_us = DType.UINT8, Encoding.RAW, 0
        shape: tuple[int, ...] = ()
        part: arrays.Buffer
        if isinstance(value, np.ndarray) and value.flags.c_contiguous and value.dtype in _DTYPES:
            dtype, part, length = _DTYPES[value.dtype], value.data, value.nbytes
            shape = value.shape
        elif isinstance(value, (np.ndarray, np.generic)):
            dtype, part = arrays.array_bytes(key, value)
            shape, length = value.shape, len(part)
        elif isinstance(value, arrays.Encoded):
            part, encoding, length = value.data, value.encoding, len(value.data)
            shape = value.shape
            age_us = value.age_us if isinstance(value, Encoded) else 0
        elif isinstance(value, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            part, encoding = _image_file(key, value)
            length = len(part)
        else:
            raise TypeError(
                f"{key!r}: a numpy array, Encoded, a JPEG or PNG file, str or None is expected, "
                f"{type(value).__name__} came"
            )
        headers.append(Tensor(key, dtype, shape, offset, length, encoding, timestamp_ns, age_us))
        parts.append(part)
        offset += length
    return tuple(headers), metadata, b"".join(parts)


def _image_file(key: str, data: arrays.Buffer) -> tuple[arrays.Buffer, Encoding]:
    """Return the bytes of an image file and what they are, by how they begin."""
    view = memoryview(data)
    part = data if isinstance(data, bytes) else view.cast("B") if view.c_contiguous else bytes(view)
    for start, encoding in _FILES.items():
        if bytes(part[: len(start)]) == start:
            return part, encoding
    raise TypeError(f"{key!r}: bytes are taken for a JPEG or PNG file, which these are not")


def read_answer(frames: Sequence[bytes]) -> tuple[Response, dict[str, Any]]:
    """Read one message of the appliance.

    Returns:
        What it says, and its tensors by key: read-only views into the payload frame, or `Encoded`.

    Raises:
        PeerProtocolError: It cannot be read.
    """
    if len(frames) != 3 or frames[0]:
        raise PeerProtocolError(f"an empty frame and two more are expected, {len(frames)} came")
    _, envelope, payload = frames
    response = decode_response(envelope, len(payload))
    try:
        return response, {tensor.key: _value(tensor, payload) for tensor in response.tensors}
    except Rejected as rejected:
        raise PeerProtocolError(rejected.message) from rejected


def _value(tensor: Tensor, payload: bytes) -> NDArray[Any] | Encoded:
    if tensor.encoding is Encoding.RAW:
        return arrays.to_array(tensor, payload)
    return Encoded(
        payload[tensor.offset : tensor.offset + tensor.length], tensor.encoding, tensor.shape
    )
