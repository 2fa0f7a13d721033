"""What is taken down is what can be read."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from recording.recordings import CAMERA, OBSERVATION, PAYLOAD, PHOTO, STATE, outcome
from wire.wire_strategies import observations

from appliance.recording.messages import Topic, encode, parse, schema, without_images
from appliance.wire.pb import recording_pb2
from appliance.wire.session import decode_observation, encode_observation
from appliance.wire.types import Kind, Observation


def read(envelope: bytes, payload: bytes, *, images: bool = True) -> recording_pb2.Observation:
    fields = (b"one", envelope, payload, len(payload), ())
    data = encode((Topic.OBSERVATIONS, 5, 0, fields), images=images)
    assert data is not None
    return recording_pb2.Observation.FromString(data)


@given(observations, st.binary(max_size=40))
def test_an_observation_comes_back_as_it_was(observation: Observation, payload: bytes) -> None:
    observation = evolve(observation, kind=Kind.OBSERVE)
    envelope = encode_observation(observation)
    message = read(envelope, payload)
    assert (message.session, message.received_ns, message.payload) == (b"one", 5, payload)
    end = max((t.offset + t.length for t in observation.tensors), default=0)
    again = decode_observation(message.envelope.SerializeToString(), end)
    assert again == decode_observation(envelope, end)


@given(st.binary(max_size=60), st.binary(max_size=20), st.data())
def test_whatever_came_can_be_written(
    envelope: bytes, payload: bytes, chosen: st.DataObject
) -> None:
    fields = (b"one", envelope, payload, len(payload), ())
    data = encode((Topic.OBSERVATIONS, 5, 0, fields), images=chosen.draw(st.booleans()))
    if data is not None:
        message = recording_pb2.Observation.FromString(data)
        assert message.unreadable == (b"" if parse(envelope) is not None else envelope)
        assert len(message.payload) <= len(payload)


def test_images_are_left_out_and_the_rest_is_not() -> None:
    message = read(encode_observation(OBSERVATION), PAYLOAD, images=False)
    assert list(message.omitted) == [CAMERA.key, PHOTO.key]
    assert message.payload == PAYLOAD[: STATE.length]
    assert message.payload_bytes == len(PAYLOAD)


def test_tensors_that_overlap_do_not_make_more_of_a_payload() -> None:
    tensors = tuple(evolve(STATE, key=f"s{i}", length=25, shape=()) for i in range(60))
    found = parse(encode_observation(evolve(OBSERVATION, tensors=(*tensors, CAMERA))))
    kept, omitted = without_images(found, PAYLOAD)
    assert (len(kept), omitted) == (0, (CAMERA.key,))


def test_an_outcome_has_its_outputs() -> None:
    data = encode(outcome(9, at_ns=50_000_000), images=True)
    assert data is not None
    message = recording_pb2.Outcome.FromString(data)
    assert message.payload == b"abcd"
    assert [tensor.key for tensor in message.tensors] == ["y"]
    assert (message.sequence, message.timing.batch_size, message.slack_us) == (9, 5, 3000)


def test_schemas_are_complete() -> None:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    for topic in Topic:
        name, definition = schema(topic)
        pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(definition).file:
            pool.Add(file)  # fails where an import is missing
        assert pool.FindMessageTypeByName(name).full_name == name
