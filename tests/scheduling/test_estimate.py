"""How long a batch will take: seeded at warm-up, on a line, learnt."""

from __future__ import annotations

import gc
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import MS, POLICY, Skewed, Watched, busy_fleet

from appliance.scheduling import Scheduler
from appliance.scheduling.estimate import (
    AGREEING,
    CAREFUL_DEVIATIONS,
    DEVIATIONS,
    ENOUGH,
    GAIN,
    MOST_MARGIN,
    REFRESH,
    SPIKE,
    Estimate,
)
from appliance.simulation import simulate
from appliance.simulation.execution import reference_of

FIRST_DEVIATION = 0.03
"""Before anything was observed."""


def planned(expected_ms: float) -> int:
    return pytest.approx(expected_ms * MS * (1 + DEVIATIONS * FIRST_DEVIATION), rel=1e-6)


def line_ns(rows: int) -> int:
    """What the policy model of most tests takes."""
    return 6 * MS + rows * MS * 3 // 4


def noisy_ns(rows: int, random: Random, sigma: float = 0.03) -> int:
    return round(line_ns(rows) * random.lognormvariate(0, sigma))


# --------------------------------------------------------------------------------- warm-up


def test_measured_sizes_are_planned_with_a_margin() -> None:
    estimate = Estimate.from_times({1: 10 * MS, 4: 16 * MS}, 4)
    assert estimate.of(1) == planned(10)
    assert estimate.of(4) == planned(16)


def test_tier_0_is_planned_with_a_larger_one() -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 1)
    assert 1 + CAREFUL_DEVIATIONS * FIRST_DEVIATION > MOST_MARGIN
    assert estimate.careful_ns[1] == pytest.approx(10 * MS * MOST_MARGIN)


def test_other_sizes_are_on_the_line_through_those_that_were_measured() -> None:
    estimate = Estimate.from_times({1: 10 * MS, 4: 16 * MS}, 8)
    assert [estimate.of(size) for size in (2, 3, 8)] == [planned(12), planned(14), planned(24)]


@pytest.mark.parametrize("measured", [1, 8])
def test_of_one_measurement_half_is_taken_to_grow_with_the_size(measured: int) -> None:
    estimate = Estimate.from_times({measured: 16 * MS}, 16)
    assert estimate.of(measured) == planned(16)
    assert estimate.of(2 * measured) == planned(24)


def test_nothing_is_planned_shorter_than_a_microsecond_at_warm_up() -> None:
    assert Estimate.from_times({1: 0}, 2).of(2) >= 1000


# ---------------------------------------------------------------------------------- always

times = st.dictionaries(st.integers(1, 64), st.integers(0, 10**10), min_size=1, max_size=6)
batches = st.lists(st.tuples(st.integers(1, 64), st.integers(0, 10**10), st.booleans()))


@given(times, st.integers(1, 64), batches)
def test_a_larger_batch_is_never_planned_shorter(
    measured: dict[int, int], largest: int, observed: list[tuple[int, int, bool]]
) -> None:
    estimate = Estimate.from_times(measured, largest)
    for size, busy_ns, switched in observed:
        estimate.observe(min(size, largest), busy_ns, switched=switched)
    assert estimate.planned_ns == sorted(estimate.planned_ns)
    assert estimate.careful_ns == sorted(estimate.careful_ns)
    assert estimate.planned_ns[0] == estimate.careful_ns[0] == 0
    assert len(estimate.planned_ns) == len(estimate.careful_ns) == largest + 1
    assert all(c >= p for c, p in zip(estimate.careful_ns, estimate.planned_ns, strict=True))


@given(st.integers(0, 10**15))
def test_a_single_spike_moves_it_only_so_far(busy_ns: int) -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 1)
    before_ns = estimate.of(1)
    estimate.observe(1, busy_ns)
    most = GAIN * (SPIKE - 1) * (1 + DEVIATIONS)
    assert before_ns * (1 - 2 * GAIN) <= estimate.of(1) <= before_ns + 10 * MS * most


def test_it_does_not_grow() -> None:
    random = Random(1)
    estimate = Estimate.from_times({1: line_ns(1), 16: line_ns(16)}, 16)

    def learn() -> int:
        for _ in range(5000):
            size = random.randint(1, 16)
            estimate.observe(size, noisy_ns(size, random, sigma=0.2), switched=size % 2 == 0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first_bytes = learn()
        assert learn() - first_bytes < 4096
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("factor", [1 / 3, 0.5, 1.0, 2.5, 3.0])
def test_it_learns_how_long_batches_really_take(factor: float) -> None:
    estimate = Estimate.from_times({1: 10 * MS, 4: 16 * MS}, 4)
    for _ in range(300):
        estimate.observe(1, round(10 * MS * factor))
    assert estimate.of(1) == pytest.approx(10 * MS * factor, rel=0.01)
    assert estimate.of(4) == pytest.approx(16 * MS * factor, rel=0.01)


def test_what_varies_is_planned_with_a_wider_margin() -> None:
    steady, varying, wild = (Estimate.from_times({1: 10 * MS}, 1) for _ in range(3))
    for turn in range(300):
        steady.observe(1, 10 * MS)
        varying.observe(1, round((9.7 if turn % 2 else 10.3) * MS))
        wild.observe(1, (8 if turn % 2 else 12) * MS)
    assert steady.of(1) < 10.1 * MS
    assert 10.3 * MS <= varying.careful_ns[1] < 10.5 * MS
    assert wild.careful_ns[1] == pytest.approx(10 * MS * MOST_MARGIN, rel=0.03)


def test_its_quantiles_are_those_of_what_ran() -> None:
    random = Random(2)
    estimate = Estimate.from_times({8: line_ns(8)}, 8)
    for _ in range(ENOUGH + 10 * REFRESH):
        estimate.observe(8, noisy_ns(8, random, sigma=0.02))
    took_ns = [noisy_ns(8, random, sigma=0.02) for _ in range(2000)]
    for quantile_ns, share in ((estimate.planned_ns[8], 0.85), (estimate.careful_ns[8], 0.95)):
        assert sum(time <= quantile_ns for time in took_ns) / 2000 == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("spike", [1.5, 4.0, 1000.0])
def test_now_and_then_a_spike_changes_nothing(spike: float) -> None:
    random = Random(3)
    spiky, steady = (Estimate.from_times({4: line_ns(4)}, 4) for _ in range(2))
    for turn in range(500):
        busy_ns = noisy_ns(4, random)
        steady.observe(4, busy_ns)
        spiky.observe(4, round(busy_ns * spike) if turn % 10 == 5 else busy_ns)
    assert spiky.of(4) == pytest.approx(steady.of(4), rel=0.01)


@pytest.mark.parametrize("factor", [2.0, 0.5, 10.0, 0.1])
def test_another_level_is_followed_within_a_few_batches(factor: float) -> None:
    random = Random(4)
    estimate = Estimate.from_times({4: line_ns(4)}, 4)
    for _ in range(200):
        estimate.observe(4, noisy_ns(4, random))
    for _ in range(AGREEING):
        estimate.observe(4, round(noisy_ns(4, random) * factor))
    assert estimate.of(4) == pytest.approx(line_ns(4) * factor, rel=0.12)


def test_a_device_that_throttles_is_followed_within_two_seconds() -> None:
    engine = Skewed(POLICY)
    scheduler = Scheduler()
    model = reference_of("policy")
    wrong: dict[int, float] = {}

    def look(now_ns: int) -> None:
        engine.takes = 2.0 if now_ns >= 3000 * MS else 1.0
        wrong[now_ns // MS] = (
            scheduler.planned_ns(model, 4) / (engine.takes * POLICY.mean_ns(4)) - 1
        )

    simulate(busy_fleet(engine), Watched(scheduler, look), seed=1, horizon_ns=7000 * MS)
    before = [each for at_ms, each in wrong.items() if 1000 <= at_ms < 3000]
    after = [each for at_ms, each in wrong.items() if 5000 <= at_ms < 7000]
    assert max(abs(each) for each in before) < 0.1
    assert max(abs(each) for each in after) < 0.1


def test_sizes_that_were_neither_measured_nor_seen_follow_from_the_others() -> None:
    estimate = Estimate.from_times({1: line_ns(1)}, 16)
    assert estimate.of(16) > 2 * line_ns(16)  # nothing better is known
    for turn in range(200):
        size = (1, 3, 5)[turn % 3]
        estimate.observe(size, line_ns(size))
    assert estimate.of(16) == pytest.approx(line_ns(16), rel=0.05)


def test_a_size_that_was_measured_too_slow_is_thought_better_of() -> None:
    estimate = Estimate.from_times({1: line_ns(1), 8: line_ns(8), 16: round(1.4 * line_ns(16))}, 16)
    for turn in range(200):
        size = (1, 4, 8)[turn % 3]
        estimate.observe(size, line_ns(size))
    assert estimate.of(16) == pytest.approx(line_ns(16), rel=0.05)


# -------------------------------------------------------------------------- another model


def test_what_a_change_of_model_costs_is_learnt() -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 1)
    for turn in range(600):
        switched = turn % 2 == 0
        estimate.observe(1, 12 * MS if switched else 10 * MS, switched=switched)
    assert estimate.switch_ns == pytest.approx(2 * MS, rel=0.2)
    assert estimate.of(1) == pytest.approx(10 * MS, rel=0.05)


def test_where_each_batch_follows_a_change_it_counts_as_the_batchs_time() -> None:
    estimate = Estimate.from_times({1: 10 * MS}, 1)
    for _ in range(600):
        estimate.observe(1, 12 * MS, switched=True)
    assert estimate.switch_ns < MS
    assert estimate.of(1) + estimate.switch_ns == pytest.approx(12 * MS, rel=0.02)


def test_a_change_that_costs_nothing_is_free() -> None:
    random = Random(5)
    estimate = Estimate.from_times({4: line_ns(4)}, 4)
    for turn in range(1000):
        estimate.observe(4, noisy_ns(4, random), switched=turn % 3 == 0)
    assert estimate.switch_ns < 0.02 * line_ns(4)
