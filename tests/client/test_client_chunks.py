"""Each row is for its instant, whatever came when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.client.chunks import Blend, Chunk, Plan, Rows, freeze, replace

STEP = 8  # nanoseconds are as good as any


def chunk(captured: int, horizon: int, first_step: int = 0, committed_until: int = 0) -> Chunk:
    """A chunk whose rows say when they were captured and for which instant they are."""
    start = captured + first_step * STEP
    rows = np.array([[captured, start + i * STEP] for i in range(horizon)], np.float64)
    return Chunk(rows.reshape(horizon, 2), captured, start, STEP, committed_until)


chunks = st.builds(
    chunk,
    captured=st.integers(0, 40).map(lambda step: step * STEP),
    horizon=st.integers(1, 12),
    first_step=st.integers(0, 6),
)


@given(st.lists(st.tuples(st.integers(0, 60), chunks), max_size=20))
def test_the_row_is_of_the_latest_capture_that_has_one(arrivals: list[tuple[int, Chunk]]) -> None:
    """Against what is known of all chunks, looked at anew for each instant."""
    plan = Plan()
    arrivals = sorted(arrivals, key=lambda pair: pair[0])
    for position, (step, arrived) in enumerate(arrivals):
        now = step * STEP
        latest = plan.latest_ns
        taken = plan.take(arrived, now)
        over = arrived.start_ns + len(arrived.rows) * STEP <= now
        assert taken == (not over and (latest is None or arrived.captured_ns > latest))
        until = arrivals[position + 1][0] if position + 1 < len(arrivals) else 100
        for instant in range(now, until * STEP, STEP):
            remaining = plan.remaining(instant)
            row = plan.at(instant)
            assert (row is not None) == (remaining > 0)
            if row is not None:
                captured, meant = row
                assert meant == instant
                assert captured <= (plan.latest_ns or 0)
                if arrived.start_ns <= instant and taken:
                    assert captured == arrived.captured_ns


@given(st.integers(-STEP // 8, STEP * 7 // 8 - 1), st.integers(0, 7))
def test_a_row_lasts_a_step_and_may_be_taken_a_little_early(offset: int, row: int) -> None:
    plan = Plan()
    plan.take(chunk(80, 8), 80)
    found = plan.at(80 + row * STEP + offset)
    assert found is not None
    assert found[1] == 80 + row * STEP


def test_a_late_answer_begins_with_the_row_that_is_due() -> None:
    plan = Plan()
    assert plan.take(chunk(0, 4), 2 * STEP)
    assert plan.remaining(2 * STEP) == 2
    row = plan.at(2 * STEP)
    assert row is not None
    assert row[1] == 2 * STEP


def test_an_answer_that_is_over_leaves_the_plan_as_it_was() -> None:
    plan = Plan()
    plan.take(chunk(0, 16), 0)
    assert not plan.take(chunk(STEP, 2), 5 * STEP)
    assert plan.remaining(5 * STEP) == 11


def test_rows_of_the_present_plan_bridge_the_time_until_the_new_one_begins() -> None:
    plan = Plan()
    plan.take(chunk(0, 4), 0)
    plan.take(chunk(STEP, 4, first_step=2), STEP)
    said = [plan.at(step * STEP) for step in range(1, 8)]
    assert [row[0] if row is not None else None for row in said] == [0, 0, 8, 8, 8, 8, None]
    assert plan.remaining(7 * STEP) == 0


def test_a_gap_is_a_gap() -> None:
    plan = Plan()
    plan.take(chunk(0, 2), 0)
    plan.take(chunk(STEP, 4, first_step=3), STEP)
    assert plan.remaining(STEP) == 1
    assert [plan.at(step * STEP) is None for step in range(1, 5)] == [False, True, True, False]


def test_freeze_keeps_what_is_committed() -> None:
    plan = Plan(freeze)
    plan.take(chunk(0, 8), 0)
    plan.take(chunk(2 * STEP, 8, committed_until=5 * STEP), 3 * STEP)
    rows = [plan.at(step * STEP) for step in range(3, 10)]
    captured = [row[0] for row in rows if row is not None]
    assert captured == [0, 0, 16, 16, 16, 16, 16]


def test_blend_goes_over_linearly() -> None:
    plan = Plan(Blend(3))
    old, new = np.zeros((8, 1), np.float32), np.ones((8, 1), np.float32)
    plan.take(Chunk(old, 0, 0, STEP), 0)
    plan.take(Chunk(new, STEP, STEP, STEP), STEP)
    rows = [plan.at(step * STEP) for step in range(1, 6)]
    assert [float(row[0]) for row in rows if row is not None] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(row.dtype == np.float32 for row in rows if row is not None)


def test_a_merge_of_ones_own_gets_rows_of_the_same_instants() -> None:
    seen: list[tuple[Rows, Rows, int]] = []

    def keep(present: Rows, new: Rows, committed: int) -> Rows:
        seen.append((present, new, committed))
        return new

    plan = Plan(keep)
    plan.take(chunk(0, 4), 0)
    plan.take(chunk(2 * STEP, 8, committed_until=3 * STEP), 2 * STEP)
    ((present, new, committed),) = seen
    assert present[:, 1].tolist() == [16, 24]
    assert new[:, 1].tolist() == [16 + i * STEP for i in range(8)]
    assert committed == 1


def test_a_merge_that_returns_something_else() -> None:
    plan = Plan(lambda present, new, committed: new[:1])
    plan.take(chunk(0, 4), 0)
    with pytest.raises(ValueError, match=r"merge returned shape \(1, 2\), expected \(4, 2\)"):
        plan.take(chunk(STEP, 4), STEP)
    row = plan.at(STEP)
    assert row is not None
    assert row[0] == 0, "the plan is as it was"


def test_chunks_of_another_step_or_shape_are_not_merged() -> None:
    plan = Plan(lambda present, new, committed: new[:0])  # would be an error
    plan.take(chunk(0, 4), 0)
    assert plan.take(Chunk(np.zeros((4, 3)), STEP, STEP, STEP), STEP)
    assert plan.take(Chunk(np.zeros((4, 3)), 2 * STEP, 2 * STEP, 3), 2 * STEP)


def test_cleared_it_knows_nothing() -> None:
    plan = Plan(replace)
    plan.take(chunk(80, 4), 80)
    plan.at(80)
    plan.clear()
    assert plan.at(80) is plan.last is plan.latest_ns is None
    assert plan.take(chunk(0, 4), 0), "also an older capture is of use again"


def test_chunks_that_have_no_instant_in_common_are_not_merged() -> None:
    plan = Plan(Blend(4))
    plan.take(chunk(0, 8, first_step=20), 0)
    plan.take(chunk(STEP, 8, first_step=1), STEP)
    row = plan.at(2 * STEP)
    assert row is not None
    assert row[1] == 2 * STEP
