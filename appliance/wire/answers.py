"""Answers of our own clients in pieces, for the hot path: together, what `encode_response` writes.

Protobuf messages that are written one after the other merge into one when read. So what all
answers to one client about one model share is written once, the headers of the outputs once a
batch, and each time only what is new.
"""

from __future__ import annotations

from attrs import evolve

from appliance.wire.pb import session_pb2
from appliance.wire.session import encode_response
from appliance.wire.tensors import encode_tensors
from appliance.wire.types import Response, Tensor, Timing


def encode_shared(response: Response) -> bytes:
    """Write what `response` has in common with others: all but what the other pieces hold."""
    return encode_response(
        evolve(
            response,
            tensors=(),
            response_id="",
            timestamp_ns=0,
            inference_latency_ms=0.0,
            sequence=0,
            episode=0,
            late=False,
            timing=Timing(),
            phase_advice_us=0,
        )
    )


def encode_headers(tensors: tuple[Tensor, ...]) -> bytes:
    """Write the headers of the outputs."""
    message = session_pb2.ModelResponse()
    encode_tensors(tensors, message)
    return message.SerializeToString()


def encode_own(
    *,
    response_id: str,
    timestamp_ns: int,
    inference_latency_ms: float,
    sequence: int,
    episode: int,
    late: bool,
    timing: Timing,
    phase_advice_us: int,
) -> bytes:
    """Write what is one answer's own."""
    message = session_pb2.ModelResponse()
    message.response_id = response_id
    message.timestamp_ns = timestamp_ns
    message.inference_latency_ms = inference_latency_ms
    message.sequence = sequence
    if episode:
        message.episode = episode
    if late:
        message.late = True
    if phase_advice_us:
        message.phase_advice_us = phase_advice_us
    own = message.timing
    own.queue_us = timing.queue_us
    own.batch_us = timing.batch_us
    own.execute_us = timing.execute_us
    own.total_us = timing.total_us
    own.batch_size = timing.batch_size
    return message.SerializeToString()
