"""The wire, frozen: these bytes never change, or robots in the field stop working."""

from __future__ import annotations

import pytest

from appliance.errors import Outcome
from appliance.wire import types
from appliance.wire.pb import session_pb2
from appliance.wire.session import (
    decode_observation,
    decode_response,
    encode_observation,
    encode_response,
)
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec
from appliance.wire.types import (
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

OLD = {
    "client_id": "r1",
    "client_type": "sim",
    "model_id": "p",
    "timestamp_ns": 1_700_000_000_000_000_000,
}
HEAD = "0a 09 0a 02 72 31 12 03 73 69 6d 10 80 80 a8 b1 e3 9f e7 cb 17 "
TENSOR = Tensor("x", DType.UINT8, (2, 3), 4, 6, Encoding.RAW, timestamp_ns=7)
TENSOR_BYTES = "22 11 0a 01 78 10 05 1a 02 02 03 20 04 28 06 30 07 38 01 "

# What inferential 0.1.0 and 1.4.0 send, captured on the wire.
OLD_OBSERVATIONS = [
    (Observation(**OLD), HEAD + "2a 01 70"),
    (Observation(**OLD, priority=1), HEAD + "2a 01 70 40 01"),
    (Observation(**OLD, steps_remaining=0), HEAD + "2a 01 70 30 00"),
    (
        Observation(**OLD, urgency=0.5, tensors=(TENSOR,), metadata={"k": "v"}),
        HEAD + "1d 00 00 00 3f " + TENSOR_BYTES + "2a 01 70 3a 06 0a 01 6b 12 01 76",
    ),
]


@pytest.mark.parametrize(("observation", "golden"), OLD_OBSERVATIONS)
def test_the_old_observation(observation, golden) -> None:
    envelope = bytes.fromhex(golden)
    assert decode_observation(envelope, 10 if observation.tensors else 0) == observation
    assert encode_observation(observation) == envelope


OBSERVATION_FIELDS = [
    ("protocol_version", 1, "78 01"),
    ("kind", Kind.DESCRIBE, "88 01 04"),
    ("session_nonce", 0x0102030405060708, "91 01 08 07 06 05 04 03 02 01"),
    ("sequence", 300, "98 01 ac 02"),
    ("episode", 2, "a0 01 02"),
    ("age_us", 3, "a8 01 03"),
    ("round_trip_us", 0, "b0 01 00"),
    ("latency_budget_us", 0, "b8 01 00"),
    ("step_period_us", 4, "c0 01 04"),
    ("committed_steps", 0, "c8 01 00"),
    ("inference_delay_steps", 0, "d0 01 00"),
    ("observation_period_us", 5, "d8 01 05"),
    ("lateness", Lateness.SOFT, "e0 01 02"),
    ("keep", Keep.ALL, "e8 01 02"),
    ("wants_status", True, "f0 01 01"),
    ("model_version", "v", "fa 01 01 76"),
    ("spec_hash", "h", "82 02 01 68"),
    ("trace_id", "t", "8a 02 01 74"),
]


@pytest.mark.parametrize(("field", "value", "golden"), OBSERVATION_FIELDS)
def test_each_of_our_fields_of_an_observation(field, value, golden) -> None:
    envelope = bytes.fromhex("0a 00 " + golden)
    observation = Observation(**{field: value})
    assert encode_observation(observation) == envelope
    assert decode_observation(envelope, 0) == observation


def test_features_are_reserved_and_ignored() -> None:
    assert session_pb2.Observation(features=5).SerializeToString() == bytes.fromhex("80 01 05")
    assert decode_observation(bytes.fromhex("80 01 05"), 0) == Observation()


def test_the_age_of_a_tensor() -> None:
    tensor = Tensor("x", DType.UINT8, (), 0, 1, age_us=9)
    golden = bytes.fromhex("0a 00 22 0b 0a 01 78 10 05 28 01 38 01 78 09")
    assert encode_observation(Observation(tensors=(tensor,))) == golden
    assert decode_observation(golden, 1).tensors == (tensor,)


def test_the_old_response() -> None:
    response = Response(
        **OLD,
        response_id="i",
        inference_latency_ms=0.5,
        tensors=(TENSOR,),
        metadata={"k": "v"},
        outcome=Outcome.OK,
        sequence=300,
    )
    golden = (
        "0a 09 0a 02 72 31 12 03 73 69 6d 12 01 69 18 80 80 a8 b1 e3 9f e7 cb 17 "
        + TENSOR_BYTES
        + "2d 00 00 00 3f 32 01 70 3a 06 0a 01 6b 12 01 76"
    )
    assert encode_response(response, extended=False) == bytes.fromhex(golden)


OK = "a2 01 02 08 01 "
NO_TIME = "aa 01 00 "
FINAL = "b8 01 01 "
SPEC = ModelSpec(
    model_id="m",
    version="1",
    inputs=(InputSpec("x", "x", DType.FLOAT32, (-1, 2), (-1, 2), (Encoding.RAW, Encoding.PNG)),),
    outputs=(OutputSpec("y", DType.FLOAT64, (3,)),),
    max_batch=8,
    output_bytes_per_row=0,
    state_bytes=(0,),
    horizon=16,
    step_period_us=20,
    hash="h",
)
SPEC_BYTES = (
    "0a 01 6d 12 01 31 1a 01 68 "
    "22 16 0a 01 78 10 02 1a 0b ff ff ff ff ff ff ff ff ff 01 02 22 02 01 03 "
    "2a 08 0a 01 79 10 03 1a 01 03 30 08 38 10 40 14 48 01 "
)
RESPONSE_FIELDS = [
    ("protocol_version", 1, "78 01 " + OK + NO_TIME + FINAL),
    ("appliance_id", "a", "82 01 01 61 " + OK + NO_TIME + FINAL),
    (
        "instance",
        0x0102030405060708,
        "89 01 08 07 06 05 04 03 02 01 " + OK + NO_TIME + FINAL,
    ),
    ("sequence", 300, "90 01 ac 02 " + OK + NO_TIME + FINAL),
    ("episode", 2, "98 01 02 " + OK + NO_TIME + FINAL),
    ("outcome", Outcome.SHED, "a2 01 02 08 05 " + NO_TIME + FINAL),
    ("message", "m", "a2 01 05 08 01 12 01 6d " + NO_TIME + FINAL),
    (
        "timing",
        Timing(1, 2, 3, 4, 5),
        OK + "aa 01 0a 08 01 10 02 18 03 20 04 28 05 " + FINAL,
    ),
    ("late", True, OK + NO_TIME + "b0 01 01 " + FINAL),
    ("final", False, "78 01 " + OK + NO_TIME),
    ("phase_advice_us", -1, OK + NO_TIME + FINAL + "c0 01 01"),
    ("retry_after_us", 0, OK + NO_TIME + FINAL + "c8 01 00"),
    ("redirect", ("a", "b"), OK + NO_TIME + FINAL + "d2 01 01 61 d2 01 01 62"),
    ("model_version", "v", OK + NO_TIME + FINAL + "da 01 01 76"),
    ("spec", SPEC, OK + NO_TIME + FINAL + "e2 01 33 " + SPEC_BYTES),
    ("first_step", 3, OK + NO_TIME + FINAL + "e8 01 03"),
    ("step_period_us", 4, OK + NO_TIME + FINAL + "f0 01 04"),
    ("horizon", 5, OK + NO_TIME + FINAL + "f8 01 05"),
    ("kind", Kind.CANCEL, OK + NO_TIME + FINAL + "80 02 02"),
]


@pytest.mark.parametrize(("field", "value", "golden"), RESPONSE_FIELDS)
def test_each_of_our_fields_of_a_response(field, value, golden) -> None:
    envelope = bytes.fromhex("0a 00 " + golden)
    # Without a version the message would be one of an old server, always final.
    version = {"protocol_version": 1} if field == "final" else {}
    response = Response(**{field: value}, **version)
    assert encode_response(response) == envelope
    assert decode_response(envelope, 0) == response


def test_an_optional_input_of_a_spec_and_the_size_of_an_image() -> None:
    assert session_pb2.TensorSpec(optional=True).SerializeToString() == bytes.fromhex("28 01")
    resized = session_pb2.TensorSpec(resize=(4, 5)).SerializeToString()
    assert resized == bytes.fromhex("32 02 04 05")


ENUMERATIONS = {
    "DType": (
        "UNSPECIFIED FLOAT16 FLOAT32 FLOAT64 BFLOAT16 UINT8 INT32 INT64 BOOL"
        " INT8 INT16 UINT16 UINT32 UINT64 STRING"
    ),
    "Encoding": "UNSPECIFIED RAW JPEG PNG WAV FLAC",
    "Kind": "OBSERVE HEARTBEAT CANCEL END_EPISODE DESCRIBE",
    "Lateness": "DEFAULT FIRM SOFT",
    "Keep": "DEFAULT LATEST ALL",
    "Code": (
        "UNSPECIFIED OK SUPERSEDED INFEASIBLE EXPIRED SHED RATE_LIMITED QUEUE_FULL DRAINING"
        " LOADING WORKER_LOST INVALID TOO_LARGE UNKNOWN_MODEL UNAUTHENTICATED FORBIDDEN"
        " ENGINE_FAILED CANCELLED CLIENT_GONE"
    ),
}


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_each_value_of_an_enumeration(name) -> None:
    golden = {member: number for number, member in enumerate(ENUMERATIONS[name].split())}
    prefix = f"{name.upper()}_"
    wire = {
        member.removeprefix(prefix): number for member, number in getattr(session_pb2, name).items()
    }
    ours = {member.name: int(member) for member in getattr(types, name, Outcome)}
    assert wire == golden
    # Absent is no encoding and no outcome of ours.
    assert ours == {member: number for member, number in golden.items() if member in ours}
    assert golden.keys() - ours.keys() <= {"UNSPECIFIED"}


FIELDS = {
    "Client": "1 id, 2 type",
    "Tensor": "1 key, 2 dtype, 3 shape, 4 byte_offset, 5 byte_length, 6 timestamp_ns, 7 encoding,"
    " 15 age_us",
    "Status": "1 code, 2 message",
    "Timing": "1 queue_us, 2 batch_us, 3 execute_us, 4 total_us, 5 batch_size",
    "TensorSpec": "1 key, 2 dtype, 3 shape, 4 encodings, 5 optional, 6 resize",
    "Spec": "1 model_id, 2 version, 3 hash, 4 inputs, 5 outputs, 6 max_batch, 7 horizon,"
    " 8 step_period_us, 9 recurrent",
    "Observation": "1 client, 2 timestamp_ns, 3 urgency, 4 tensors, 5 model_id, 6 steps_remaining,"
    " 7 metadata, 8 priority, 15 protocol_version, 16 features, 17 kind, 18 session_nonce,"
    " 19 sequence, 20 episode, 21 age_us, 22 round_trip_us, 23 latency_budget_us,"
    " 24 step_period_us, 25 committed_steps, 26 inference_delay_steps, 27 observation_period_us,"
    " 28 lateness, 29 keep, 30 wants_status, 31 model_version, 32 spec_hash, 33 trace_id",
    "ModelResponse": "1 client, 2 response_id, 3 timestamp_ns, 4 tensors, 5 inference_latency_ms,"
    " 6 model_id, 7 metadata, 15 protocol_version, 16 appliance_id, 17 instance, 18 sequence,"
    " 19 episode, 20 status, 21 timing, 22 late, 23 final, 24 phase_advice_us, 25 retry_after_us,"
    " 26 redirect, 27 model_version, 28 spec, 29 first_step, 30 step_period_us, 31 horizon,"
    " 32 kind",
}


@pytest.mark.parametrize("name", FIELDS)
def test_each_number_of_a_message(name) -> None:
    descriptor = session_pb2.DESCRIPTOR.message_types_by_name[name]
    assert FIELDS[name] == ", ".join(
        f"{field.number} {field.name}"
        for field in sorted(descriptor.fields, key=lambda field: field.number)
    )


def test_no_message_is_left_out() -> None:
    assert sorted(FIELDS) == sorted(session_pb2.DESCRIPTOR.message_types_by_name)
    assert sorted(ENUMERATIONS) == sorted(session_pb2.DESCRIPTOR.enum_types_by_name)
