"""A user's own policy or strategy decides, within the scheduler's rules."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.simulation import MS
from support.strategies import BUILT_IN, ONE, ask, batches, by_policy, made, simulation_with, trace

from appliance.scheduling import Scheduler
from appliance.scheduling.choice import Choice, Contender
from appliance.scheduling.events import (
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
        PolicyRequest(
            client_id="arm",
            model_id="policy",
            tier=2,
            priority=3,
            urgency=0.5,
            steps_remaining=4,
            dry=False,
            firm=False,
            age_ms=0,
            time_to_deadline_ms=0,
            time_until_next_ms=None,
        )
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
        def choose(self, contenders: Sequence[Contender], _: int) -> Choice:
            newest = max(contenders[0].line, key=lambda request: request.id)
            return Choice(contenders[0].lane, [newest])

    asks = [ask("busy"), ask("a", at=2), ask("b", at=3), ask("c", at=4)]
    record = simulation_with(trace(*asks), made(Newest())).run()
    assert record.served() == ["busy", "c", "b", "a"]
