"""Hypothesis strategies of valid messages, and the values whose bytes are frozen."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from appliance.errors import Outcome
from appliance.wire.tensors import DAY_US
from appliance.wire.types import (
    ITEM_BYTES,
    DType,
    Encoding,
    Keep,
    Kind,
    Lateness,
    Observation,
    Response,
    Tensor,
    Timing,
)

repeatable = settings(deadline=None, derandomize=True)
"""The same examples in every run, however busy the machine."""

uint32s = st.integers(0, 2**32 - 1)
uint64s = st.integers(0, 2**64 - 1)
durations = st.integers(0, DAY_US)
names = st.text(max_size=12)
keys = st.text(min_size=1, max_size=6)


def optional(strategy: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.none() | strategy


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Tensor, ...]:
    """Headers of tensors that lie in the payload in any order, with gaps between."""
    made: list[Tensor] = []
    offset = 0
    for key in draw(st.lists(keys, max_size=5, unique=True)):
        encoding = draw(st.sampled_from(Encoding))
        dtype = draw(st.sampled_from(DType))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=8)))
        count = 1
        for dimension in shape:
            count *= dimension
        if encoding is not Encoding.RAW:
            length = draw(st.integers(1, 1000))
        elif dtype is DType.STRING:
            length = count * 4 + (draw(st.integers(0, 100)) if count else 0)
        else:
            dtype = DType.FLOAT16 if dtype is DType.UNSPECIFIED else dtype
            length = count * ITEM_BYTES[dtype]
        offset += draw(st.sampled_from((0, 0, 7)))
        made.append(
            Tensor(key, dtype, shape, offset, length, encoding, draw(uint64s), draw(durations))
        )
        offset += length
    return tuple(draw(st.permutations(made)))


def payload_bytes(headers: tuple[Tensor, ...]) -> int:
    return max((tensor.offset + tensor.length for tensor in headers), default=0)


observations = st.builds(
    Observation,
    client_id=names,
    client_type=names,
    model_id=names,
    tensors=tensors(),
    metadata=st.dictionaries(names, names, max_size=5),
    timestamp_ns=uint64s,
    urgency=st.floats(0, 1, width=32),
    priority=optional(st.integers(1, 2**32 - 1)),
    steps_remaining=optional(uint32s),
    protocol_version=uint32s,
    kind=st.sampled_from(Kind),
    session_nonce=uint64s,
    sequence=uint64s,
    episode=uint64s,
    age_us=durations,
    round_trip_us=optional(durations),
    latency_budget_us=optional(durations),
    step_period_us=optional(st.integers(1, DAY_US)),
    committed_steps=optional(uint32s),
    inference_delay_steps=optional(uint32s),
    observation_period_us=optional(st.integers(1, DAY_US)),
    lateness=st.sampled_from(Lateness),
    keep=st.sampled_from(Keep),
    wants_status=st.booleans(),
    model_version=names,
    spec_hash=names,
    trace_id=names,
)

responses = st.builds(
    Response,
    client_id=names,
    client_type=names,
    model_id=names,
    response_id=names,
    tensors=tensors(),
    metadata=st.dictionaries(names, names, max_size=5),
    timestamp_ns=uint64s,
    inference_latency_ms=st.floats(0, 1e6, width=32),
    protocol_version=st.integers(1, 2**32 - 1),
    appliance_id=names,
    instance=uint64s,
    sequence=uint64s,
    episode=uint64s,
    outcome=st.sampled_from(Outcome),
    message=st.text(max_size=100),
    timing=st.builds(Timing, uint64s, uint64s, uint64s, uint64s, uint32s),
    late=st.booleans(),
    final=st.booleans(),
    phase_advice_us=st.integers(-(2**63), 2**63 - 1),
    retry_after_us=optional(uint64s),
    redirect=st.lists(names, max_size=3).map(tuple),
    model_version=names,
    first_step=uint64s,
    step_period_us=uint64s,
    horizon=uint32s,
    kind=st.sampled_from(Kind),
)
