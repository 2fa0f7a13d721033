"""What is held is bounded, whatever comes."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from appliance.recording.buffers import Backlog, Record, Ring

steps = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 120)), max_size=60)


def records(steps: list[tuple[int, int]]) -> list[Record]:
    """Records some time apart, of some sizes."""
    made: list[Record] = []
    at_ns = 0
    for number, (wait_ns, size) in enumerate(steps):
        at_ns += wait_ns
        made.append((0, at_ns, size, (number,)))
    return made


@given(steps, st.integers(1, 200), st.integers(1, 300))
def test_a_ring_holds_the_last_records_that_fit(
    steps: list[tuple[int, int]], span_ns: int, most_bytes: int
) -> None:
    ring = Ring(span_ns, most_bytes)
    put: list[Record] = []
    for record in records(steps):
        ring.put(record)
        if record[2] <= most_bytes:
            put.append(record)
        held = ring.recent(record[1])
        assert ring.bytes <= most_bytes
        assert sum(each[2] for each in held) <= ring.bytes
        assert all(each[1] >= record[1] - span_ns for each in held)
        assert held == (put[-len(held) :] if held else [])
        left_out = put[: len(put) - len(held)]
        if left_out:  # nothing is given up without need
            oldest = left_out[-1]
            is_old = oldest[1] < record[1] - span_ns
            assert is_old or sum(each[2] for each in held) + oldest[2] > most_bytes


@given(steps, st.integers(1, 300), st.integers(1, 7))
def test_a_backlog_takes_what_fits_and_counts_the_rest(
    steps: list[tuple[int, int]], most_bytes: int, every: int
) -> None:
    backlog = Backlog(most_bytes)
    taken: list[Record] = []
    in_hand: list[Record] = []
    all_records = records(steps)
    for number, record in enumerate(all_records):
        backlog.put(record)
        assert 0 <= backlog.bytes <= most_bytes
        if number % every == 0:
            backlog.written(in_hand)
            in_hand = backlog.take()
            taken += in_hand
    taken += backlog.take()
    messages, size = backlog.dropped
    assert len(taken) + messages == len(all_records)
    assert sum(record[2] for record in taken) + size == sum(record[2] for record in all_records)


def test_what_is_being_written_still_counts() -> None:
    backlog = Backlog(10)
    backlog.put((0, 0, 10, ()))
    records = backlog.take()
    backlog.put((0, 0, 1, ()))
    assert backlog.dropped == (1, 1)
    backlog.written(records)
    backlog.put((0, 0, 10, ()))
    assert len(backlog.take()) == 1


def test_the_garbage_collector_does_not_follow_records() -> None:
    fields = (b"session", "client", 7, 1.5, None, True, (b"x", "y"))
    record: Record = (0, 1, 2, tuple(fields))
    gc.collect()
    assert not gc.is_tracked(record)
