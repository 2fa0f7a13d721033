"""Rows and batches written by hand are what protobuf would have written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType, Encoding
from appliance.wire.worker import ABSENT, encode_feed, encode_rows, encode_stage, feed_head

offsets = st.integers(0, 2**63 - 1) | st.sampled_from((0, 127, 128, 16383, 16384))
lengths = st.integers(1, 2**40)
shapes = st.lists(st.integers(0, 2**40), max_size=6).map(tuple)
feeds = st.none() | st.tuples(
    offsets, lengths, st.sampled_from(DType), st.sampled_from(Encoding), shapes
)


@given(st.lists(st.lists(feeds, max_size=5), max_size=4), st.booleans())
def test_rows_are_read_back_as_written(rows: list[list[object]], go: bool) -> None:  # noqa: FBT001
    expected = worker_pb2.Stage(batch_id=7, model=1, output_offset=64, output_bytes=1, go=go)
    written: list[bytes] = []
    for row in rows:
        message = expected.rows.add()
        parts: list[bytes] = []
        for feed in row:
            if feed is None:
                message.feeds.add(absent=True)
                parts.append(encode_feed(ABSENT, 0))
            else:
                offset, length, dtype, encoding, shape = feed  # type: ignore[misc]
                message.feeds.add(
                    offset=offset, length=length, dtype=dtype, encoding=encoding, shape=shape
                )
                parts.append(encode_feed(feed_head(length, dtype, encoding, shape), offset))
        written.append(b"".join(parts))
    stage = worker_pb2.Stage(batch_id=7, model=1, output_offset=64, output_bytes=1, go=go)
    stage.MergeFromString(encode_rows(written))
    assert stage == expected
    assert worker_pb2.ToWorker.FromString(encode_stage(stage)).stage == expected
