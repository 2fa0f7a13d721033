"""What the core packs, the process that writes unpacks, whole or not at all."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from recording.recordings import observation, outcome

from appliance.recording.buffers import Record
from appliance.recording.messages import Topic, encode
from appliance.recording.transfer import LARGE_BYTES, pack, pack_records, unpack


def arrived(payload: bytes | memoryview) -> Record:
    return int(Topic.OBSERVATIONS), 5, 6, (b"one", b"envelope", payload, len(payload), ("camera",))


def plain(record: Record) -> Record:
    return int(record[0]), *record[1:]


records = st.one_of(
    st.integers(0, 2 * LARGE_BYTES).map(lambda size: arrived(bytes(size))),
    st.integers(0, 2 * LARGE_BYTES).map(lambda size: arrived(memoryview(bytes(size)))),
    st.integers(0, 2**63).map(lambda number: plain(observation(number))),
    st.binary(max_size=30).map(lambda payload: plain(outcome(1, payload=payload))),
)


@given(st.lists(records, max_size=5), st.integers(0, 10))
def test_frames_are_read_as_they_were_written(some: list[Record], fewer: int) -> None:
    whole = b"".join(pack("open", "a.mcap", {"key": "value"}, None) + pack_records(some))
    stream = io.BytesIO(whole[: len(whole) - fewer])
    assert unpack(stream.read) == ("open", ("a.mcap", {"key": "value"}, None))
    found: Any = unpack(stream.read)
    if fewer:
        assert found is None
    else:
        assert found[0] == "write"
        assert [encode(each, images=True) for each in found[1][0]] == [
            encode(each, images=True) for each in some
        ]
        assert unpack(stream.read) is None


def test_what_is_large_is_not_copied() -> None:
    payload = memoryview(bytes(LARGE_BYTES + 1))
    _, part = pack_records([arrived(payload)])
    assert part is payload
