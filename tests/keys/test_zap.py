"""RFC 27, frame by frame."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import PeerProtocolError
from appliance.keys.zap import (
    Status,
    ZapReply,
    ZapRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
requests = st.builds(
    ZapRequest,
    request_id=st.binary(max_size=20),
    domain=texts,
    address=texts,
    identity=st.binary(max_size=255),
    mechanism=texts,
    credentials=st.lists(st.binary(max_size=40), max_size=4).map(tuple),
)
replies = st.builds(
    ZapReply,
    request_id=st.binary(max_size=20),
    status=st.sampled_from(Status),
    text=texts,
    user_id=texts,
)


@given(requests)
def test_a_request_is_read_as_it_was_written(request: ZapRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(replies)
def test_a_reply_is_read_as_it_was_written(reply: ZapReply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


@given(st.lists(st.binary(max_size=40), max_size=9))
def test_any_frames_are_read_or_refused(frames: list[bytes]) -> None:
    for versioned in (frames, [b"1.0", *frames]):
        for decode in (decode_request, decode_reply):
            with suppress(PeerProtocolError):
                decode(versioned)


def test_the_frames_are_those_of_the_rfc() -> None:
    request = decode_request([b"1.0", b"7", b"appliance", b"10.0.0.4", b"arm", b"CURVE", b"k" * 32])
    assert request == ZapRequest(
        request_id=b"7",
        domain="appliance",
        address="10.0.0.4",
        identity=b"arm",
        mechanism="CURVE",
        credentials=(b"k" * 32,),
    )
    reply = ZapReply(request_id=b"7", status=Status.ACCEPTED, text="OK", user_id="arm")
    assert encode_reply(reply) == [b"1.0", b"7", b"200", b"OK", b"arm", b""]


def test_another_version_is_refused() -> None:
    with pytest.raises(PeerProtocolError, match="version"):
        decode_request([b"2.0", b"7", b"", b"", b"", b"NULL"])
