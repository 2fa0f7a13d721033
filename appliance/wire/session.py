"""The robots' messages: envelopes to `Observation` and `Response`, and back.

`decode_observation` is where hostile bytes end: whatever comes in, the result is a structurally
valid `Observation` or a `BadObservation` that says why. What a model accepts is admission's
business. The frame that carries the tensors is not looked into here; only its length counts.

Absent is `None`, or zero where zero means nothing on its own: a priority or a period of 0 is
absent. An urgency outside 0..1 is clamped. Numbers that only rank or name (steps, sequences, the
client's wall clock) are taken as they come.

This is the hot path: each field is read once, in one function, and names are measured only in
envelopes long enough to hold one that is too long.
"""

from __future__ import annotations

from math import isfinite
from typing import cast

from google.protobuf.message import DecodeError

from appliance.errors import Outcome, PeerProtocolError, Rejected
from appliance.wire.checks import (
    KEEP,
    KINDS,
    LATENESS,
    MAX_ENVELOPE_BYTES,
    MAX_NAME_BYTES,
    BadObservation,
    check_lengths,
    header,
    refuse_field,
)
from appliance.wire.pb import session_pb2
from appliance.wire.tensors import DAY_US, decode_tensors, encode_tensors
from appliance.wire.types import Observation, Response, Tensor, Timing
from appliance.wire.worker import spec_from_message, spec_to_message

__all__ = [
    "BadObservation",
    "decode_observation",
    "decode_response",
    "encode_observation",
    "encode_response",
]

_OUTCOMES: dict[int, Outcome] = {
    session_pb2.CODE_UNSPECIFIED: Outcome.OK,  # a server of the old wire answers only with results
    **{int(outcome): outcome for outcome in Outcome},
}
_NOT_PROTOBUF = (DecodeError, UnicodeDecodeError)  # the second: protobuf's pure Python runtime


def decode_observation(envelope: bytes, payload_bytes: int) -> Observation:
    """Read a client's message.

    Args:
        envelope: The frame that holds the protobuf message.
        payload_bytes: Length of the frame that holds the tensors.

    Raises:
        BadObservation: It is not valid. Nothing else is raised.
    """
    size = len(envelope)
    if size > MAX_ENVELOPE_BYTES:
        # Not even parsed: that would hold up everybody else.
        raise BadObservation(
            Outcome.TOO_LARGE,
            f"envelope: at most {MAX_ENVELOPE_BYTES} bytes are allowed, {size} came",
        )
    message = session_pb2.Observation()
    try:
        message.ParseFromString(envelope)
    except _NOT_PROTOBUF:
        raise BadObservation(
            Outcome.INVALID, f"envelope: an Observation is expected, {size} other bytes came"
        ) from None
    try:
        if size > MAX_NAME_BYTES:
            check_lengths(message)
        return _observation(message, decode_tensors(message.tensors, payload_bytes))
    except Rejected as rejected:
        raise BadObservation(
            rejected.outcome, rejected.message, header=header(message)
        ) from rejected


def _observation(message: session_pb2.Observation, tensors: tuple[Tensor, ...]) -> Observation:
    kind = KINDS.get(message.kind)
    lateness = LATENESS.get(message.lateness)
    keep = KEEP.get(message.keep)
    urgency = message.urgency
    age_us = message.age_us
    round_trip_us = message.round_trip_us
    latency_budget_us = message.latency_budget_us
    step_period_us = message.step_period_us
    observation_period_us = message.observation_period_us
    if not 0.0 <= urgency <= 1.0:
        if not isfinite(urgency):
            raise refuse_field(message)
        urgency = min(max(urgency, 0.0), 1.0)
    if (
        kind is None
        or lateness is None
        or keep is None
        or age_us > DAY_US
        or round_trip_us > DAY_US
        or latency_budget_us > DAY_US
        or step_period_us > DAY_US
        or observation_period_us > DAY_US
    ):
        raise refuse_field(message)
    client = message.client
    metadata = message.metadata
    present = message.HasField  # asked only where the value is 0: it is slow
    return Observation(  # in the order of its fields: names would cost a microsecond
        client.id,
        client.type,
        message.model_id,
        tensors,
        dict(metadata) if metadata else {},
        message.timestamp_ns,
        urgency,
        message.priority or None,
        message.steps_remaining or (0 if present("steps_remaining") else None),
        message.protocol_version,
        kind,
        message.session_nonce,
        message.sequence,
        message.episode,
        age_us,
        round_trip_us or (0 if present("round_trip_us") else None),
        latency_budget_us or (0 if present("latency_budget_us") else None),
        step_period_us or None,
        message.committed_steps or (0 if present("committed_steps") else None),
        message.inference_delay_steps or (0 if present("inference_delay_steps") else None),
        observation_period_us or None,
        lateness,
        keep,
        message.wants_status,
        message.model_version,
        message.spec_hash,
        message.trace_id,
    )


def encode_observation(observation: Observation) -> bytes:
    """Write a client's message: what `decode_observation` reads back as `observation`."""
    source = observation
    message = session_pb2.Observation(
        client=session_pb2.Client(id=source.client_id, type=source.client_type),
        timestamp_ns=source.timestamp_ns,
        urgency=source.urgency,
        model_id=source.model_id,
        steps_remaining=source.steps_remaining,
        metadata=source.metadata,
        priority=source.priority,
        protocol_version=source.protocol_version,
        kind=cast("session_pb2.Kind", source.kind),
        session_nonce=source.session_nonce,
        sequence=source.sequence,
        episode=source.episode,
        age_us=source.age_us,
        round_trip_us=source.round_trip_us,
        latency_budget_us=source.latency_budget_us,
        step_period_us=source.step_period_us,
        committed_steps=source.committed_steps,
        inference_delay_steps=source.inference_delay_steps,
        observation_period_us=source.observation_period_us,
        lateness=cast("session_pb2.Lateness", source.lateness),
        keep=cast("session_pb2.Keep", source.keep),
        wants_status=source.wants_status,
        model_version=source.model_version,
        spec_hash=source.spec_hash,
        trace_id=source.trace_id,
    )
    encode_tensors(source.tensors, message)
    return message.SerializeToString()


def encode_response(response: Response, *, extended: bool = True) -> bytes:
    """Write an answer.

    Args:
        response: Its tensors' offsets point into the payload frame that goes with it.
        extended: False for a client of the old wire: fields 1-14 only, as its own server sends
            them. It has no way to be told of a failure, so answer it only with OK.
    """
    message = session_pb2.ModelResponse()
    client = message.client
    client.id = response.client_id
    client.type = response.client_type
    message.response_id = response.response_id
    message.timestamp_ns = response.timestamp_ns
    message.inference_latency_ms = response.inference_latency_ms
    message.model_id = response.model_id
    if response.metadata:
        message.metadata.update(response.metadata)
    encode_tensors(response.tensors, message, extended=extended)
    if extended:
        _extend(message, response)
    return message.SerializeToString()


def _extend(message: session_pb2.ModelResponse, response: Response) -> None:
    message.protocol_version = response.protocol_version
    message.appliance_id = response.appliance_id
    message.instance = response.instance
    message.sequence = response.sequence
    message.episode = response.episode
    status = message.status
    status.code = response.outcome  # pyright: ignore[reportAttributeAccessIssue] - any int enum does
    status.message = response.message
    source = response.timing
    timing = message.timing
    timing.queue_us = source.queue_us
    timing.batch_us = source.batch_us
    timing.execute_us = source.execute_us
    timing.total_us = source.total_us
    timing.batch_size = source.batch_size
    if response.late:  # protobuf is slow to take a boolean
        message.late = True
    if response.final:
        message.final = True
    message.phase_advice_us = response.phase_advice_us
    if response.retry_after_us is not None:
        message.retry_after_us = response.retry_after_us
    if response.redirect:
        message.redirect.extend(response.redirect)
    message.model_version = response.model_version
    if response.spec is not None:
        message.spec.CopyFrom(spec_to_message(response.spec))
    message.first_step = response.first_step
    message.step_period_us = response.step_period_us
    message.horizon = response.horizon
    message.kind = response.kind  # pyright: ignore[reportAttributeAccessIssue] - as above


def decode_response(envelope: bytes, payload_bytes: int) -> Response:
    """Read an answer, of this server or one of the old wire.

    Args:
        envelope: The frame that holds the protobuf message.
        payload_bytes: Length of the frame that holds the tensors.

    Raises:
        PeerProtocolError: It is not valid. Nothing else is raised.
    """
    message = session_pb2.ModelResponse()
    try:
        message.ParseFromString(envelope)
        tensors = decode_tensors(message.tensors, payload_bytes)
    except _NOT_PROTOBUF:
        raise PeerProtocolError(
            f"envelope: a ModelResponse is expected, {len(envelope)} other bytes came"
        ) from None
    except Rejected as rejected:
        raise PeerProtocolError(rejected.message) from rejected
    status = message.status
    outcome = _OUTCOMES.get(status.code)
    kind = KINDS.get(message.kind)
    if outcome is None:
        raise PeerProtocolError(f"status: a known code is expected, {status.code} came")
    if kind is None:
        raise PeerProtocolError(f"kind: a known one is expected, {message.kind} came")
    client = message.client
    timing = message.timing
    metadata = message.metadata
    return Response(
        client_id=client.id,
        client_type=client.type,
        model_id=message.model_id,
        response_id=message.response_id,
        tensors=tensors,
        metadata=dict(metadata) if metadata else {},
        timestamp_ns=message.timestamp_ns,
        inference_latency_ms=message.inference_latency_ms,
        protocol_version=message.protocol_version,
        appliance_id=message.appliance_id,
        instance=message.instance,
        sequence=message.sequence,
        episode=message.episode,
        outcome=outcome,
        message=status.message,
        timing=Timing(
            timing.queue_us,
            timing.batch_us,
            timing.execute_us,
            timing.total_us,
            timing.batch_size,
        ),
        late=message.late,
        final=message.final or not message.protocol_version,
        phase_advice_us=message.phase_advice_us,
        retry_after_us=message.retry_after_us if message.HasField("retry_after_us") else None,
        redirect=tuple(message.redirect),
        model_version=message.model_version,
        first_step=message.first_step,
        step_period_us=message.step_period_us,
        horizon=message.horizon,
        kind=kind,
        spec=spec_from_message(message.spec) if message.HasField("spec") else None,
    )
