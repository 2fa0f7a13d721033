"""The world: what is asked is answered once, time and workers do as they should."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from statistics import stdev

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from simulated_fleets import EXACT, MS, SECOND, engine, fleet, kind, mixed
from support.serial import Serial

from appliance.errors import ConfigError, LocalProtocolError, Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.events import Answer, Arrived, Decision, Event, Go, Revoke, Stage
from appliance.simulation import (
    Arrival,
    Asked,
    Fleet,
    MeasuredEngine,
    Record,
    RecordedEngine,
    WorkerSlot,
    of_size,
    replay,
    simulate,
)


def fates(record: Record) -> list[tuple[object, ...]]:
    return [(each.arrival, each.outcome, each.answered_ns) for each in record.asked]


def served(fleet: Fleet, scheduler: Scheduler | Serial, seconds: float = 1.0) -> list[Asked]:
    return simulate(fleet, scheduler, seed=1, horizon_ns=round(seconds * SECOND)).asked


def test_one_seed_gives_one_result() -> None:
    once, again, other = (
        fates(simulate(mixed(), Scheduler(), seed=seed, horizon_ns=3 * SECOND))
        for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_has_one_outcome(workers: int) -> None:
    record = simulate(mixed(workers), Scheduler(), seed=5, horizon_ns=4 * SECOND)
    assert all(each.outcome is not None for each in record.asked)
    answered = sum(each.outcome is Outcome.OK for each in record.asked)
    assert answered == record.batched_rows  # nobody runs without being answered
    assert {robot.kind.name for robot in record.robots} == {
        each.robot.kind.name for each in record.asked if each.robot
    }


def test_the_scheduler_is_told_no_more_than_the_wire_says() -> None:
    seen = []

    class Spy(Serial):
        def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
            seen.extend(event.request for event in events if isinstance(event, Arrived))
            return super().handle(events, now_ns)

    spy = Spy()
    served(mixed(), spy)
    assert all(request.payload is None for request in seen)
    periods_ns = {request.client.split("-")[0]: request.period_ns for request in seen}
    assert periods_ns["arm"] == 50 * MS
    assert periods_ns["flood"] == 100 * MS  # what it declares, not what it does
    assert periods_ns["soft"] == 0
    assert {size for times in spy.times_ns.values() for size in times} == {1, 2, 4}


def test_an_answer_takes_the_network_the_queue_and_the_engine() -> None:
    first, second = served(fleet(kind(count=2)), Serial(), 0.05)
    assert first.arrival.arrived_ns == second.arrival.arrived_ns == MS
    assert first.arrival.deadline_ns == 49 * MS
    assert first.answered_ns == 7 * MS
    assert second.answered_ns == 13 * MS


def test_switching_models_costs_and_batches_say_so() -> None:
    asked = served(fleet(kind(), kind("eye", model="vision")), Serial(), 0.05)
    assert [each.answered_ns for each in asked] == [7 * MS, (7 + 1 + 2) * MS]


def test_two_workers_run_at_once() -> None:
    asked = served(fleet(kind(count=2), workers=2), Serial(), 0.05)
    assert [each.answered_ns for each in asked] == [7 * MS, 7 * MS]


def test_a_wakeup_is_honoured() -> None:
    scheduler = Serial(wait_ns=3 * MS)
    (asked,) = served(fleet(kind()), scheduler, 0.05)
    assert scheduler.turns_ns == [0, MS, 4 * MS, 10 * MS]
    assert asked.answered_ns == 10 * MS


def test_decisions_are_timed_while_a_worker_is_idle() -> None:
    ticks = iter(range(0, 10_000, 7))
    scheduler = Serial()
    later = kind("later", network=evolve(EXACT, least_ns=2 * MS))
    record = simulate(
        fleet(kind(), later), scheduler, seed=1, horizon_ns=50 * MS, clock_ns=lambda: next(ticks)
    )
    assert scheduler.turns_ns == [0, MS, 2 * MS, 7 * MS, 13 * MS]
    assert record.decision_ns == [7] * 4  # all but the one at 2 ms, when the worker was busy


def test_a_flood_comes_in_bursts() -> None:
    asked = [each for each in served(mixed(), Serial(), 4) if not each.arrival.counted]
    assert 650 < len(asked) < 950  # 400 Hz, half of the time
    assert all(each.arrival.captured_ns % SECOND < SECOND // 2 + 100 * MS for each in asked)


def test_a_recording_is_replayed() -> None:
    recorded = RecordedEngine(name="policy", max_batch=4, samples_ns={1: [8 * MS], 3: [12 * MS]})
    only = Fleet(engines=(recorded,), workers=(WorkerSlot("w-0", ("policy",)),))
    arrivals = [
        Arrival("b", "policy", 5 * MS, 6 * MS, 20 * MS),
        Arrival("a", "policy", 0, 2 * MS, 40 * MS, tier=0),
    ]
    record = replay(arrivals, only, Serial())
    assert [(each.arrival.client, each.answered_ns) for each in record.asked] == [
        ("a", 10 * MS),
        ("b", 18 * MS),
    ]
    assert [each.hit for each in record.asked] == [True, True]
    assert not replay([], only, Serial()).asked


def test_measured_times_have_sizes_between_them_and_noise() -> None:
    engine = MeasuredEngine(name="policy", times_ns={2: 8 * MS, 4: 12 * MS}, spike_share=0.0)
    assert engine.max_batch == 4
    assert [engine.mean_ns(rows) // MS for rows in (1, 2, 3, 4)] == [8, 8, 10, 12]
    random = Random(1)
    drawn = [engine.sample_ns(3, random) / (10 * MS) for _ in range(400)]
    assert len(set(drawn)) > 300
    assert 0.02 < stdev(drawn) < 0.04
    exact = evolve(engine, sigma=0.0, spike_share=1.0)
    assert exact.sample_ns(4, random) == 18 * MS


@given(st.integers(0, 500), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_a_fleet_of_another_size_has_the_same_mix(robots: int, counts: list[int]) -> None:
    before = fleet(*(kind(f"k{n}", count=count) for n, count in enumerate(counts)))
    after = of_size(before, robots)
    assert sum(each.count for each in after.robots) == robots
    total = sum(counts)
    for each, count in zip(after.robots, counts, strict=True):
        assert abs(each.count - robots * count / total) < 1
    assert of_size(before, total) == before


def test_recorded_times_are_drawn_and_sizes_between_them_are_scaled() -> None:
    engine = RecordedEngine(
        name="policy", max_batch=8, samples_ns={2: [7 * MS, 9 * MS], 4: [12 * MS], 8: []}
    )
    assert [engine.mean_ns(rows) // MS for rows in (1, 2, 3, 4, 6)] == [8, 8, 10, 12, 16]
    random = Random(1)
    assert {engine.sample_ns(2, random) for _ in range(50)} == {7 * MS, 9 * MS}
    assert {engine.sample_ns(rows, random) for rows in (3, 4, 8)} == {10 * MS, 12 * MS, 20 * MS}
    with pytest.raises(ConfigError, match="'policy' was recorded"):
        RecordedEngine(name="policy", max_batch=8, samples_ns={})


def test_a_class_without_a_worker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'arm' ask the model 'speech'.*policy, vision"):
        fleet(kind(model="speech"))
    with pytest.raises(ConfigError, match="'w' hosts the model 'speech'"):
        Fleet(engines=(engine(),), workers=(WorkerSlot("w", ("speech",)),))


def test_who_wakes_up_for_nothing_again_and_again_fails() -> None:
    class Restless(Serial):
        def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
            return Decision([], now_ns)

    with pytest.raises(LocalProtocolError, match="for nothing"):
        served(fleet(kind()), Restless(), 0.05)


class Broken(Serial):
    """Does one thing more after it has staged a batch."""

    def __init__(self, more: str) -> None:
        super().__init__()
        self.more = more

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        decision = super().handle(events, now_ns)
        effects = decision.effects
        for effect in [each for each in effects if isinstance(each, Stage)]:
            batch, request = effect.batch, effect.batch.requests[0]
            effects += {
                "start again": [Go(batch)],
                "revoke what runs": [Revoke(batch)],
                "stage again": [Stage(batch, go=False)],
                "answer twice": [Answer(request, Outcome.SHED), Answer(request, Outcome.SHED)],
            }[self.more]
        return decision


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("start again", "not staged"),
        ("revoke what runs", "not staged"),
        ("stage again", "does not wait"),
        ("answer twice", "a second time"),
    ],
)
def test_who_breaks_the_workers_protocol_fails(more: str, says: str) -> None:
    with pytest.raises(LocalProtocolError, match=says):
        served(fleet(kind()), Broken(more), 0.05)
