"""What each strategy promises, and that all of them leave the scheduler's rules as they are."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulation import MS, Model, Simulation, Trace, simulate
from support.strategies import (
    BUILT_IN,
    FOUR,
    ONE,
    VISION,
    ask,
    batches,
    by_policy,
    served_by,
    simulation_with,
    trace,
)
from support.traces import random_trace
from test_scheduler_properties import (
    a_batch_is_of_one_lane_and_fits_its_worker,
    a_failed_batch_is_split_until_a_row_fails_alone,
    a_firm_request_hears_no_by_its_deadline,
    a_firm_request_is_never_started_late,
    a_row_fails_alone_as_often_as_configured,
    a_row_whose_worker_died_runs_alone_once_and_never_on_the_last,
    a_withdrawal_is_answered_at_once,
    a_worker_that_has_a_successor_goes_when_nobody_needs_it,
    an_ok_is_the_answer_of_the_row_that_ran,
    an_order_runs_one_at_a_time_and_in_order,
    every_request_gets_one_answer,
    nothing_is_left_behind,
    nothing_newer_is_superseded_by_something_older,
    only_a_firm_request_is_infeasible,
    the_queue_is_bounded,
)

from appliance.errors import Outcome
from appliance.scheduling.events import (
    Answer,
)
from appliance.scheduling.guard import StrategyMaker
from appliance.scheduling.strategies import PolicyRequest, load_strategy

LAWS = (
    every_request_gets_one_answer,
    an_ok_is_the_answer_of_the_row_that_ran,
    a_firm_request_is_never_started_late,
    a_firm_request_hears_no_by_its_deadline,
    only_a_firm_request_is_infeasible,
    nothing_newer_is_superseded_by_something_older,
    an_order_runs_one_at_a_time_and_in_order,
    a_batch_is_of_one_lane_and_fits_its_worker,
    the_queue_is_bounded,
    a_row_whose_worker_died_runs_alone_once_and_never_on_the_last,
    a_failed_batch_is_split_until_a_row_fails_alone,
    a_row_fails_alone_as_often_as_configured,
    a_worker_that_has_a_successor_goes_when_nobody_needs_it,
    a_withdrawal_is_answered_at_once,
    nothing_is_left_behind,
)
"""The scheduler's, whoever chooses. (That no worker is idle is not: some strategies wait.)"""

traces = st.builds(random_trace, st.integers(0, 1 << 32), st.integers(1, 40), faults=st.booleans())
# ------------------------------------------------------------------------------- the laws


def earliest_deadline(request: PolicyRequest) -> float:
    return -request.time_to_deadline_ms


def makers() -> list[StrategyMaker | None]:
    return [
        *(load_strategy(name, {}) for name in BUILT_IN),
        by_policy(earliest_deadline),
        by_policy(lambda request: request.age_ms),
    ]


@settings(max_examples=100)
@given(traces)
def test_the_laws_hold_whoever_chooses(trace: Trace) -> None:
    for maker in makers():
        world = simulation_with(trace, maker)
        record = world.run()
        assert world.scheduler.fault is None
        for law in LAWS:
            law(record)


@settings(max_examples=100)
@given(traces, st.lists(st.tuples(st.integers(0, 90), st.integers(0, 5)), max_size=6))
def test_switching_in_the_middle_loses_nothing(
    trace: Trace, switches: list[tuple[int, int]]
) -> None:
    choices = makers()
    world = simulation_with(trace, None)
    for at_ms, index in switches:
        world.at(at_ms * MS, lambda index=index: world.scheduler.use_strategy(choices[index]))
    record = world.run()
    assert world.scheduler.fault is None
    for law in LAWS:
        law(record)


@settings(max_examples=20)
@given(traces)
def test_the_default_by_name_is_the_default(trace: Trace) -> None:
    assert served_by(trace, "deadline_aware").log() == simulate(trace).log()


def test_what_one_strategy_lets_wait_the_next_one_starts_at_once() -> None:
    maker = load_strategy("batch_optimized", {"batch_wait_ms": 500})
    world = simulation_with(trace(ask("a", at=1)), maker)
    world.at(20 * MS, lambda: world.scheduler.use_strategy(None))
    assert batches(world.run()) == [(20, ["a"])]


# ------------------------------------------------------------------------ batch_optimized


def test_a_batch_is_started_when_it_is_full() -> None:
    asks = [ask(f"robot {n}", at=1 + 2 * n) for n in range(4)]
    assert batches(served_by(trace(*asks), "batch_optimized")) == [
        (7, [f"robot {n}" for n in range(4)])
    ]


@pytest.mark.parametrize(
    ("parameters", "at_ms"), [({}, 11), ({"batch_wait_ms": 3}, 4), ({"batch_wait_ms": 500}, 501)]
)
def test_a_batch_is_started_when_its_oldest_has_waited_enough(
    parameters: dict[str, float], at_ms: int
) -> None:
    asks = [ask("a", at=1), ask("b", at=3)]
    record = served_by(trace(*asks), "batch_optimized", **parameters)
    assert batches(record) == [(at_ms, ["a", "b"])]


def test_no_more_than_max_batch_size_run_together() -> None:
    asks = [ask(f"robot {n}") for n in range(5)]
    record = served_by(trace(*asks), "batch_optimized", max_batch_size=2)
    assert [len(sessions) for _, sessions in batches(record)] == [2, 2, 1]


def test_waiting_for_others_costs_nobody_his_deadline() -> None:
    record = served_by(trace(ask("a", at=1, budget=8, firm=True)), "batch_optimized")
    ((started_ms, _),) = batches(record)
    assert 1 < started_ms < 4
    assert record.outcomes() == {1: Outcome.OK}


def test_a_robot_that_has_run_dry_is_not_kept_waiting() -> None:
    record = served_by(trace(ask("a", at=1), ask("dry", at=2, dry=True)), "batch_optimized")
    assert batches(record) == [(2, ["dry", "a"])]


@pytest.mark.parametrize("firm", [False, True])
def test_who_replaces_his_observation_again_and_again_is_served(*, firm: bool) -> None:
    asks = [ask("fast", at=1 + 3 * n, budget=60, firm=firm) for n in range(40)]
    record = served_by(trace(*asks), "batch_optimized")
    started_ms = [at_ms for at_ms, _ in batches(record)]
    assert len(started_ms) >= 7
    assert max(b - a for a, b in pairwise(started_ms)) <= 16


# ------------------------------------------------------------------------ priority_tiered


def test_tiers_are_strict_and_within_a_tier_the_deadline_counts() -> None:
    asks = [
        ask("busy", at=1),
        ask("third", at=2, budget=20, tier=2),
        ask("second b", at=2, budget=900, tier=1),
        ask("second a", at=2, budget=800, tier=1),
        ask("first", at=2, tier=0),
        ask("dry", at=2, budget=0, tier=1, dry=True, keep_latest=False),
        ask("dry", at=2, budget=0, tier=1, dry=True, keep_latest=False),
    ]
    record = served_by(trace(*asks, models=(ONE,)), "priority_tiered")
    assert record.served() == ["busy", "first", "dry", "second a", "second b", "dry", "third"]


def test_tiers_from_the_last_one_on_are_one() -> None:
    asks = [ask("busy"), ask("a", at=2, tier=5, budget=500), ask("b", at=2, tier=3)]
    one = trace(*asks, models=(ONE,))
    assert served_by(one, "priority_tiered").served() == ["busy", "b", "a"]
    assert served_by(one, "priority_tiered", num_tiers=3).served() == ["busy", "a", "b"]


@pytest.mark.parametrize(
    ("elsewhere", "together"), [(1, ["lead"]), (2, ["lead", "rider"]), (3, ["lead", "rider"])]
)
def test_nobody_rides_before_a_better_tier_of_another_lane(
    elsewhere: int, together: list[str]
) -> None:
    asks = [
        ask("busy"),
        ask("lead", at=2, tier=0),
        ask("rider", at=2, tier=2),
        ask("other", at=2, tier=elsewhere, model="vision"),
    ]
    record = served_by(trace(*asks, models=(FOUR, VISION)), "priority_tiered")
    assert batches(record)[1][1] == together


@pytest.mark.parametrize("name", BUILT_IN[1:])
@pytest.mark.parametrize("firm", [False, True])
def test_nobody_who_would_be_in_time_is_made_late_by_who_rides(name: str, *, firm: bool) -> None:
    asks = [ask("busy"), ask("tight", at=2, budget=10, firm=firm)]
    asks += [ask(f"robot {n}", at=2, budget=100) for n in range(3)]
    record = served_by(trace(*asks), name, **({"batch_wait_ms": 0} if "batch" in name else {}))
    (answer,) = [answer for _, answer in record.answers if answer.request.session == "tight"]
    assert (answer.outcome, answer.late) == (Outcome.OK, False)
    assert batches(record)[1] == (6, ["tight"])


# ---------------------------------------------------------------------------- round_robin


def test_robots_that_ask_as_soon_as_they_are_answered_are_served_alike() -> None:
    counts: Counter[str] = Counter()

    def again(world: Simulation, answer: Answer) -> None:
        counts[answer.request.session] += 1
        if world.now_ns < 20_000 * MS:
            world.ask(ask(answer.request.session, at=world.now_ns / MS + 0.1))

    asks = [ask(f"robot {n}", at=1) for n in range(8)]
    slow = trace(*asks, models=(Model(name="policy", row_ns=50 * MS),))
    simulation_with(slow, load_strategy("round_robin", {}), on_answer=again).run()
    assert len(counts) == 8
    assert max(counts.values()) - min(counts.values()) <= 1
    assert min(counts.values()) >= 49


def test_a_backlog_has_one_turn_in_a_round() -> None:
    backlog = [ask("flood", at=1 + n / 100, keep_latest=False) for n in range(20)]
    others = [ask(f"robot {n}", at=2, budget=5, tier=9) for n in range(3)]
    record = served_by(trace(*backlog, *others, models=(ONE,)), "round_robin")
    assert record.served()[:5] == ["flood", "flood", "robot 0", "robot 1", "robot 2"]


def test_a_backlog_does_not_fill_a_batch_that_others_wait_for() -> None:
    backlog = [ask("flood", at=2, keep_latest=False) for _ in range(5)]
    robots = [ask(f"robot {n}", at=2) for n in range(2)]
    record = served_by(trace(ask("busy"), *backlog, *robots), "round_robin")
    assert [sessions for _, sessions in batches(record)] == [
        ["busy"],
        ["flood", "robot 0", "robot 1", "flood"],
        ["flood"] * 3,
    ]


def test_those_of_the_lane_whose_turn_is_near_ride() -> None:
    asks = [
        ask("busy", at=1),
        *(ask(f"arm {n}", at=2 + n / 10) for n in range(3)),
        *(ask(f"eye {n}", at=2.05 + n / 10, model="vision") for n in range(5)),
        ask("arm 3", at=2.9),
    ]
    record = served_by(trace(*asks, models=(FOUR, VISION)), "round_robin")
    assert [sessions for _, sessions in batches(record)] == [
        ["busy"],
        ["arm 0", "arm 1"],  # the first four in turn: arm 0, eye 0, arm 1, eye 1
        ["eye 0", "eye 1", "eye 2"],
        ["arm 2", "arm 3"],
        ["eye 3", "eye 4"],
    ]
