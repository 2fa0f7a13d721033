"""Planned times while something holds a device's clocks down, and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import MS, SECOND, SWITCH_NS, Skewed

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.estimate import Estimate
from appliance.scheduling.events import (
    Arrived,
    BatchDone,
    ClocksRead,
    Decision,
    Event,
    Lane,
    ModelRef,
    Request,
    Stage,
    WorkerLost,
    WorkerReady,
    WorkerRef,
)
from appliance.scheduling.throttling import MOST_SHARE, MOST_SLOWDOWN, Throttling
from appliance.simulation import Fleet, LinearEngine, Record, RobotClass, WorkerSlot, simulate

POLICY, OTHER = ModelRef("policy", "1"), ModelRef("other", "1")
GPU = WorkerRef("gpu-0", 1)
READ_NS = 250 * MS


# ------------------------------------------------------------------------ one worker's pace


def hosted() -> dict[ModelRef, Estimate]:
    return {POLICY: Estimate.from_times({1: 10 * MS}, 1)}


def test_a_pace_goes_with_the_clocks_until_more_is_known() -> None:
    throttling = Throttling()
    assert throttling.pace(POLICY) == 1.0
    throttling.read(1.6, hosted())
    assert throttling.pace(POLICY) == pytest.approx(1.6)
    throttling.read(1.0, hosted())
    assert throttling.pace(POLICY) == 1.0


def test_of_each_model_it_is_learnt_how_far_it_goes_with_them_and_remembered() -> None:
    throttling = Throttling()
    throttling.read(2.0, hosted())
    for _ in range(60):
        throttling.observe(POLICY, 1.2)
    assert throttling.pace(POLICY) == pytest.approx(1.2, abs=0.01)
    assert throttling.pace(OTHER) == 2.0
    throttling.read(1.5, hosted())
    assert throttling.pace(POLICY) == pytest.approx(1.1, abs=0.01)
    throttling.read(1.0, hosted())
    throttling.read(2.0, hosted())
    assert throttling.pace(POLICY) == pytest.approx(1.2, abs=0.01)


def test_batches_that_ran_before_an_end_was_read_teach_nothing() -> None:
    throttling = Throttling()
    for slowdown in (2.0, 2.0):
        throttling.read(slowdown, hosted())
    for _ in range(60):
        throttling.observe(POLICY, 1.0)
    throttling.read(1.0, hosted())
    throttling.read(2.0, hosted())
    assert throttling.pace(POLICY) == 2.0


def test_what_was_learnt_before_a_beginning_was_read_is_not_counted_twice() -> None:
    throttling, estimates = Throttling(), hosted()
    throttling.read(1.0, estimates)
    before_ns = estimates[POLICY].of(1)
    for _ in range(30):
        estimates[POLICY].observe(1, 20 * MS)
    assert estimates[POLICY].of(1) > 1.9 * before_ns
    throttling.read(2.0, estimates)
    assert estimates[POLICY].of(1) * throttling.pace(POLICY) == pytest.approx(
        2 * before_ns, rel=0.1
    )


@given(
    st.lists(st.floats(-1.0, 1e6)),
    st.lists(st.floats(0.0, 1e6)),
)
def test_no_reading_and_no_batch_makes_it_absurd(
    slowdowns: list[float], relatives: list[float]
) -> None:
    throttling = Throttling()
    for index, slowdown in enumerate(slowdowns):
        throttling.read(slowdown, hosted())
        if throttling.is_on:
            for relative in relatives[index : index + 3]:
                throttling.observe(POLICY, relative)
        assert 1.0 <= throttling.pace(POLICY) <= 1 + MOST_SHARE * (MOST_SLOWDOWN - 1)


# ----------------------------------------------------------------------------- the scheduler


def ready(scheduler: Scheduler, worker: WorkerRef = GPU, takes_ns: int = 10 * MS) -> None:
    event = WorkerReady(worker, {POLICY: {1: takes_ns, 4: 2 * takes_ns}}, {POLICY: 4})
    scheduler.handle([event], 0)


def test_planned_times_change_at_once_and_back() -> None:
    scheduler = Scheduler()
    ready(scheduler)
    usual_ns = scheduler.planned_ns(POLICY, 1)
    scheduler.handle([ClocksRead("gpu-0", 1.5)], MS)
    assert scheduler.planned_ns(POLICY, 1) == pytest.approx(1.5 * usual_ns, rel=1e-6)
    scheduler.handle([ClocksRead("gpu-0", 1.0)], 2 * MS)
    assert scheduler.planned_ns(POLICY, 1) == usual_ns


def test_a_worker_whose_clocks_are_free_is_planned_as_ever() -> None:
    scheduler = Scheduler()
    ready(scheduler)
    ready(scheduler, WorkerRef("gpu-1", 1))
    usual_ns = scheduler.planned_ns(POLICY, 1)
    scheduler.handle([ClocksRead("gpu-0", 3.0)], MS)
    assert scheduler.planned_ns(POLICY, 1) == usual_ns
    expected_ns = {
        effect.batch.worker.slot: effect.batch.expected_ns
        for number in (1, 2)
        for effect in scheduler.handle([Arrived(request(number))], number * MS).effects
        if isinstance(effect, Stage)
    }
    assert expected_ns["gpu-0"] == pytest.approx(3 * expected_ns["gpu-1"], rel=1e-6)


def test_a_firm_request_that_the_held_clocks_cannot_serve_is_refused_at_once() -> None:
    scheduler = Scheduler()
    ready(scheduler)
    scheduler.handle([ClocksRead("gpu-0", 2.5)], MS)
    decision = scheduler.handle([Arrived(request(1, budget_ns=20 * MS, firm=True))], 2 * MS)
    [answer] = decision.effects
    assert answer.outcome is Outcome.INFEASIBLE
    scheduler.handle([ClocksRead("gpu-0", 1.0)], 3 * MS)
    decision = scheduler.handle([Arrived(request(2, budget_ns=20 * MS, firm=True))], 4 * MS)
    assert isinstance(decision.effects[0], Stage)


def test_times_measured_at_the_warm_up_of_a_throttled_worker_are_not_counted_twice() -> None:
    free, held = Scheduler(), Scheduler()
    ready(free)
    held.handle([ClocksRead("gpu-0", 2.0)], 0)
    ready(held, takes_ns=20 * MS)
    assert held.planned_ns(POLICY, 1) == pytest.approx(2 * free.planned_ns(POLICY, 1), rel=1e-6)
    held.handle([ClocksRead("gpu-0", 1.0)], MS)
    assert held.planned_ns(POLICY, 1) == pytest.approx(free.planned_ns(POLICY, 1), rel=1e-6)


def test_the_next_process_of_a_slot_is_as_slow() -> None:
    scheduler = Scheduler()
    ready(scheduler)
    usual_ns = scheduler.planned_ns(POLICY, 1)
    scheduler.handle([ClocksRead("gpu-0", 2.0), WorkerLost(GPU)], MS)
    ready(scheduler, WorkerRef("gpu-0", 2), takes_ns=20 * MS)
    assert scheduler.planned_ns(POLICY, 1) == pytest.approx(2 * usual_ns, rel=1e-6)


def test_while_it_lasts_measured_times_correct_the_pace_and_not_what_is_usual() -> None:
    scheduler = Scheduler()
    ready(scheduler)
    usual_ns = scheduler.planned_ns(POLICY, 1)
    scheduler.handle([ClocksRead("gpu-0", 2.0)], 0)
    for number in range(1, 41):
        now_ns = number * 100 * MS
        [effect] = scheduler.handle([Arrived(request(number, now_ns))], now_ns).effects
        assert isinstance(effect, Stage)
        done = BatchDone(GPU, effect.batch.id, 12 * MS, finished_ns=now_ns + 12 * MS)
        scheduler.handle([done], now_ns + 12 * MS)
    assert scheduler.planned_ns(POLICY, 1) == pytest.approx(1.2 * usual_ns, rel=0.05)
    scheduler.handle([ClocksRead("gpu-0", 1.0)], 5 * SECOND)
    assert scheduler.planned_ns(POLICY, 1) == usual_ns


def request(
    number: int, now_ns: int = MS, *, budget_ns: int = SECOND, firm: bool = False
) -> Request:
    return Request(
        id=number,
        session=number,
        client=f"robot-{number}",
        lane=Lane(POLICY),
        arrived_ns=now_ns,
        deadline_ns=now_ns + budget_ns,
        expires_ns=now_ns + 5 * SECOND,
        firm=firm,
    )


# -------------------------------------------------------------------------------- a fleet


@define(eq=False)
class Throttled:
    """A scheduler whose one device is slower in each episode, with readings of its clocks or not.

    Attributes:
        episodes: From when until when, and by how much.
    """

    scheduler: Scheduler
    engines: Sequence[Skewed]
    episodes: Sequence[tuple[int, int, float]]
    is_read: bool
    next_ns: int = 0

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        slowdown = next((by for start, end, by in self.episodes if start <= now_ns < end), 1.0)
        for engine in self.engines:
            engine.takes = slowdown
        if self.is_read and now_ns >= self.next_ns:
            self.next_ns = now_ns - now_ns % READ_NS + READ_NS
            events = [ClocksRead("gpu-0", slowdown), *events]
        return self.scheduler.handle(events, now_ns)


def served(episodes: Sequence[tuple[int, int, float]], *, is_read: bool, seed: int = 1) -> Record:
    """Let twelve models on one device serve twenty robots each, each once in a second."""
    engines = [
        Skewed(LinearEngine(name=f"model-{n}", base_ns=2 * MS, row_ns=MS // 2, max_batch=8))
        for n in range(12)
    ]
    fleet = Fleet(
        engines=tuple(engines),
        workers=(WorkerSlot("gpu-0", tuple(engine.name for engine in engines)),),
        robots=tuple(
            RobotClass(
                name=f"robots-{n}", model=f"model-{n}", rate_hz=1, budget_ns=30 * MS, count=20
            )
            for n in range(12)
        ),
        switch_ns=SWITCH_NS,
    )
    throttled = Throttled(Scheduler(), engines, episodes, is_read)
    return simulate(fleet, throttled, seed=seed, horizon_ns=12 * SECOND)


def late(record: Record) -> int:
    return sum(
        asked.outcome is Outcome.OK and asked.answered_ns > asked.arrival.deadline_ns
        for asked in record.asked
    )


def hits(record: Record) -> int:
    return sum(asked.hit for asked in record.asked)


@pytest.mark.parametrize("slowdown", [1.5, 2.0])
def test_through_throttling_fewer_are_late_and_more_in_time_if_the_clocks_are_read(
    slowdown: float,
) -> None:
    # They begin and end between two readings.
    episodes = [
        (second * SECOND + 100 * MS, (second + 1) * SECOND + 500 * MS, slowdown)
        for second in (3, 6, 9)
    ]
    blind, seeing = (
        [served(episodes, is_read=is_read, seed=seed) for seed in (1, 2, 3)]
        for is_read in (False, True)
    )
    assert sum(map(late, seeing)) < sum(map(late, blind)) / 2
    assert sum(map(hits, seeing)) > sum(map(hits, blind))


def test_readings_of_free_clocks_change_nothing() -> None:
    blind, seeing = (served([], is_read=is_read) for is_read in (False, True))
    assert (late(seeing), hits(seeing)) == (late(blind), hits(blind))
