from __future__ import annotations

import pytest
import wire_strategies
from hypothesis import given

from appliance.errors import Outcome, PeerProtocolError
from appliance.wire.pb import session_pb2
from appliance.wire.session import decode_response, encode_response
from appliance.wire.types import DType, Response, Tensor


@wire_strategies.repeatable
@given(wire_strategies.responses)
def test_what_was_encoded_is_decoded(response) -> None:
    size = wire_strategies.payload_bytes(response.tensors)
    assert decode_response(encode_response(response), size) == response


@wire_strategies.repeatable
@given(wire_strategies.responses)
def test_an_old_client_is_sent_no_field_of_ours(response) -> None:
    envelope = encode_response(response, extended=False)
    message = session_pb2.ModelResponse.FromString(envelope)
    assert all(field.number < 15 for field, _ in message.ListFields())
    assert all(field.number < 15 for tensor in message.tensors for field, _ in tensor.ListFields())


def test_an_answer_of_an_old_server_is_final_and_ok() -> None:
    old = session_pb2.ModelResponse(model_id="m", client=session_pb2.Client(id="c"))
    response = decode_response(old.SerializeToString(), 0)
    assert response.final
    assert response.outcome is Outcome.OK
    assert response.protocol_version == 0


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (session_pb2.ModelResponse(status={"code": 19}), "status: a known code is expected, 19"),
        (session_pb2.ModelResponse(kind=5), "kind: a known one is expected, 5 came"),
        (
            session_pb2.ModelResponse(
                tensors=[{"key": "a", "dtype": "UINT8", "shape": [4], "byte_length": 4}]
            ),
            "tensor 'a': the payload has 3 bytes",
        ),
        (
            session_pb2.ModelResponse(spec={"inputs": [{"key": "x", "dtype": 99}]}),
            "spec of 'x': unknown dtype 99",
        ),
    ],
)
def test_a_bad_response(message, words) -> None:
    with pytest.raises(PeerProtocolError, match=words):
        decode_response(message.SerializeToString(), 3 if message.tensors else 0)


def test_garbage() -> None:
    with pytest.raises(PeerProtocolError, match="a ModelResponse is expected, 1 other bytes"):
        decode_response(b"\xff", 0)


def test_a_response_without_tensors_has_an_empty_payload() -> None:
    response = Response(tensors=(Tensor("x", DType.UINT8, (1,), 0, 1),))
    with pytest.raises(PeerProtocolError):
        decode_response(encode_response(response), 0)
