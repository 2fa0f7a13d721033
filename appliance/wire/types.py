"""The value types of the session wire: what a decoded message is, before anyone judges it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import numpy as np
from attrs import field

from appliance.errors import Outcome
from appliance.values import new_dict, value

if TYPE_CHECKING:
    from appliance.wire.spec import ModelSpec

PROTOCOL_VERSION = 1

Buffer = bytes | bytearray | memoryview
"""A frame, or a region of the arena: one-dimensional, in bytes."""


class DType(enum.IntEnum):
    """Element type on the wire (`DType` in proto/session.proto)."""

    UNSPECIFIED = 0
    FLOAT16 = 1
    FLOAT32 = 2
    FLOAT64 = 3
    BFLOAT16 = 4
    UINT8 = 5
    INT32 = 6
    INT64 = 7
    BOOL = 8
    INT8 = 9
    INT16 = 10
    UINT16 = 11
    UINT32 = 12
    UINT64 = 13
    STRING = 14


class Encoding(enum.IntEnum):
    """How a tensor's bytes are to be read (`Encoding` in proto/session.proto)."""

    RAW = 1
    JPEG = 2
    PNG = 3
    WAV = 4
    FLAC = 5


class Kind(enum.IntEnum):
    """What a client's message asks for."""

    OBSERVE = 0
    HEARTBEAT = 1
    CANCEL = 2
    END_EPISODE = 3
    DESCRIBE = 4


class Lateness(enum.IntEnum):
    """Whether an answer after the deadline is worth anything."""

    DEFAULT = 0
    FIRM = 1
    SOFT = 2


class Keep(enum.IntEnum):
    """Which of a client's waiting observations are kept."""

    DEFAULT = 0
    LATEST = 1
    ALL = 2


@value
class Tensor:
    """One tensor's header; its bytes are `payload[offset:offset + length]`.

    Attributes:
        shape: Row-major dimensions; of encoded media only a hint, possibly empty.
        offset: Bytes into the payload frame.
        length: Bytes.
        age_us: Capture to send, microseconds, on the client's clock.
    """

    key: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    length: int
    encoding: Encoding = Encoding.RAW
    timestamp_ns: int = 0
    age_us: int = 0


@value
class Observation:
    """One message of a client, decoded and structurally valid. `None` means absent on the wire."""

    client_id: str = ""
    client_type: str = ""
    model_id: str = ""
    tensors: tuple[Tensor, ...] = ()
    metadata: dict[str, str] = field(factory=new_dict)
    timestamp_ns: int = 0
    urgency: float = 0.0
    priority: int | None = None
    steps_remaining: int | None = None
    protocol_version: int = 0
    kind: Kind = Kind.OBSERVE
    session_nonce: int = 0
    sequence: int = 0
    episode: int = 0
    age_us: int = 0
    round_trip_us: int | None = None
    latency_budget_us: int | None = None
    step_period_us: int | None = None
    committed_steps: int | None = None
    inference_delay_steps: int | None = None
    observation_period_us: int | None = None
    lateness: Lateness = Lateness.DEFAULT
    keep: Keep = Keep.DEFAULT
    wants_status: bool = False
    model_version: str = ""
    spec_hash: str = ""
    trace_id: str = ""


@value
class Timing:
    """Where the time of one answer went, microseconds, and the size of its batch."""

    queue_us: int = 0
    batch_us: int = 0
    execute_us: int = 0
    total_us: int = 0
    batch_size: int = 0


@value(kw_only=True)
class Response:
    """One message to a client, apart from its tensors' bytes.

    Attributes:
        spec: Only in the answer to DESCRIBE.
    """

    client_id: str = ""
    client_type: str = ""
    model_id: str = ""
    response_id: str = ""
    tensors: tuple[Tensor, ...] = ()
    metadata: dict[str, str] = field(factory=new_dict)
    timestamp_ns: int = 0
    inference_latency_ms: float = 0.0
    protocol_version: int = 0
    appliance_id: str = ""
    instance: int = 0
    sequence: int = 0
    episode: int = 0
    outcome: Outcome = Outcome.OK
    message: str = ""
    timing: Timing = Timing()
    late: bool = False
    final: bool = True
    phase_advice_us: int = 0
    retry_after_us: int | None = None
    redirect: tuple[str, ...] = ()
    model_version: str = ""
    first_step: int = 0
    step_period_us: int = 0
    horizon: int = 0
    kind: Kind = Kind.OBSERVE
    spec: ModelSpec | None = None


NUMPY_DTYPES: dict[DType, np.dtype[np.generic]] = {
    DType.FLOAT16: np.dtype("<f2"),
    DType.FLOAT32: np.dtype("<f4"),
    DType.FLOAT64: np.dtype("<f8"),
    DType.UINT8: np.dtype("u1"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.BOOL: np.dtype("?"),
    DType.INT8: np.dtype("i1"),
    DType.INT16: np.dtype("<i2"),
    DType.UINT16: np.dtype("<u2"),
    DType.UINT32: np.dtype("<u4"),
    DType.UINT64: np.dtype("<u8"),
}
"""Every fixed-size type numpy has. BFLOAT16 and STRING need `arrays.py`."""

ITEM_BYTES: dict[DType, int] = {
    **{dtype: spec.itemsize for dtype, spec in NUMPY_DTYPES.items()},
    DType.BFLOAT16: 2,
}
"""Bytes of one element; STRING has none."""
