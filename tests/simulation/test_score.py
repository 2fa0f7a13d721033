"""The score: each figure, on records small enough to count by hand."""

from __future__ import annotations

import math

import pytest
from simulated_fleets import CHUNKS, MS, SECOND, fleet, kind
from support.serial import Serial

from appliance.errors import Outcome
from appliance.simulation import Arrival, Asked, Record, Span, score, simulate
from appliance.simulation.score import bound_hz, quantile

SPAN = Span(SECOND, 2 * SECOND)


def asked(
    client: str,
    at_ms: int,
    outcome: Outcome | None = Outcome.OK,
    *,
    took_ms: int = 10,
    model: str = "policy",
    tier: int = 1,
    dry: bool = False,
    counted: bool = True,
) -> Asked:
    """Captured at the beginning of the span and so much later, due in 20 ms."""
    captured_ns = SECOND + at_ms * MS
    arrival = Arrival(
        client,
        model,
        captured_ns,
        captured_ns,
        captured_ns + 20 * MS,
        tier=tier,
        dry=dry,
        counted=counted,
    )
    return Asked(arrival, None, outcome, captured_ns + took_ms * MS)


def record(*all_asked: Asked) -> Record:
    return Record(fleet(), 3 * SECOND, asked=list(all_asked))


def test_hits_are_ok_and_in_time_and_of_the_dry_at_all() -> None:
    found = score(
        record(
            asked("a", 0),
            asked("a", 1, took_ms=21),
            asked("a", 2, Outcome.SHED),
            asked("a", 3, took_ms=21, dry=True),
            asked("a", 4, None),
            asked("b", 5, tier=0),
            asked("b", 6, Outcome.EXPIRED, tier=0),
            asked("flood", 7, Outcome.SHED, counted=False),
            asked("a", -1),
            asked("a", 1000),
        ),
        SPAN,
    )
    assert found.requests == 7
    assert found.miss == pytest.approx(4 / 7)
    assert found.critical_miss == 0.5
    assert found.miss_of == {"a": pytest.approx(0.6), "b": 0.5}
    assert found.goodput_hz == 3
    assert found.useful_work == pytest.approx(3 * 0.00225)  # (5 + 4 * 1) / 4 ms each
    assert found.unanswered == 1
    assert (found.hit_p50_ns, found.hit_p99_ns) == (10 * MS, 21 * MS)
    assert math.isnan(found.decision_p50_ns)


def test_workers_are_busy_as_long_as_they_execute_within_the_span() -> None:
    of_two = Record(fleet(workers=2), 3 * SECOND)
    of_two.busy_ns += [
        (SECOND - 100 * MS, SECOND + 100 * MS),
        (SECOND + 500 * MS, SECOND + 700 * MS),
        (2 * SECOND - 300 * MS, 2 * SECOND + MS),
        (2 * SECOND, 2 * SECOND + MS),
    ]
    assert score(of_two, SPAN).utilisation == pytest.approx(0.6 / 2)


def test_the_worst_client_has_asked_often_enough() -> None:
    often = [asked("a", n, Outcome.OK if n % 5 else Outcome.SHED) for n in range(10)]
    seldom = [asked("b", n, Outcome.SHED) for n in range(4)]
    assert score(record(*often, *seldom), SPAN).worst_client == 0.8


def test_a_streak_is_one_clients_misses_on_end() -> None:
    missed, hit = Outcome.SUPERSEDED, Outcome.OK
    outcomes = [missed, missed, hit, missed, missed, missed, hit, missed]
    all_asked = [asked("a", n, outcome) for n, outcome in enumerate(outcomes)]
    between = [asked("b", n, missed if n < 2 else hit) for n in range(8)]
    ordered = sorted(all_asked + between, key=lambda each: each.arrival.arrived_ns)
    assert score(record(*ordered), SPAN).longest_streak == 3


def test_of_nothing_there_is_no_share() -> None:
    found = score(record(), SPAN)
    assert math.isnan(found.miss)
    assert math.isnan(found.worst_client)
    assert found.goodput_hz == found.bound_hz == 0


def test_the_bound_drops_the_most_expensive_first() -> None:
    # A row of a full batch: policy (5 + 4) / 4 = 2.25 ms, vision (1 + 4) / 4 = 1.25 ms.
    models = ["policy"] * 400 + ["vision"] * 400
    assert bound_hz(fleet(), models, SPAN) == pytest.approx(400 + (1000 - 500) / 2.25)
    assert bound_hz(fleet(workers=2), models, SPAN) == 800
    assert bound_hz(fleet(), ["vision"] * 900, SPAN) == pytest.approx(800)


def test_quantiles() -> None:
    assert quantile([1, 2, 3, 4], 0.5) == 3
    assert quantile([1, 2, 3, 4], 1.0) == 4
    assert math.isnan(quantile([], 0.5))


def test_dry_ticks_and_waits_are_those_of_the_span() -> None:
    robots = kind("chunked", rate_hz=5.0, budget_ns=None, chunks=CHUNKS)
    found = simulate(fleet(robots), Serial(), seed=1, horizon_ns=10 * SECOND)
    dryness = score(found, Span(0, 10 * SECOND)).dryness
    assert dryness is not None
    assert dryness.ticks_per_robot_hour == 0
    assert dryness.starts > 3
    assert dryness.start_wait_ns(0.0) == 8 * MS  # 1 ms there, 6 ms in the engine, 1 ms back
    assert dryness.start_wait_ns(1.0) < 8 * MS + 6 * MS  # the observation before may be running

    first_only = Serial(stops_after=1)
    starved = simulate(fleet(robots), first_only, seed=1, horizon_ns=2 * SECOND)
    stopped = score(starved, Span(SECOND // 2, SECOND // 2 + 200 * MS)).dryness
    assert stopped is not None
    assert stopped.ticks_per_robot_hour == 50 * 3600  # not one action in 200 ms

    slow = simulate(fleet(robots), Serial(wait_ns=310 * MS), seed=1, horizon_ns=10 * SECOND)
    late = score(slow, Span(0, 10 * SECOND)).dryness
    assert late is not None
    assert late.ticks_per_robot_hour > 0
    assert score(slow, Span(0, 300 * MS)).dryness.ticks_per_robot_hour == 0  # still beginning
