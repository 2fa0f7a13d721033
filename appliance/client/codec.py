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

Value = Union["NDArray[Any]", "np.generic", arrays.Encoded, str, None]
"""What may be observed: arrays and scalars of numpy, compressed media, strings."""


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
        part: arrays.Buffer
        if isinstance(value, np.ndarray) and value.flags.c_contiguous and value.dtype in _DTYPES:
            dtype, part, length = _DTYPES[value.dtype], value.data, value.nbytes
        elif isinstance(value, (np.ndarray, np.generic)):
            dtype, part = arrays.array_bytes(key, value)
            length = len(part)
        elif isinstance(value, arrays.Encoded):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            part, encoding, length = value.data, value.encoding, len(value.data)
            age_us = value.age_us if isinstance(value, Encoded) else 0
        else:
            raise TypeError(
                f"{key!r}: a numpy array, Encoded, str or None is expected, "
                f"{type(value).__name__} came"
            )
        headers.append(
            Tensor(key, dtype, value.shape, offset, length, encoding, timestamp_ns, age_us)
        )
        parts.append(part)
        offset += length
    return tuple(headers), metadata, b"".join(parts)


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
