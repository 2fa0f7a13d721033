"""What each strategy promises, and that all of them leave the scheduler's rules as they are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulation import MS, Ask, Model, Record, Simulation, Trace, simulate
from support.strategies import BUILT_IN, made, served_by, simulation_with
from support.traces import random_trace
from test_scheduler_properties import (
    a_batch_is_of_one_lane_and_fits_its_worker,
    a_failed_batch_is_split_until_a_row_fails_alone,
    a_firm_request_hears_no_by_its_deadline,
    a_firm_request_is_never_started_late,
    a_row_fails_alone_as_often_as_configured,
    a_row_whose_worker_died_runs_alone_once_and_never_on_the_last,
    a_withdrawal_is_answered_at_once,
    an_ok_is_the_answer_of_the_row_that_ran,
    an_order_runs_one_at_a_time_and_in_order,
    every_request_gets_one_answer,
    nothing_is_left_behind,
    nothing_newer_is_superseded_by_something_older,
    only_a_firm_request_is_infeasible,
    the_queue_is_bounded,
)

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.events import (
    Answer,
    Arrived,
    BatchDone,
    Event,
    Go,
    Lane,
    ModelRef,
    Request,
    Stage,
    WorkerReady,
    WorkerRef,
)
from appliance.scheduling.guard import StrategyMaker
from appliance.scheduling.strategies import PolicyRequest, Said, load_strategy
from appliance.scheduling.strategies.scored import Policy, Scored

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
    a_withdrawal_is_answered_at_once,
    nothing_is_left_behind,
)
"""The scheduler's, whoever chooses. (That no worker is idle is not: some strategies wait.)"""

traces = st.builds(random_trace, st.integers(0, 1 << 32), st.integers(1, 40), faults=st.booleans())
FOUR = Model(name="policy", max_batch=4, base_ns=4 * MS, row_ns=MS)
ONE = Model(name="policy", row_ns=10 * MS)
VISION = Model(name="vision", max_batch=4, base_ns=4 * MS, row_ns=MS)
BOTH = (("cpu-0", ("policy", "vision")),)


def ask(session: str, at: float = 1.0, budget: float = 1000, **different: object) -> Ask:
    return Ask(at_ns=round(at * MS), session=session, budget_ns=round(budget * MS), **different)


def trace(*asks: Ask, models: tuple[Model, ...] = (FOUR,)) -> Trace:
    return Trace(models=models, slots=(("cpu-0", tuple(m.name for m in models)),), asks=asks)


def batches(record: Record) -> list[tuple[float, list[str]]]:
    """When each batch was started, milliseconds, and of whom."""
    return [
        (start.now_ns / MS, [request.session for request in start.batch.requests])
        for start in record.starts
    ]


def by_policy(policy: Policy, said: dict[str, Said] | None = None) -> StrategyMaker:
    def says(request: Request) -> Said:
        return (said or {}).get(request.client, Said())

    return StrategyMaker("policy", lambda streams: Scored(policy, streams, says))


def earliest_deadline(request: PolicyRequest) -> float:
    return -request.time_to_deadline_ms


# ------------------------------------------------------------------------------- the laws


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


@pytest.mark.parametrize(("parameters", "at_ms"), [({}, 11), ({"batch_wait_ms": 3}, 4)])
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
    assert max(b - a for a, b in zip(started_ms, started_ms[1:], strict=False)) <= 16


# ------------------------------------------------------------------------ priority_tiered


def test_tiers_are_strict_and_within_a_tier_the_deadline_counts() -> None:
    asks = [
        ask("busy", at=1),
        ask("third", at=2, budget=20, tier=2),
        ask("second b", at=2, budget=900, tier=1),
        ask("second a", at=2, budget=800, tier=1),
        ask("first", at=2, tier=0),
        ask("dry", at=2, budget=0, tier=1, dry=True),
    ]
    record = served_by(trace(*asks, models=(ONE,)), "priority_tiered")
    assert record.served() == ["busy", "first", "dry", "second a", "second b", "third"]


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


# --------------------------------------------------------------------------------- policies


def test_the_higher_score_runs_first_and_others_of_its_lane_ride_in_order() -> None:
    said = {f"robot {n}": Said(urgency=n / 10) for n in range(6)}
    asks = [ask("busy"), *(ask(f"robot {n}", at=2) for n in range(6))]
    record = simulation_with(trace(*asks), by_policy(lambda r: r.urgency, said)).run()
    assert [sessions for _, sessions in batches(record)] == [
        ["busy"],
        ["robot 5", "robot 4", "robot 3", "robot 2"],
        ["robot 1", "robot 0"],
    ]


def test_a_policy_is_asked_anew_at_each_decision_and_knows_when_it_is() -> None:
    seen: list[PolicyRequest] = []

    def policy(request: PolicyRequest) -> float:
        seen.append(request)
        return 0.0

    asks = [
        *(ask("arm", at=1 + 20 * n, budget=50, tier=2, priority=3) for n in range(9)),
        ask("busy", at=162),
        ask("arm", at=165, budget=50, tier=2, priority=3),
    ]
    said = {"arm": Said(0.5, 4)}
    world = simulation_with(trace(*asks, models=(ONE,)), by_policy(policy, said))
    world.run()
    last = seen[-1]
    assert last.client_id == "arm"
    assert last._replace(age_ms=0, time_to_deadline_ms=0, time_until_next_ms=None) == (
        PolicyRequest("arm", "policy", 2, 3, 0.5, 4, False, False, 0, 0, None)
    )
    start = world.record.starts[-1]
    assert last.age_ms == pytest.approx(start.now_ns / MS - 165, abs=0.6)
    assert last.age_ms + last.time_to_deadline_ms == pytest.approx(50)
    assert {view.time_until_next_ms is None for view in seen} == {True, False}
    rhythm = [view for view in seen if view.client_id == "arm"][4]
    assert rhythm.age_ms + (rhythm.time_until_next_ms or 0) == pytest.approx(20, abs=1)


def test_a_policy_that_favours_the_dry_does_not_let_one_go_first_for_ever() -> None:
    """Whoever says that he is dry all the time has one turn in a round, whatever it scores."""
    dry = [ask("claims", at=1 + n / 10, dry=True, keep_latest=False) for n in range(20)]
    asks = [ask(f"robot {n}", at=1) for n in range(4)]
    maker = by_policy(lambda request: float(request.dry))
    record = simulation_with(trace(*dry, *asks, models=(ONE,)), maker).run()
    assert record.served()[:8].count("claims") <= 4


@pytest.mark.parametrize(
    "maker",
    [
        *(load_strategy(name, {}) for name in BUILT_IN[1:]),
        by_policy(lambda request: request.client_id == "flood"),
    ],
    ids=lambda maker: maker.name,
)
def test_who_sends_more_than_he_said_runs_where_nobody_else_would(maker: StrategyMaker) -> None:
    worker, model = WorkerRef("cpu-0", 1), ModelRef("policy", "1")
    scheduler = Scheduler()
    scheduler.use_strategy(maker)
    requests = [
        Request(
            id=number + 1,
            session=number,
            client="flood" if number < 8 else f"robot {number}",
            lane=Lane(model),
            arrived_ns=0,
            deadline_ns=1000 * MS,
            expires_ns=5000 * MS,
            period_ns=1000 * MS,
            firm=True,
        )
        for number in range(11)
    ]
    ready = WorkerReady(worker, {model: {1: MS}}, {model: 1})
    now_ns, events = 0, list[Event]([*map(Arrived, requests), ready])
    started: list[Request] = []
    while len(started) < len(requests):
        decision = scheduler.handle(events, now_ns)
        effects = decision.effects
        batch = next(
            (e.batch for e in effects if isinstance(e, Go) or (isinstance(e, Stage) and e.go)), None
        )
        if batch is None:
            assert decision.next_wakeup_ns is not None
            now_ns, events = decision.next_wakeup_ns, []
            continue
        started += batch.requests
        now_ns += MS
        events = [BatchDone(worker, batch.id, MS)]
    assert scheduler.fault is None
    assert [request.background for request in started] == [False] * 6 + [True] * 5


def test_a_strategy_class_of_a_user_decides() -> None:
    class Newest:
        def choose(self, contenders, start_ns):
            from appliance.scheduling.choice import Choice

            newest = max(contenders[0].line, key=lambda request: request.id)
            return Choice(contenders[0].lane, [newest])

    asks = [ask("busy"), ask("a", at=2), ask("b", at=3), ask("c", at=4)]
    record = simulation_with(trace(*asks), made(Newest())).run()
    assert record.served() == ["busy", "c", "b", "a"]
