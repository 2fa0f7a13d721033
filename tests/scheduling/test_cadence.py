"""The rhythm of arrivals: found, kept, lost and found anew."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, repeat
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.scheduling.cadence import (
    CONFIDENT,
    LOST_NS,
    LOST_PERIODS,
    MISSED,
    SHORTEST_NS,
    Cadence,
)

MS = 1_000_000
PERIOD = 20 * MS
BEGIN = 1000 * MS

periods = st.integers(5, 500).map(lambda each: each * MS)
seeds = st.integers(0, 1 << 32)


def heard(arrivals_ns: Iterable[int], period_ns: int = 0) -> Cadence:
    """Return the cadence of one that declares `period_ns` after these arrivals."""
    cadence = Cadence(period_ns)
    for at_ns in arrivals_ns:
        cadence.arrived(at_ns)
    return cadence


def regular(count: int, period_ns: int = PERIOD, begin_ns: int = BEGIN) -> list[int]:
    return [begin_ns + number * period_ns for number in range(count)]


def jittered(
    count: int, period_ns: int, seed: int, jitter: float = 0.03, begin_ns: int = BEGIN
) -> list[int]:
    """Captures deviate by `jitter` of the period, and arrive late rather than early."""
    random = Random(seed)
    return [
        each + round(period_ns * (random.gauss(0, jitter) + random.expovariate(1 / jitter)))
        for each in regular(count, period_ns, begin_ns)
    ]


def locked() -> Cadence:
    return heard(regular(30))


def off(cadence: Cadence, expected_ns: int) -> float:
    """Return by what part of its period a cadence expects the next one elsewhere."""
    return abs(cadence.next_ns - expected_ns) / cadence.period_ns


# ------------------------------------------------------------------------------------ locking


def test_nothing_is_expected_of_a_single_arrival() -> None:
    cadence = heard([BEGIN])
    assert not cadence.is_confident
    assert cadence.period_ns == 0


@pytest.mark.parametrize("declared", [0, PERIOD])
def test_a_regular_one_is_found_within_a_few_arrivals(declared: int) -> None:
    cadence = heard(regular(CONFIDENT + 2), declared)
    assert cadence.is_confident
    assert cadence.period_ns == PERIOD
    assert cadence.next_ns == BEGIN + (CONFIDENT + 2) * PERIOD


@given(periods, seeds, st.sampled_from((0, 1)))
def test_it_locks_on_jittered_arrivals(period_ns: int, seed: int, declares: int) -> None:
    cadence = heard(jittered(60, period_ns, seed), declares * period_ns)
    assert cadence.is_confident
    assert cadence.period_ns == pytest.approx(period_ns, rel=0.06)
    assert off(cadence, BEGIN + 60 * period_ns) < 0.2


@given(seeds, st.sampled_from((0.01, 0.03)))
def test_nearly_all_arrive_within_the_interval_they_are_expected_in(
    seed: int, jitter: float
) -> None:
    arrivals_ns = jittered(400, PERIOD, seed, jitter)
    cadence, within = heard(arrivals_ns[:100]), 0
    for at_ns in arrivals_ns[100:]:
        from_ns, until_ns = cadence.expected()
        within += from_ns <= at_ns <= until_ns
        cadence.arrived(at_ns)
    assert within >= 0.9 * 300
    from_ns, until_ns = cadence.expected()
    assert until_ns - from_ns < 0.6 * PERIOD  # and not because anything would be


@given(st.floats(-1e-3, 1e-3), seeds)
def test_it_follows_a_clock_that_drifts(drift: float, seed: int) -> None:
    real_ns = round(PERIOD * (1 + drift))
    cadence = heard(jittered(2000, real_ns, seed, jitter=0.01), PERIOD)
    assert cadence.is_confident
    assert off(cadence, BEGIN + 2000 * real_ns) < 0.1


@given(st.lists(st.integers(0, 10**12), max_size=60), st.integers(0, 10**14), st.data())
def test_whatever_comes_it_stays_sane(gaps: list[int], period_ns: int, data: st.DataObject) -> None:
    cadence = Cadence(period_ns)
    for now_ns in accumulate(gaps):
        cadence.arrived(now_ns)
        if data.draw(st.booleans()):
            cadence.shift(data.draw(st.integers(-(10**8), 10**8)))
        assert cadence.last_ns == now_ns
        assert cadence.period_ns >= 0
        assert cadence.jitter_ns >= 0
        from_ns, until_ns = cadence.expected()
        assert from_ns <= cadence.next_ns <= until_ns


# ----------------------------------------------------------------------------- small mishaps


@pytest.mark.parametrize("missed", [1, 3, MISSED])
def test_it_survives_arrivals_that_are_missing(missed: int) -> None:
    cadence = locked()
    cadence.arrived(BEGIN + (29 + missed + 1) * PERIOD)
    assert cadence.is_confident
    assert cadence.period_ns == PERIOD
    assert cadence.next_ns == BEGIN + (29 + missed + 2) * PERIOD


@pytest.mark.parametrize("late", [-0.5, -0.3, 0.3, 0.5])
def test_a_single_one_that_is_late_or_early_hardly_moves_it(late: float) -> None:
    cadence = locked()
    cadence.arrived(BEGIN + round((30 + late) * PERIOD))
    assert cadence.is_confident
    assert cadence.period_ns == pytest.approx(PERIOD, rel=0.03)
    cadence.arrived(BEGIN + 31 * PERIOD)
    assert cadence.is_confident
    assert off(cadence, BEGIN + 32 * PERIOD) < 0.15


@pytest.mark.parametrize(
    "burst",
    [
        (0.05,),
        (0.5,),
        (0.95,),
        (0.1, 0.2),
        (0.5, 0.6),
    ],
)
def test_a_burst_between_two_moves_nothing(burst: tuple[float, ...]) -> None:
    cadence = locked()
    for part in burst:
        cadence.arrived(BEGIN + round((29 + part) * PERIOD))
    for at_ns in regular(3, begin_ns=BEGIN + 30 * PERIOD):
        cadence.arrived(at_ns)
    assert cadence.is_confident
    assert cadence.period_ns == pytest.approx(PERIOD, rel=0.1)
    assert off(cadence, BEGIN + 33 * PERIOD) < 0.25


def test_after_a_pause_the_period_is_known_and_the_phase_anew() -> None:
    cadence = locked()
    back_ns = BEGIN + round((29 + MISSED + 40.4) * PERIOD)
    cadence.arrived(back_ns)
    assert cadence.period_ns == PERIOD
    assert cadence.next_ns == back_ns + PERIOD
    cadence.arrived(back_ns + PERIOD)
    assert cadence.is_confident


# ------------------------------------------------------------------------------- other rates


@pytest.mark.parametrize(
    ("factor", "within"),
    [
        *((factor, 12) for factor in (0.1, 0.3, 0.5, 2, 3, 5, 7.3, 9)),
        *((factor, 40) for factor in (0.75, 0.9, 0.95, 1.05, 1.1, 1.5)),
        *((factor, 100) for factor in (0.55, 0.65, 1.2, 1.25, 1.33)),
        *((factor, 40) for factor in (1.37, 1.4, 1.6, 10, 30)),
    ],
)
def test_another_rate_is_found(factor: float, within: int) -> None:
    cadence = locked()
    period_ns = round(factor * PERIOD)
    for at_ns in regular(within, period_ns, begin_ns=BEGIN + 29 * PERIOD + period_ns):
        cadence.arrived(at_ns)
    assert cadence.is_confident
    assert cadence.period_ns == pytest.approx(period_ns, rel=0.02)
    assert off(cadence, BEGIN + 29 * PERIOD + (within + 1) * period_ns) < 0.1


@pytest.mark.parametrize(
    "lie",
    [
        *(0.01, 0.1, 0.2, 0.45, 0.5, 0.8, 1.3, 2, 3.3, 10, 1000),
    ],
)
def test_a_declared_period_that_lies_is_corrected(lie: float) -> None:
    cadence = heard(regular(40), round(lie * PERIOD))
    assert cadence.is_confident
    assert cadence.period_ns == pytest.approx(PERIOD, rel=0.02)
    assert off(cadence, BEGIN + 40 * PERIOD) < 0.1


@given(seeds, st.integers(2, 5))
def test_it_does_not_stay_on_a_harmonic(seed: int, multiple: int) -> None:
    """Of a period that is a part of the real one, every so many would be missing."""
    cadence = heard(jittered(40, multiple * PERIOD, seed, jitter=0.01), PERIOD)
    assert cadence.period_ns == pytest.approx(multiple * PERIOD, rel=0.06)


def test_a_rate_that_changes_every_second_is_found_each_time() -> None:
    random = Random(1)
    cadence, now_ns = Cadence(), BEGIN
    for _ in range(30):
        period_ns = random.choice((10, 20, 50)) * MS
        for _ in repeat(None, 1000 * MS // period_ns):
            now_ns += period_ns
            cadence.arrived(now_ns)
        assert cadence.is_confident
        assert cadence.period_ns == pytest.approx(period_ns, rel=0.05)
        assert off(cadence, now_ns + period_ns) < 0.1


def test_nothing_is_taken_for_faster_than_ten_kilohertz() -> None:
    assert heard(range(BEGIN, BEGIN + 50)).period_ns == SHORTEST_NS
    assert heard([BEGIN] * 50).period_ns == SHORTEST_NS


# -------------------------------------------------------------------------- what is not there


def test_one_that_does_not_come_is_overdue() -> None:
    cadence = locked()
    assert not cadence.is_overdue(cadence.next_ns + PERIOD // 4)
    assert cadence.is_overdue(cadence.next_ns + PERIOD)


def test_one_that_nobody_was_sure_of_is_not_overdue() -> None:
    assert not heard(regular(2)).is_overdue(BEGIN + 100 * PERIOD)


@pytest.mark.parametrize("period_ns", [PERIOD, 1000 * MS])
def test_one_that_has_not_come_for_long_is_lost(period_ns: int) -> None:
    cadence = heard(regular(10, period_ns))
    patience_ns = max(LOST_NS, LOST_PERIODS * period_ns)
    assert not cadence.is_lost(cadence.last_ns + patience_ns)
    assert cadence.is_lost(cadence.last_ns + patience_ns + 1)


# ------------------------------------------------------------------------------------- advice


@pytest.mark.parametrize("by_ns", [PERIOD // 10, -PERIOD // 10])
def test_a_shift_that_was_advised_is_not_taken_for_another_period(by_ns: int) -> None:
    cadence = locked()
    cadence.shift(by_ns)
    expected_ns = cadence.next_ns
    cadence.arrived(expected_ns)
    assert cadence.period_ns == PERIOD
    assert cadence.next_ns == expected_ns + PERIOD


def test_who_does_not_follow_advice_is_expected_when_it_comes() -> None:
    cadence = locked()
    for at_ns in regular(10, begin_ns=BEGIN + 30 * PERIOD):
        cadence.shift(PERIOD // 20)
        cadence.arrived(at_ns)
    assert off(cadence, BEGIN + 40 * PERIOD) < 0.2
