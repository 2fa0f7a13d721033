from __future__ import annotations

import math

import pytest
import wire_strategies
from hypothesis import given

from appliance.errors import Outcome, Rejected
from appliance.wire.pb import session_pb2
from appliance.wire.session import BadObservation, decode_observation, encode_observation
from appliance.wire.tensors import DAY_US
from appliance.wire.types import DType, Encoding, Observation, Tensor

RAW, JPEG = Encoding.RAW, Encoding.JPEG
UINT8, FLOAT32, STRING = DType.UINT8, DType.FLOAT32, DType.STRING


@wire_strategies.repeatable
@given(wire_strategies.observations)
def test_what_was_encoded_is_decoded(observation) -> None:
    size = wire_strategies.payload_bytes(observation.tensors)
    assert decode_observation(encode_observation(observation), size) == observation


def refusal(message: session_pb2.Observation, payload_bytes: int = 0) -> BadObservation:
    with pytest.raises(BadObservation) as caught:
        decode_observation(message.SerializeToString(), payload_bytes)
    return caught.value


def of_tensors(*tensors: Tensor) -> session_pb2.Observation:
    return session_pb2.Observation.FromString(encode_observation(Observation(tensors=tensors)))


BAD_TENSORS = [
    (Tensor("", UINT8, (1,), 0, 1), 1, "'': a key of 1 to 128 bytes is expected; 0 came"),
    (Tensor("é" * 65, UINT8, (1,), 0, 1), 1, "a key of 1 to 128 bytes is expected; 130 came"),
    (Tensor("x", 15, (1,), 0, 1), 1, "'x': a known dtype is expected; 15 came"),
    (Tensor("x", UINT8, (1,), 0, 1, 6), 1, "'x': a known encoding is expected; 6 came"),
    (Tensor("x", UINT8, (1,) * 9, 0, 1), 1, "none negative, are expected; 9 dimensions came"),
    (
        Tensor("x", UINT8, (-1, -1), 0, 1),
        1,
        "at most 8 dimensions, none negative, are expected; (-1, -1)",
    ),
    (Tensor("x", JPEG, (-1,), 0, 1, JPEG), 1, "none negative"),
    (Tensor("x", FLOAT32, (2, 3), 0, 23), 23, "'x': FLOAT32(2, 3) has 24 bytes; 23 came"),
    (Tensor("x", FLOAT32, (2**62, 4), 0, 0), 0, "a shape within 63 bits"),
    (Tensor("x", FLOAT32, (0, 2**62, 4), 0, 0), 0, "a shape within 63 bits"),
    (Tensor("x", UINT8, (2**33, 2**33), 0, 4), 4, "a shape within 63 bits"),
    (Tensor("x", DType.UNSPECIFIED, (1,), 0, 1), 1, "a raw tensor needs a dtype; none came"),
    (Tensor("x", UINT8, (4, 0), 0, 4), 4, "UINT8(4, 0) has 0 bytes; 4 came"),
    (Tensor("x", UINT8, (4,), 0, 0), 0, "UINT8(4,) has 4 bytes; 0 came"),
    (Tensor("x", STRING, (3,), 0, 11), 11, "STRING(3,) has at least 12 bytes; 11 came"),
    (Tensor("x", STRING, (0,), 0, 4), 4, "STRING(0,) has 0 bytes; 4 came"),
    (Tensor("x", UINT8, (), 0, 0, JPEG), 0, "'x': JPEG data is expected; 0 bytes came"),
    (Tensor("x", UINT8, (4,), 7, 4), 10, "'x': the payload has 10 bytes; [7, 11) came"),
    (Tensor("x", UINT8, (4,), 2**64 - 4, 4), 10, "the payload has 10 bytes; [18446744073709551612"),
    (Tensor("x", UINT8, (0,), 11, 0), 10, "the payload has 10 bytes; [11, 11) came"),
    (Tensor("x", UINT8, (4,), 0, 4), 5, "payload: 4 bytes are expected by its tensors, 5 came"),
    (Tensor("x", UINT8, (1,), 0, 1, age_us=DAY_US + 1), 1, "age_us is at most one day"),
]


@pytest.mark.parametrize(("tensor", "payload_bytes", "words"), BAD_TENSORS)
def test_a_bad_tensor(tensor, payload_bytes, words) -> None:
    bad = refusal(of_tensors(tensor), payload_bytes)
    assert words in bad.message
    assert bad.outcome is Outcome.INVALID
    assert bad.header is not None
    assert bad.header.tensors == ()


GOOD_TENSORS = [
    Tensor("x" * 128, UINT8, (1,) * 8, 0, 1),
    Tensor("x", UINT8, (0, 5), 0, 0),
    Tensor("x", FLOAT32, (), 0, 4),
    Tensor("x", DType.UNSPECIFIED, (), 0, 9, JPEG),
    Tensor("x", UINT8, (480, 640, 3), 0, 9, JPEG),
    Tensor("x", STRING, (), 0, 4),
    Tensor("x", STRING, (2,), 0, 90),
    Tensor("x", DType.BFLOAT16, (3,), 0, 6),
]


@pytest.mark.parametrize("tensor", GOOD_TENSORS)
def test_a_good_tensor(tensor) -> None:
    message = of_tensors(tensor)
    decoded = decode_observation(message.SerializeToString(), tensor.length)
    assert decoded.tensors == (tensor,)


def test_an_absent_encoding_is_raw() -> None:
    message = of_tensors(Tensor("x", UINT8, (1,), 0, 1))
    message.tensors[0].ClearField("encoding")
    assert decode_observation(message.SerializeToString(), 1).tensors[0].encoding is RAW


@pytest.mark.parametrize("spans", [[(0, 4), (3, 2)], [(3, 2), (0, 4)], [(0, 9), (2, 2), (9, 1)]])
def test_overlapping_tensors(spans) -> None:
    tensors = [Tensor(f"k{at}", UINT8, (size,), at, size) for at, size in spans]
    end = max(at + size for at, size in spans)
    bad = refusal(of_tensors(*tensors), end)
    assert "are expected; [" in bad.message
    assert bad.outcome is Outcome.INVALID


def test_an_overlap_names_both_tensors() -> None:
    tensors = [Tensor("b", UINT8, (2,), 3, 2), Tensor("a", UINT8, (4,), 0, 4)]
    assert refusal(of_tensors(*tensors), 5).message == (
        "tensor 'b': bytes after 4, where 'a' ends, are expected; [3, 5) came"
    )


def test_empty_tensors_overlap_nothing() -> None:
    spans = [(0, 4), (2, 0), (4, 0), (4, 2), (0, 0)]
    tensors = tuple(
        Tensor(str(index), UINT8, (size,), at, size) for index, (at, size) in enumerate(spans)
    )
    assert decode_observation(of_tensors(*tensors).SerializeToString(), 6).tensors == tensors


def test_a_key_that_comes_twice() -> None:
    tensors = [Tensor(key, UINT8, (1,), at, 1) for at, key in enumerate("aba")]
    assert refusal(of_tensors(*tensors), 3).message == (
        "tensor 'a': each key is expected once; a second one came"
    )


@pytest.mark.parametrize("count", [65, 300])
def test_too_many_tensors(count) -> None:
    tensors = [Tensor(f"k{at}", UINT8, (1,), at, 1) for at in range(count)]
    bad = refusal(of_tensors(*tensors), count)
    assert bad.outcome is Outcome.TOO_LARGE
    assert bad.message == f"tensors: at most 64 are allowed, {count} came"


def test_as_many_tensors_as_allowed() -> None:
    tensors = tuple(Tensor(f"k{at}", UINT8, (1,), at, 1) for at in range(64))
    assert decode_observation(of_tensors(*tensors).SerializeToString(), 64).tensors == tensors


def test_a_payload_nobody_claims() -> None:
    assert refusal(session_pb2.Observation(), 3).message == (
        "payload: 0 bytes are expected by its tensors, 3 came"
    )


BAD_FIELDS = [
    ({"kind": 5}, "kind: 0 OBSERVE, 1 HEARTBEAT, 2 CANCEL, 3 END_EPISODE, 4 DESCRIBE are known"),
    ({"kind": -1}, "kind: 0 OBSERVE"),
    ({"lateness": 3}, "lateness: 0 DEFAULT, 1 FIRM, 2 SOFT are known, 3 came"),
    ({"keep": 3}, "keep: 0 DEFAULT, 1 LATEST, 2 ALL are known, 3 came"),
    ({"urgency": math.nan}, "urgency: a number from 0 to 1 is expected, nan came"),
    ({"urgency": math.inf}, "urgency: a number from 0 to 1 is expected, inf came"),
    ({"urgency": -math.inf}, "urgency: a number from 0 to 1 is expected, -inf came"),
    *(
        ({field: DAY_US + 1}, f"{field}: at most one day (86400000000) is expected, 8640000000")
        for field in (
            "age_us",
            "round_trip_us",
            "latency_budget_us",
            "step_period_us",
            "observation_period_us",
        )
    ),
    ({"model_id": "m" * 256}, "model_id: at most 255 bytes are allowed, 256 came"),
    ({"model_version": "m" * 256}, "model_version: at most 255 bytes"),
    ({"spec_hash": "m" * 256}, "spec_hash: at most 255 bytes"),
    ({"trace_id": "é" * 128}, "trace_id: at most 255 bytes are allowed, 256 came"),
    ({"client": {"id": "c" * 256}}, "client.id: at most 255 bytes are allowed, 256 came"),
    ({"client": {"type": "c" * 256}}, "client.type: at most 255 bytes"),
]


@pytest.mark.parametrize(("fields", "words"), BAD_FIELDS)
def test_a_bad_field(fields, words) -> None:
    bad = refusal(session_pb2.Observation(sequence=7, wants_status=True, **fields))
    assert words in bad.message
    assert bad.outcome is Outcome.INVALID
    assert bad.header is not None
    assert (bad.header.sequence, bad.header.wants_status) == (7, True)
    assert decode_observation(encode_observation(bad.header), 0) == bad.header


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({str(number): "" for number in range(65)}, "at most 64 entries are allowed, 65 came"),
        ({"k": "v" * 65536}, "at most 65536 bytes are allowed, 65537 came"),
    ],
)
def test_too_much_metadata(metadata, words) -> None:
    bad = refusal(session_pb2.Observation(metadata=metadata))
    assert words in bad.message
    assert bad.outcome is Outcome.TOO_LARGE
    assert bad.header == Observation()


def test_as_much_metadata_as_allowed() -> None:
    metadata = {f"{number:02}": "v" * 1022 for number in range(64)}
    message = session_pb2.Observation(metadata=metadata)
    assert decode_observation(message.SerializeToString(), 0).metadata == metadata


def test_an_envelope_that_is_too_large_is_not_read() -> None:
    bad = refusal(session_pb2.Observation(client={"id": "c"}, trace_id="t" * (1 << 17)))
    assert bad.outcome is Outcome.TOO_LARGE
    assert bad.header is None


@pytest.mark.parametrize("envelope", [b"\xff", b"\x0a\x05a", b"\x2a\x02\xff\xfe", b"garbage"])
def test_garbage(envelope) -> None:
    with pytest.raises(BadObservation, match="envelope: an Observation is expected") as caught:
        decode_observation(envelope, 0)
    assert caught.value.outcome is Outcome.INVALID
    assert caught.value.header is None
    assert isinstance(caught.value, Rejected)


def test_the_header_of_a_bad_message_says_who_and_what() -> None:
    message = session_pb2.Observation(
        client={"id": "robot", "type": "t" * 300},
        model_id="policy",
        kind=9,
        protocol_version=1,
        sequence=3,
        episode=2,
        session_nonce=5,
        wants_status=True,
    )
    assert refusal(message).header == Observation(
        client_id="robot",
        model_id="policy",
        protocol_version=1,
        sequence=3,
        episode=2,
        session_nonce=5,
        wants_status=True,
    )


@pytest.mark.parametrize(("sent", "read"), [(-3.0, 0.0), (1e30, 1.0), (0.5, 0.5), (-0.0, 0.0)])
def test_urgency_is_clamped(sent, read) -> None:
    envelope = session_pb2.Observation(urgency=sent).SerializeToString()
    assert decode_observation(envelope, 0).urgency == read


def test_zero_means_absent_only_where_it_means_nothing() -> None:
    envelope = session_pb2.Observation(
        priority=0,
        step_period_us=0,
        observation_period_us=0,
        steps_remaining=0,
        round_trip_us=0,
        latency_budget_us=0,
        committed_steps=0,
        inference_delay_steps=0,
    ).SerializeToString()
    assert decode_observation(envelope, 0) == Observation(
        steps_remaining=0,
        round_trip_us=0,
        latency_budget_us=0,
        committed_steps=0,
        inference_delay_steps=0,
    )


def test_a_day_is_allowed() -> None:
    envelope = session_pb2.Observation(age_us=DAY_US, latency_budget_us=DAY_US)
    assert decode_observation(envelope.SerializeToString(), 0).age_us == DAY_US


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode_observation(bytes.fromhex("c2 3e 03 61 62 63"), 0) == Observation()


@pytest.mark.parametrize(
    "message",
    [
        session_pb2.Observation(tensors=[{"key": "k" * 120_000, "dtype": "UINT8"}]),
        session_pb2.Observation(tensors=[{"key": "k", "dtype": "UINT8", "shape": [1] * 120_000}]),
        session_pb2.Observation(trace_id="t" * 120_000),
    ],
)
def test_a_long_message_gets_a_short_answer(message) -> None:
    assert len(refusal(message).message) < 300
