"""By how much a robot is advised to come later: little at once, and nothing in the sum."""

from __future__ import annotations

from random import Random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import ARM, BASE, CAMERA, CRITICAL, MS, SECOND, Watched, busy_fleet

from appliance.scheduling import Scheduler
from appliance.scheduling.advice import CONFIDENCE, SMALLEST_NS, PhaseAdvice
from appliance.scheduling.cadence import Cadence
from appliance.scheduling.events import Answer, ModelRef
from appliance.scheduling.streams import Stream
from appliance.simulation import simulate

PERIOD = 100 * MS
LARGEST = 0.08
"""Of the period, at once: what is promised."""


def stream(period_ns: int = PERIOD, arrivals: int = 2 * CONFIDENCE) -> Stream:
    one = Stream(1, ModelRef("policy", "1"), Cadence(period_ns), 0.0)
    for number in range(arrivals):
        one.cadence.arrived(number * period_ns)
    return one


def after(advice: PhaseAdvice, one: Stream, wait_ns: int) -> int:
    advice.started(one, wait_ns)
    return advice.of(one)


@given(
    st.integers(MS, 10 * SECOND),
    st.lists(st.integers(0, 10 * SECOND), min_size=1, max_size=50),
    st.integers(-(10**12), 10**12),
)
def test_no_step_is_larger_than_a_small_part_of_the_period(
    period_ns: int, waits_ns: list[int], advised_ns: int
) -> None:
    advice, one = PhaseAdvice(), stream(period_ns)
    one.advised_ns = advised_ns
    for wait_ns in waits_ns:
        assert abs(after(advice, one, wait_ns)) <= LARGEST * one.cadence.period_ns


def test_who_waited_longer_than_the_others_had_better_come_later() -> None:
    assert after(PhaseAdvice(), stream(), 20 * MS) > 0


def test_who_waited_less_than_the_others_had_better_come_earlier() -> None:
    assert after(PhaseAdvice(), stream(), 0) < 0


def test_who_waited_about_as_long_as_the_others_is_left_alone() -> None:
    advice = PhaseAdvice()
    assert after(advice, stream(), round(advice.mean_wait_ns) + SMALLEST_NS // 2) == 0


@pytest.mark.parametrize("arrivals", [0, 1, CONFIDENCE])
def test_who_has_no_rhythm_is_not_advised(arrivals: int) -> None:
    assert after(PhaseAdvice(), stream(arrivals=arrivals), 20 * MS) == 0


def test_who_never_waited_is_not_advised() -> None:
    assert PhaseAdvice().of(stream()) == 0


def test_nobody_is_advised_away_for_ever() -> None:
    advice, one = PhaseAdvice(), stream()
    advice.mean_wait_ns = 0
    later = []
    for _ in range(3000):
        one.wait_ns = 5 * MS
        later.append(advice.of(one))
        one.advised_ns += later[-1]
    assert later[0] > 0
    assert sum(later) < 5 * PERIOD
    assert later[-1] == 0


def test_in_one_mean_all_advice_sums_to_nothing() -> None:
    random, advice = Random(1), PhaseAdvice()
    fleet = [stream() for _ in range(50)]
    given_ns: list[int] = []
    for turn in range(400):
        for one in fleet:
            step_ns = after(advice, one, round(random.uniform(0, 20) * MS))
            if turn >= 50:  # the mean is learnt
                given_ns.append(step_ns)
    assert abs(sum(given_ns)) < 0.03 * sum(abs(each) for each in given_ns)


@pytest.mark.parametrize("obedience", [0.0, 0.5, 1.0])
def test_a_fleet_as_a_whole_is_not_advised_to_slow_down(obedience: float) -> None:
    kinds = (ARM, BASE, CAMERA, CRITICAL)
    robots = tuple(evolve(kind, obedience=obedience, count=2 * kind.count) for kind in kinds)
    watched = Watched(Scheduler(), lambda _: None)
    simulate(busy_fleet(robots=robots), watched, seed=1, horizon_ns=8 * SECOND)
    periods_ns = {kind.name: kind.period_ns for kind in kinds}
    given = [
        (effect.advice_ns, periods_ns[effect.request.client.split("-")[0]])
        for now_ns, decision in watched.decisions
        for effect in decision.effects
        if now_ns > 4 * SECOND and isinstance(effect, Answer) and effect.batch is not None
    ]
    advised_ns = [advice_ns for advice_ns, _ in given]
    assert any(advised_ns)
    assert all(abs(each) <= 1.05 * LARGEST * period for each, period in given)  # it is learnt
    assert abs(sum(advised_ns)) < 0.1 * sum(abs(each) for each in advised_ns)
    assert abs(sum(advised_ns)) < 0.002 * sum(period for _, period in given)
