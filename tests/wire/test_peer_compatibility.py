"""Unmodified clients of the old wire, run by their own interpreters, against this codec.

`APPLIANCE_PEER_010` and `APPLIANCE_PEER_140` name Python interpreters that have `inferential`
0.1.0 and 1.4.0; without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from appliance.wire.arrays import pack, to_array
from appliance.wire.legacy import for_old_client
from appliance.wire.session import (
    decode_observation,
    decode_response,
    encode_observation,
    encode_response,
)
from appliance.wire.types import DType, Response, Timing

INTERPRETERS = {
    "0.1.0": os.environ.get("APPLIANCE_PEER_010", ""),
    "1.4.0": os.environ.get("APPLIANCE_PEER_140", ""),
}

# Observes and reads through the released `Model` class, with a connection that keeps the frames.
OBSERVE = """
import json, sys
import numpy as np
from inferential.client import Model

class Frames:
    _client_id, _client_type = "r1", "sim"
    def _send(self, envelope, payload):
        sent.append([envelope.hex(), payload.hex()])

sent = []
model = Model(Frames(), "policy", priority=3)
model.observe()
model.observe(urgency=0.25, steps_remaining=0)
model.observe(urgency=0.75, steps_remaining=7, note="é", prompt="pick",
    **{name: np.array([[0, 1], [1, 1]], dtype=name) for name in json.loads(sys.argv[1])},
    scalar=np.array(2.5), empty=np.zeros((0, 3), np.float32))
print(json.dumps(sent))
"""
READ = """
import json, sys
from inferential.client import Model

class Frames:
    def _recv(self, timeout_ms):
        return envelope, payload
    def _recv_for_model(self, model_id, timeout_ms):
        return envelope, payload

results = []
for frames in json.load(sys.stdin):
    envelope, payload = map(bytes.fromhex, frames)
    result = Model(Frames(), "policy").get_result()
    results.append({
        key: [value.dtype.name, list(value.shape), value.tolist()] if hasattr(value, "dtype")
        else value for key, value in result.items()
    })
print(json.dumps(results))
"""
FIELDS = """
import json
from inferential.proto import inferential_pb2 as pb
print(json.dumps({
    "messages": {
        name: {field.name: [field.number, field.type, field.has_presence]
               for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()},
    "enumerations": {
        name: {value.name: value.number for value in enumeration.values}
        for name, enumeration in pb.DESCRIPTOR.enum_types_by_name.items()},
}))
"""
KNOWN = {
    "float16": DType.FLOAT16,
    "float32": DType.FLOAT32,
    "float64": DType.FLOAT64,
    "uint8": DType.UINT8,
    "int32": DType.INT32,
    "int64": DType.INT64,
    "bool": DType.BOOL,
}


@pytest.fixture(params=INTERPRETERS)
def version(request: pytest.FixtureRequest) -> str:
    if not INTERPRETERS[request.param]:
        pytest.skip(f"no interpreter with inferential {request.param} is named")
    return request.param


def ask(version: str, script: str, *arguments: str, stdin: str = "") -> Any:
    command = [INTERPRETERS[version], "-c", script, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_it_sends(version) -> None:
    frames = [
        (bytes.fromhex(envelope), bytes.fromhex(payload))
        for envelope, payload in ask(version, OBSERVE, json.dumps(list(KNOWN)))
    ]
    bare, urgent, full = (
        decode_observation(envelope, len(payload)) for envelope, payload in frames
    )
    for observation in (bare, urgent, full):
        assert (observation.client_id, observation.client_type) == ("r1", "sim")
        assert observation.model_id == "policy"
        assert observation.protocol_version == 0
        assert not observation.wants_status
        # 0.1.0 keeps its priority to itself.
        assert observation.priority == (None if version == "0.1.0" else 3)
    assert (bare.urgency, bare.steps_remaining, bare.metadata) == (0.0, None, {})
    assert (urgent.urgency, urgent.steps_remaining) == (0.25, 0)
    assert (full.urgency, full.steps_remaining) == (0.75, 7)
    assert full.metadata == {"note": "é", "prompt": "pick"}

    *arrays, scalar, empty = full.tensors
    payload = frames[2][1]
    assert {tensor.key: tensor.dtype for tensor in arrays} == KNOWN
    for tensor in arrays:
        assert to_array(tensor, payload).tolist() == [[0, 1], [1, 1]]
        assert tensor.timestamp_ns == full.timestamp_ns
    assert to_array(scalar, payload).tolist() == 2.5
    assert to_array(empty, payload).shape == (0, 3)

    # Messages without a map are byte for byte what this codec writes.
    for (envelope, _), observation in zip(frames[:2], (bare, urgent), strict=True):
        assert encode_observation(observation) == envelope


def answer(*, extended: bool, **items: np.ndarray) -> tuple[bytes, bytes]:
    tensors, parts = pack(items)
    response = Response(
        client_id="r1",
        model_id="policy",
        response_id="abc",
        tensors=tensors,
        metadata={"note": "é"},
        timestamp_ns=1_700_000_000_000_000_000,
        inference_latency_ms=1.5,
        protocol_version=1,
        appliance_id="box",
        sequence=2**63,
        timing=Timing(1, 2, 3, 4, 5),
        late=True,
        model_version="1",
        step_period_us=20_000,
    )
    if not extended:
        response, parts = for_old_client(response, parts)
    return encode_response(response, extended=extended), b"".join(parts)


@pytest.mark.parametrize("extended", [False, True])
def test_what_it_reads(version, extended) -> None:
    arrays = {name: np.array([[0, 1], [1, 1]], dtype=name) for name in KNOWN}
    arrays["scalar"] = np.array(2.5)
    envelope, payload = answer(extended=extended, **arrays)
    (result,) = ask(version, READ, stdin=json.dumps([[envelope.hex(), payload.hex()]]))
    assert result == {
        "response_id": "abc",
        "model_id": "policy",
        "inference_latency_ms": 1.5,
        "note": "é",
        **{
            key: [array.dtype.name, list(array.shape), array.tolist()]
            for key, array in arrays.items()
        },
    }


def test_what_it_does_not_know_reaches_it_widened(version) -> None:
    arrays = {
        "actions": np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16),
        "counts": np.array([65535], dtype=np.uint16),
        "label": np.array("left"),
    }
    envelope, payload = answer(extended=False, **arrays)
    (result,) = ask(version, READ, stdin=json.dumps([[envelope.hex(), payload.hex()]]))
    assert result["actions"] == ["float32", [2], [1.5, -2.0]]
    assert result["counts"] == ["int32", [1], [65535]]
    assert result["label"] == "left"


def test_what_it_wrote_as_a_server_is_read(version) -> None:
    """Its own answers, as its `ModelResponse` writes them, decode here too."""
    script = """
import json
from inferential.proto import Client, ModelResponse, Tensor
message = ModelResponse(client=Client(id="r1"), response_id="i", timestamp_ns=7, model_id="policy",
    inference_latency_ms=0.5, metadata={"k": "v"}, tensors=[Tensor(key="actions", dtype=2,
    shape=[2], byte_length=8, encoding=1)])
print(json.dumps(message.SerializeToString().hex()))
"""
    response = decode_response(bytes.fromhex(ask(version, script)), 8)
    (tensor,) = response.tensors
    assert to_array(tensor, np.array([1, 2], np.float32).tobytes()).tolist() == [1.0, 2.0]
    assert (response.client_id, response.model_id, response.response_id) == ("r1", "policy", "i")
    assert (response.timestamp_ns, response.inference_latency_ms) == (7, 0.5)
    assert response.metadata == {"k": "v"}
    assert response.final


def test_every_field_and_number_is_the_same(version) -> None:
    from appliance.wire.pb import session_pb2

    theirs = ask(version, FIELDS)
    for name, fields in theirs["messages"].items():
        ours = session_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_name
        for field, (number, kind, presence) in fields.items():
            assert [ours[field].number, ours[field].type, ours[field].has_presence] == [
                number,
                kind,
                presence,
            ]
    for name, values in theirs["enumerations"].items():
        ours = session_pb2.DESCRIPTOR.enum_types_by_name[name].values_by_name
        for value, number in values.items():
            assert ours[value].number == number
