"""How long a batch will take: seeded at warm-up, interpolated, learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.scheduling.estimate import DEVIATIONS, GAIN, SPIKE, Estimate

MS = 1_000_000
SAFETY = 1 + DEVIATIONS * 0.05
"""Before anything was observed."""


def planned(expected_ms: float) -> int:
    return pytest.approx(expected_ms * MS * SAFETY, rel=1e-6)


def test_measured_sizes_are_planned_with_a_margin() -> None:
    estimate = Estimate.from_times({1: 10 * MS, 4: 16 * MS}, 4)
    assert estimate.of(1) == planned(10)
    assert estimate.of(4) == planned(16)


def test_sizes_between_are_interpolated() -> None:
    estimate = Estimate.from_times({1: 10 * MS, 4: 16 * MS}, 4)
    assert estimate.of(2) == planned(12)
    assert estimate.of(3) == planned(14)


def test_sizes_beyond_follow_the_last_slope() -> None:
    estimate = Estimate.from_times({1: 10 * MS, 2: 11 * MS, 4: 15 * MS}, 8)
    assert estimate.of(8) == planned(23)


def test_sizes_below_the_first_start_from_half_of_it() -> None:
    estimate = Estimate.from_times({8: 16 * MS}, 8)
    assert estimate.of(4) == planned(12)
    assert estimate.of(8) == planned(16)


def test_one_measurement_is_enough() -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 4)
    assert [estimate.of(size) for size in (1, 2, 4)] == [planned(10), planned(15), planned(25)]


times = st.dictionaries(st.integers(1, 64), st.integers(0, 10**10), min_size=1, max_size=6)


@given(times, st.integers(1, 64), st.lists(st.tuples(st.integers(1, 64), st.integers(0, 10**10))))
def test_a_larger_batch_is_never_planned_shorter(
    measured: dict[int, int], largest: int, observed: list[tuple[int, int]]
) -> None:
    estimate = Estimate.from_times(measured, largest)
    for size, busy_ns in observed:
        estimate.observe(min(size, largest), busy_ns)
    planned_ns = [estimate.of(size) for size in range(1, largest + 1)]
    assert planned_ns == sorted(planned_ns)
    assert planned_ns[0] >= 0


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_it_learns_how_long_batches_really_take(factor: float) -> None:
    estimate = Estimate.from_times({1: 10 * MS, 4: 16 * MS}, 4)
    for _ in range(300):
        estimate.observe(1, round(10 * MS * factor))
    assert estimate.of(1) == pytest.approx(10 * MS * factor, rel=0.01)
    assert estimate.of(4) == pytest.approx(16 * MS * factor, rel=0.01)


def test_what_varies_is_planned_with_a_wider_margin() -> None:
    steady, varying = (Estimate.from_times({1: 10 * MS}, 1) for _ in range(2))
    for turn in range(300):
        steady.observe(1, 10 * MS)
        varying.observe(1, (8 if turn % 2 else 12) * MS)
    assert steady.of(1) < 10.1 * MS
    assert 12 * MS < varying.of(1) < 15 * MS


@given(st.integers(0, 10**15))
def test_a_single_spike_moves_it_only_so_far(busy_ns: int) -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 1)
    before_ns = estimate.of(1)
    estimate.observe(1, busy_ns)
    most = GAIN * (SPIKE - 1) * (1 + DEVIATIONS)
    assert before_ns * (1 - 2 * GAIN) <= estimate.of(1) <= before_ns + 10 * MS * most


def test_a_lasting_slowdown_is_followed_within_a_hundred_batches() -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 1)
    for _ in range(100):
        estimate.observe(1, 200 * MS)
    assert estimate.of(1) > 150 * MS


def test_nothing_is_planned_shorter_than_a_microsecond_at_warm_up() -> None:
    assert Estimate.from_times({1: 0}, 2).of(2) >= 1000
