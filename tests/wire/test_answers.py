"""An answer written in pieces says what it says when written at once."""

from __future__ import annotations

import wire_strategies
from hypothesis import given

from appliance.wire.answers import encode_headers, encode_own, encode_shared
from appliance.wire.session import decode_response
from appliance.wire.types import Response


def pieces(response: Response) -> bytes:
    return (
        encode_shared(response)
        + encode_headers(response.tensors)
        + encode_own(
            response_id=response.response_id,
            timestamp_ns=response.timestamp_ns,
            inference_latency_ms=response.inference_latency_ms,
            sequence=response.sequence,
            episode=response.episode,
            late=response.late,
            timing=response.timing,
            phase_advice_us=response.phase_advice_us,
        )
    )


@wire_strategies.repeatable
@given(wire_strategies.responses)
def test_the_pieces_are_read_as_one(response: Response) -> None:
    size = wire_strategies.payload_bytes(response.tensors)
    assert decode_response(pieces(response), size) == response


@wire_strategies.repeatable
@given(wire_strategies.responses, wire_strategies.responses)
def test_what_is_shared_holds_nothing_of_one_answer(first: Response, second: Response) -> None:
    alike = {
        "response_id": second.response_id,
        "timestamp_ns": second.timestamp_ns,
        "inference_latency_ms": second.inference_latency_ms,
        "sequence": second.sequence,
        "episode": second.episode,
        "late": second.late,
        "timing": second.timing,
        "phase_advice_us": second.phase_advice_us,
        "tensors": second.tensors,
    }
    values = {name: getattr(first, name) for name in Response.__slots__ if name != "__weakref__"}
    assert encode_shared(Response(**{**values, **alike})) == encode_shared(first)
