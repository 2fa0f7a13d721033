"""More models than a worker's memory: what is loaded when, and who hears that he is too late."""

from __future__ import annotations

from collections import Counter

import pytest
from attrs import evolve
from support.fleets import ARM, CAMERA, CRITICAL, MS, POLICY, SECOND, VISION, Books, busy_fleet

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.events import (
    Answer,
    Arrived,
    BatchDone,
    Lane,
    ModelRef,
    Request,
    Stage,
    WorkerMemory,
    WorkerReady,
    WorkerRef,
)
from appliance.simulation import Fleet, Footprint, Record, RobotClass, simulate

W = WorkerRef("w", 1)
A, B = ModelRef("a", "1"), ModelRef("b", "1")
RUN_NS, LOAD_NS = 10 * MS, 100 * MS
NEAR, FAR = 50 * MS, 400 * MS
"""Deadlines: shorter than a load, and much longer."""


def up(*resident: ModelRef, budget_bytes: int = 15) -> Scheduler:
    """Return a scheduler of one worker with two models of 10 bytes."""
    scheduler = Scheduler()
    memory = WorkerMemory(budget_bytes, {A: 10, B: 10}, {A: LOAD_NS, B: LOAD_NS}, resident)
    times_ns = {model: {1: RUN_NS} for model in (A, B)}
    scheduler.handle([WorkerReady(W, times_ns, {A: 1, B: 1}, memory)], 0)
    return scheduler


def request(number: int, model: ModelRef, now_ns: int, budget_ns: int = FAR) -> Request:
    return Request(
        id=number,
        session=number,
        client=str(number),
        lane=Lane(model),
        arrived_ns=now_ns,
        deadline_ns=now_ns + budget_ns,
        expires_ns=now_ns + 5 * SECOND,
        firm=True,
    )


def staged(scheduler: Scheduler, asked: Request, now_ns: int) -> Stage | None:
    """Return the batch that is staged as a request comes."""
    effects = scheduler.handle([Arrived(asked)], now_ns).effects
    return next((effect for effect in effects if isinstance(effect, Stage)), None)


def done(stage: Stage, now_ns: int, load_ns: int = 0, *resident: ModelRef) -> BatchDone:
    return BatchDone(
        W, stage.batch.id, RUN_NS, finished_ns=now_ns, load_ns=load_ns, resident=resident
    )


def test_a_load_is_planned_for_and_not_learnt_as_the_models_own_time() -> None:
    scheduler, now_ns = up(A), 0
    planned_ns = scheduler.planned_ns(B, 1)
    for number, model in enumerate((A, B, B, A, A, B)):
        stage = staged(scheduler, request(number, model, now_ns), now_ns)
        assert stage is not None
        loads = number in (1, 3, 5)
        assert stage.go
        assert (stage.batch.expected_ns > LOAD_NS) == loads
        now_ns += RUN_NS + loads * LOAD_NS
        event = done(stage, now_ns, LOAD_NS, model) if loads else done(stage, now_ns)
        scheduler.handle([event], now_ns)
    assert scheduler.planned_ns(B, 1) <= planned_ns


def test_a_batch_whose_model_is_loaded_is_never_staged_ahead() -> None:
    scheduler = up(A)
    first = staged(scheduler, request(1, A, 0), 0)
    assert first is not None
    assert staged(scheduler, request(2, B, 0), 0) is None
    decision = scheduler.handle([], RUN_NS - 1)  # well within the lead
    assert decision.effects == []
    effects = scheduler.handle([done(first, RUN_NS)], RUN_NS).effects
    (second,) = [effect for effect in effects if isinstance(effect, Stage)]
    assert (second.batch.lane.model, second.go) == (B, True)
    # A is gone by then; what comes for it now waits until B is done, too.
    assert staged(scheduler, request(3, A, RUN_NS), RUN_NS) is None
    assert scheduler.handle([], RUN_NS + LOAD_NS + RUN_NS - 1).effects == []


def test_a_batch_of_a_model_that_is_there_is_staged_ahead_of_one_that_loads() -> None:
    scheduler = up(A, B, budget_bytes=20)
    stage = staged(scheduler, request(1, A, 0), 0)
    assert stage is not None
    scheduler.handle([Arrived(request(2, B, 0))], 0)
    effects = scheduler.handle([], RUN_NS - MS // 2).effects
    assert [type(effect) for effect in effects] == [Stage]


def test_who_could_only_be_late_for_the_load_hears_so_at_once_after_one_that_tries() -> None:
    scheduler = up(A)
    now_ns = 10 * SECOND
    probe = staged(scheduler, request(1, B, now_ns, NEAR), now_ns)
    assert probe is not None  # nothing of it has run yet: late, but it comes into memory
    now_ns += LOAD_NS + RUN_NS
    effects = scheduler.handle([done(probe, now_ns, LOAD_NS, B)], now_ns).effects
    (answer,) = [effect for effect in effects if isinstance(effect, Answer)]
    assert (answer.outcome, answer.late) == (Outcome.OK, True)
    stage = staged(scheduler, request(2, B, now_ns, NEAR), now_ns)
    assert stage is not None  # in time from now on
    scheduler.handle([done(stage, now_ns + RUN_NS)], now_ns + RUN_NS)
    now_ns += RUN_NS
    evicts = staged(scheduler, request(3, A, now_ns), now_ns)
    assert evicts is not None
    now_ns += LOAD_NS + RUN_NS
    scheduler.handle([done(evicts, now_ns, LOAD_NS, A)], now_ns)
    effects = scheduler.handle([Arrived(request(4, B, now_ns, NEAR))], now_ns).effects
    (answer,) = [effect for effect in effects if isinstance(effect, Answer)]
    assert answer.outcome is Outcome.INFEASIBLE


def test_what_the_worker_says_counts_more_than_what_was_foreseen() -> None:
    scheduler = up(A)
    stage = staged(scheduler, request(1, B, 0), 0)
    assert stage is not None
    failed = {0: (Outcome.ENGINE_FAILED, "it could not be loaded")}
    event = BatchDone(W, stage.batch.id, 0, failed, finished_ns=MS, load_ns=MS, resident=(A,))
    effects = scheduler.handle([event], MS).effects
    (answer,) = [effect for effect in effects if isinstance(effect, Answer)]
    assert answer.outcome is Outcome.ENGINE_FAILED
    stage = staged(scheduler, request(2, A, MS), MS)
    assert stage is not None
    assert stage.batch.expected_ns < LOAD_NS  # it did not leave


# ------------------------------------------------------------------------------------ simulated


def tight(robots: tuple[RobotClass, ...], load_ns: int, workers: int = 1) -> Fleet:
    """Return a fleet whose workers have memory for one of their two models."""
    fleet = busy_fleet(robots=robots, workers=workers)
    return evolve(
        fleet,
        workers=tuple(evolve(worker, budget_bytes=15) for worker in fleet.workers),
        footprints={each.name: Footprint(10, load_ns) for each in (POLICY, VISION)},
    )


ARMS = evolve(ARM, budget_ns=150 * MS, count=4)
CAMERAS = evolve(CAMERA, rate_hz=10, budget_ns=90 * MS, count=4)


def served(fleet: Fleet, seed: int, horizon_ns: int = 5 * SECOND) -> Record:
    books = Books(Scheduler(), [no_firm_batch_is_started_to_be_late])
    return simulate(fleet, books, seed=seed, horizon_ns=horizon_ns)


def no_firm_batch_is_started_to_be_late(books: Books) -> None:
    for batch in books.started:
        finish_ns = books.now_ns + batch.expected_ns
        for each in batch.requests:
            assert not each.firm or finish_ns <= each.deadline_ns or batch.committed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_deadlines_leave_time_to_load_everybody_is_answered_in_time(seed: int) -> None:
    record = served(tight((ARMS, CAMERAS), 20 * MS), seed)
    assert Counter(asked.outcome for asked in record.asked).keys() == {Outcome.OK}
    assert all(asked.hit for asked in record.asked)
    assert record.loads > 50


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("load_ms", [60, 200, 1000])
def test_where_they_do_not_models_take_turns_and_each_ends_once(seed: int, load_ms: int) -> None:
    fleet = tight((ARMS, CAMERAS), load_ms * MS)
    horizon_ns = max(5 * SECOND, 20 * load_ms * MS)
    record = served(fleet, seed, horizon_ns)
    outcomes = Counter(asked.outcome for asked in record.asked)
    assert None not in outcomes
    late = sum(asked.outcome is Outcome.OK and not asked.hit for asked in record.asked)
    assert late <= record.loads  # those that bring a model back
    for name in ("policy", "vision"):
        assert sum(asked.hit for asked in record.asked if asked.arrival.model == name) > 10
    busy_ns = sum(until_ns - from_ns for from_ns, until_ns in record.busy_ns)
    assert record.loads * load_ms * MS <= 1.2 * busy_ns
    if load_ms >= 200:  # no deadline is as long: they come one after the other for a while each
        assert record.loads <= 2 + horizon_ns // max(SECOND // 2, 2 * load_ms * MS)


@pytest.mark.parametrize("load_ms", [5, 20, 40, 100, 300])
def test_what_tier_0_is_expected_for_does_not_leave_for_others(load_ms: int) -> None:
    critical = evolve(CRITICAL, count=2)
    record = served(tight((ARMS, critical), load_ms * MS), 1)
    asked = [each for each in record.asked if each.arrival.tier == 0]
    settled_ns = SECOND
    settled = [each for each in asked if each.arrival.arrived_ns > settled_ns]
    assert len(settled) > 300
    assert sum(each.hit for each in settled) >= 0.99 * len(settled)
    assert all(each.outcome is not None for each in record.asked)


@pytest.mark.parametrize("load_ms", [20, 100])
def test_workers_share_models_out_instead_of_all_loading_all(load_ms: int) -> None:
    record = served(tight((ARMS, CAMERAS), load_ms * MS, workers=2), 1)
    assert record.loads <= 4
    settled = [each for each in record.asked if each.arrival.arrived_ns > SECOND]
    assert sum(each.hit for each in settled) >= 0.98 * len(settled)


def test_a_worker_that_has_a_model_is_waited_for_if_it_is_free_before_another_loads_it() -> None:
    scheduler = up(A)
    other = WorkerRef("other", 1)
    memory = WorkerMemory(15, {A: 10, B: 10}, {A: LOAD_NS, B: LOAD_NS}, (B,))
    times_ns = {model: {1: RUN_NS} for model in (A, B)}
    scheduler.handle([WorkerReady(other, times_ns, {A: 1, B: 1}, memory)], 0)
    first = staged(scheduler, request(1, A, 0), 0)
    assert first is not None
    assert first.batch.worker == W
    assert staged(scheduler, request(2, A, 0), 0) is None
    third = staged(scheduler, request(3, A, 0), 0)  # more waits than the next batch takes
    assert third is not None
    assert third.batch.worker == other


def test_memory_for_all_is_as_no_budget() -> None:
    robots = (ARM, CAMERA)
    plain = simulate(busy_fleet(robots=robots), Scheduler(), seed=1, horizon_ns=SECOND)
    fleet = tight(robots, 20 * MS)
    roomy = evolve(fleet, workers=tuple(evolve(w, budget_bytes=20) for w in fleet.workers))
    record = simulate(roomy, Scheduler(), seed=1, horizon_ns=SECOND)
    assert record.loads == 0
    assert record.busy_ns == plain.busy_ns
    assert [asked.answered_ns for asked in record.asked] == [
        asked.answered_ns for asked in plain.asked
    ]
