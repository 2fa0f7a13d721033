"""When the ring is written, and which files make room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.recording.incidents import (
    WINDOW_NS,
    IncidentPolicy,
    Kept,
    is_incident,
    to_delete,
)

PAUSE_NS = 60 * WINDOW_NS


def test_so_many_misses_in_a_second_are_an_incident() -> None:
    policy = IncidentPolicy(3, PAUSE_NS)
    assert [policy.missed(at) for at in (0, WINDOW_NS + 1, WINDOW_NS + 2)] == [False] * 3
    assert policy.missed(WINDOW_NS + 3)


def test_misses_that_are_far_apart_are_none() -> None:
    policy = IncidentPolicy(2, PAUSE_NS)
    assert not any(policy.missed(at * (WINDOW_NS + 1)) for at in range(50))


def test_with_0_misses_never_are() -> None:
    policy = IncidentPolicy(0, PAUSE_NS)
    assert not any(policy.missed(at) for at in range(100))
    assert policy.lost(100)


def test_after_an_incident_there_is_a_pause_for_every_kind() -> None:
    policy = IncidentPolicy(1, PAUSE_NS)
    assert policy.lost(5)
    assert not policy.missed(6)
    assert not policy.lost(4 + PAUSE_NS)
    assert policy.missed(5 + PAUSE_NS)


@given(st.lists(st.integers(0, 100), max_size=12), st.integers(0, 500), st.integers(0, 200))
def test_the_oldest_files_make_room_and_no_more_than_needed(
    sizes: list[int], most_bytes: int, needed: int
) -> None:
    kept = [Kept(f"incident-{number}.mcap", size, number) for number, size in enumerate(sizes)]
    gone = to_delete(reversed(kept), most_bytes, needed)
    assert gone == [file.name for file in kept[: len(gone)]]
    left = sum(file.bytes for file in kept[len(gone) :])
    assert left + needed <= most_bytes or len(gone) == len(kept)
    if gone:
        assert left + kept[len(gone) - 1].bytes + needed > most_bytes


def test_only_our_files_are_touched() -> None:
    assert is_incident("incident-20260101T000000Z-misses.mcap")
    assert is_incident("incident-20260101T000000Z-misses.mcap.partial")
    assert not is_incident("holiday.mcap")
    assert not is_incident("incident-report.txt")
