"""Answers for clients of the old wire, whose numpy tables end at BOOL.

They raise into their caller on a dtype they do not know, and 0.1.0 reads bfloat16 as float16:
wrong actions, silently. So what they cannot read is widened to what they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from appliance.wire.arrays import array_bytes, decode_strings, to_array
from appliance.wire.types import Buffer, DType, Encoding, Response, Tensor

_KNOWN = frozenset(
    {
        DType.FLOAT16,
        DType.FLOAT32,
        DType.FLOAT64,
        DType.UINT8,
        DType.INT32,
        DType.INT64,
        DType.BOOL,
    }
)
_WIDER: dict[DType, Any] = {
    DType.BFLOAT16: np.float32,
    DType.INT8: np.int32,
    DType.INT16: np.int32,
    DType.UINT16: np.int32,
    DType.UINT32: np.int64,
    DType.UINT64: np.int64,
}


def for_old_client(
    response: Response, parts: Sequence[Buffer]
) -> tuple[Response, Sequence[Buffer]]:
    """Return an answer that an old client reads right.

    bfloat16 becomes float32, small and unsigned integers int32 or int64 (uint64 beyond int64 is
    cut off there), one string an entry of the metadata, where such clients look for strings.
    Arrays of strings and compressed media, which they cannot read at all, are left out.

    Args:
        response: The answer.
        parts: The bytes of each of its tensors.

    Raises:
        Rejected: INVALID, the bytes of a STRING tensor are broken.
    """
    if all(t.dtype in _KNOWN and t.encoding is Encoding.RAW for t in response.tensors):
        return response, parts
    tensors: list[Tensor] = []
    kept: list[Buffer] = []
    metadata = dict(response.metadata)
    offset = 0
    for tensor, part in zip(response.tensors, parts, strict=True):
        if tensor.dtype is DType.STRING and not tensor.shape:
            metadata[tensor.key] = decode_strings(part, 1)[0].decode(errors="replace")
            continue
        if tensor.encoding is not Encoding.RAW or tensor.dtype is DType.STRING:
            continue
        dtype, data = tensor.dtype, part
        if dtype not in _KNOWN:
            dtype, data = array_bytes(tensor.key, _widen(tensor, part))
        kept.append(data)
        tensors.append(evolve(tensor, dtype=dtype, offset=offset, length=len(data)))
        offset += len(data)
    return evolve(response, tensors=tuple(tensors), metadata=metadata), kept


def _widen(tensor: Tensor, part: Buffer) -> NDArray[Any]:
    array = to_array(evolve(tensor, offset=0), part)
    if tensor.dtype is DType.UINT64:
        array = np.minimum(array, np.uint64(np.iinfo(np.int64).max))
    return array.astype(_WIDER[tensor.dtype])
