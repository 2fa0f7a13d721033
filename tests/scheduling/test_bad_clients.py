"""One odd client, or wrong knowledge: nobody starves, and the others keep their figures.

The same observations of a fleet at 80 % load are served with and without the odd one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import pytest
from attrs import evolve
from support.fleets import (
    ARM,
    BASE,
    CAMERA,
    CRITICAL,
    MS,
    POLICY,
    SECOND,
    VISION,
    Skewed,
    busy_fleet,
)

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.simulation import Arrival, Asked, Engine, replay, simulate

HORIZON_NS = 8 * SECOND
SETTLED_NS = 2 * SECOND
HOUR_NS = 3600 * SECOND
WORSE, WORSE_TIER_0 = 0.002, 0.005
"""So many more of the others' observations may miss, as a part of them; of tier 0 there are few."""

BUSY = tuple(
    evolve(kind, count=count)
    for kind, count in ((ARM, 24), (BASE, 15), (CAMERA, 14), (CRITICAL, 6))
)
"""59 robots: 0.8 of what one device can do with batches of eight."""


@cache
def crowd(*, in_phase: bool = False) -> tuple[Arrival, ...]:
    """Return what the robots of the fleet ask, whoever serves them."""
    robots = tuple(evolve(kind, in_phase=in_phase) for kind in BUSY)
    record = simulate(busy_fleet(robots=robots), Scheduler(), seed=3, horizon_ns=HORIZON_NS)
    return tuple(each.arrival for each in record.asked)


def served(*arrivals: Arrival, engine: Engine = POLICY) -> list[Asked]:
    asked = replay(arrivals, busy_fleet(engine), Scheduler(), seed=3).asked
    assert all(each.outcome is not None for each in asked)
    return asked


def miss(asked: list[Asked], *, tier: int | None = None, from_ns: int = SETTLED_NS) -> float:
    """Return which part of the crowd's observations was not answered in time."""
    hits = [
        each.hit
        for each in asked
        if each.arrival.client != "odd"
        and each.arrival.arrived_ns >= from_ns
        and tier in (None, each.arrival.tier)
    ]
    return 1 - sum(hits) / len(hits)


@cache
def usual_miss(tier: int | None = None) -> float:
    return miss(served(*crowd()), tier=tier)


def odd(
    at_ns: Iterator[int] | range, budget_ns: int = 100 * MS, **different: Any
) -> tuple[Arrival, ...]:
    """Return what the odd client asks at these times."""
    return tuple(
        Arrival(
            **{
                "client": "odd",
                "model": "policy",
                "captured_ns": each,
                "arrived_ns": each,
                "deadline_ns": each + budget_ns,
                "period_ns": 100 * MS,
                **different,
            }
        )
        for each in at_ns
    )


def every(period_ns: int) -> range:
    return range(SECOND, HORIZON_NS, period_ns)


def restless() -> Iterator[int]:
    """Another rate each second."""
    random, now_ns = Random(1), SECOND
    while now_ns < HORIZON_NS:
        period_ns = random.choice((20, 33, 50, 100, 333)) * MS
        for _ in range(SECOND // period_ns):
            yield now_ns
            now_ns += period_ns


def bursts() -> Iterator[int]:
    """400 Hz for half of each second."""
    return (
        at_ns + step * 5 * MS // 2
        for at_ns in range(SECOND, HORIZON_NS, SECOND)
        for step in range(200)
    )


ODD: dict[str, Callable[[], tuple[Arrival, ...]]] = {
    "deadlines that were over an hour ago": lambda: odd(every(50 * MS), -HOUR_NS, firm=False),
    "deadlines that can hardly be met": lambda: odd(every(20 * MS), 8 * MS, period_ns=20 * MS),
    "deadlines an hour away": lambda: odd(every(50 * MS), HOUR_NS),
    "deadlines an hour away, soft": lambda: odd(every(50 * MS), HOUR_NS, firm=False),
    "no period": lambda: odd(every(100 * MS), period_ns=0),
    "a period of a nanosecond": lambda: odd(every(100 * MS), period_ns=1),
    "a period of a day": lambda: odd(every(100 * MS), period_ns=24 * HOUR_NS),
    "a flood, 10 Hz are declared": lambda: odd(bursts()),
    "a flood, nothing is declared": lambda: odd(bursts(), period_ns=0),
    "a flood, soft": lambda: odd(bursts(), firm=False),
    "a flood, all of which is wanted": lambda: odd(every(20 * MS), keep_latest=False, firm=False),
    "another rate each second": lambda: odd(restless()),
    "another rate each second, undeclared": lambda: odd(restless(), period_ns=0),
    "another rate each second, tier 0": lambda: odd(restless(), period_ns=0, tier=0),
    "always dry": lambda: odd(every(100 * MS), 0, dry=True, firm=False),
    "always dry, at 100 Hz": lambda: odd(every(10 * MS), 0, dry=True, firm=False),
}


@cache
def with_odd(name: str) -> list[Asked]:
    return served(*crowd(), *ODD[name]())


@pytest.mark.parametrize("name", ODD)
def test_an_odd_client_costs_the_others_nothing(name: str) -> None:
    asked = with_odd(name)
    assert miss(asked) <= usual_miss() + WORSE
    assert miss(asked, tier=0) <= usual_miss(0) + WORSE_TIER_0


@pytest.mark.parametrize("name", [each for each in ODD if "hardly" not in each])
def test_an_odd_client_is_not_starved(name: str) -> None:
    outcomes = [each.outcome for each in with_odd(name) if each.arrival.client == "odd"]
    wanted = [each for each in outcomes if each is not Outcome.SUPERSEDED]
    assert len(wanted) >= 70  # 10 Hz
    assert wanted.count(Outcome.OK) >= 0.95 * len(wanted)


@pytest.mark.parametrize("budget_ns", [-HOUR_NS, -MS, 0, MS])
def test_who_cannot_be_in_time_hears_so_at_once(budget_ns: int) -> None:
    asked = served(*odd(every(50 * MS), budget_ns))
    assert {each.outcome for each in asked} <= {Outcome.INFEASIBLE, Outcome.SHED}
    assert all(each.answered_ns == each.arrival.arrived_ns for each in asked)


def test_a_soft_fleet_that_is_too_large_is_not_late_altogether() -> None:
    robots = tuple(evolve(kind, firm=False, count=2 * kind.count) for kind in BUSY)
    record = simulate(busy_fleet(robots=robots), Scheduler(), seed=3, horizon_ns=HORIZON_NS)
    settled = [each for each in record.asked if each.arrival.arrived_ns >= SETTLED_NS]
    assert sum(each.hit for each in settled) > 0.6 * len(settled)
    served: dict[str, int] = defaultdict(int)
    for each in settled:
        served[each.arrival.client] += each.outcome is Outcome.OK
    assert len(served) == sum(kind.count for kind in robots)
    assert min(served.values()) > 0


def test_nobody_starves_where_all_come_in_phase() -> None:
    hits: dict[str, list[bool]] = defaultdict(list)
    for each in served(*crowd(in_phase=True)):
        if each.arrival.arrived_ns >= SETTLED_NS:
            hits[each.arrival.client].append(each.hit)
    assert len(hits) == sum(kind.count for kind in BUSY)
    assert min(sum(each) / len(each) for each in hits.values()) >= 0.9


# ------------------------------------------------------------------------- wrong knowledge


@pytest.mark.parametrize("engine", [POLICY, VISION], ids=["policy", "vision"])
@pytest.mark.parametrize("wrong", [3.0, 1 / 3])
def test_a_warm_up_that_was_wrong_is_forgotten_within_seconds(engine: Engine, wrong: float) -> None:
    asked = served(*crowd(), engine=Skewed(engine, measured=wrong))
    assert miss(asked) <= usual_miss() + WORSE
    assert miss(asked, tier=0) <= usual_miss(0) + WORSE_TIER_0


def test_a_warm_up_that_was_wrong_does_not_refuse_everybody_for_ever() -> None:
    arrivals = odd(every(50 * MS), 15 * MS)  # it takes 7, and is thought to take 20
    asked = served(*arrivals, engine=Skewed(POLICY, measured=3.0))
    assert any(each.outcome is Outcome.OK for each in asked)
