"""Whatever comes in, only the wire's own errors come out."""

from __future__ import annotations

import pytest
import wire_strategies
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Outcome, PeerProtocolError, Rejected
from appliance.wire.arrays import to_array
from appliance.wire.media import audio_header, image_header
from appliance.wire.session import (
    BadObservation,
    decode_observation,
    decode_response,
    encode_observation,
    encode_response,
)
from appliance.wire.types import DType, Encoding, Observation

sizes = st.integers(0, 3000) | st.integers(0, 2**40)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """Overwrite, cut, insert or repeat a few bytes of a valid message."""
    data = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 12)))
        data[at:end] = draw(
            st.binary(max_size=8) | st.just(bytes(data[at:end] * 2)) | st.just(b"\xff" * 9)
        )
    return bytes(data)


def survive(envelope: bytes, payload_bytes: int) -> Observation | None:
    try:
        observation = decode_observation(envelope, payload_bytes)
    except BadObservation as error:
        bad = error
    else:
        bad = None
    if bad is not None:
        assert bad.outcome in (Outcome.INVALID, Outcome.TOO_LARGE)
        assert bad.message
        assert bad.header is None or encode_observation(bad.header)
        return None
    # What was accepted can be read back, and nothing in it leaves the payload.
    assert decode_observation(encode_observation(observation), payload_bytes) == observation
    for tensor in observation.tensors:
        assert tensor.offset + tensor.length <= payload_bytes
    return observation


@wire_strategies.repeatable
@given(st.binary(max_size=400), sizes)
def test_random_observations(envelope, payload_bytes) -> None:
    survive(envelope, payload_bytes)


@wire_strategies.repeatable
@given(mutated(wire_strategies.observations.map(encode_observation)), sizes)
def test_mutated_observations(envelope, payload_bytes) -> None:
    survive(envelope, payload_bytes)


@wire_strategies.repeatable
@given(wire_strategies.observations, st.data())
def test_accepted_raw_tensors_become_arrays(observation, data) -> None:
    size = wire_strategies.payload_bytes(observation.tensors)
    envelope = data.draw(mutated(st.just(encode_observation(observation))))
    accepted = survive(envelope, size)
    payload = bytes(size)
    for tensor in accepted.tensors if accepted else ():
        if tensor.encoding is not Encoding.RAW:
            continue
        if tensor.dtype is DType.STRING:
            # Zeros are empty strings; there may be more of them than the shape says.
            try:
                array = to_array(tensor, payload)
            except Rejected:
                continue
        else:
            array = to_array(tensor, payload)
        assert array.shape == tensor.shape


def survive_response(envelope: bytes, payload_bytes: int) -> None:
    try:
        response = decode_response(envelope, payload_bytes)
    except PeerProtocolError:
        return
    for tensor in response.tensors:
        assert tensor.offset + tensor.length <= payload_bytes


@wire_strategies.repeatable
@given(st.binary(max_size=400), sizes)
def test_random_responses(envelope, payload_bytes) -> None:
    survive_response(envelope, payload_bytes)


@wire_strategies.repeatable
@given(mutated(wire_strategies.responses.map(encode_response)), sizes)
def test_mutated_responses(envelope, payload_bytes) -> None:
    survive_response(envelope, payload_bytes)


MAGIC = {
    Encoding.JPEG: b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00\xff\xda\x00\x02",
    Encoding.PNG: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    Encoding.WAV: b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00",
    Encoding.FLAC: b"fLaC\x00\x00\x00\x22",
}


@pytest.mark.parametrize("encoding", MAGIC)
@wire_strategies.repeatable
@given(data=st.data())
def test_random_media(encoding, data) -> None:
    magic = MAGIC[encoding]
    content = data.draw(
        st.binary(max_size=200)
        | st.binary(max_size=200).map(lambda tail: magic + tail)
        | mutated(st.just(magic))
    )
    read = image_header if encoding in (Encoding.JPEG, Encoding.PNG) else audio_header
    try:
        read(memoryview(content), encoding)
    except Rejected as rejected:
        outcome = rejected.outcome
    else:
        outcome = Outcome.OK
    assert outcome in (Outcome.OK, Outcome.INVALID)
