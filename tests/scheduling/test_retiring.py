"""A worker that has a successor runs what only it can run, and is released then."""

from __future__ import annotations

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.events import (
    Answer,
    Arrived,
    BatchDone,
    Effect,
    Go,
    Lane,
    ModelRef,
    Released,
    Request,
    Revoke,
    Stage,
    WorkerLost,
    WorkerReady,
    WorkerRef,
    WorkerRetired,
)

MS = 1_000_000
OLD, NEW, OTHER = ModelRef("policy", "1"), ModelRef("policy", "2"), ModelRef("vision", "1")
FORMER, SUCCESSOR = WorkerRef("cpu-0", 1), WorkerRef("cpu-0", 2)


def ready(worker: WorkerRef, *models: ModelRef) -> WorkerReady:
    return WorkerReady(
        worker, {model: {1: 5 * MS, 4: 8 * MS} for model in models}, dict.fromkeys(models, 4)
    )


def arrived(number: int, model: ModelRef, at_ms: int = 0) -> Arrived:
    return Arrived(
        Request(
            id=number,
            session=number,
            client=str(number),
            lane=Lane(model),
            arrived_ns=at_ms * MS,
            deadline_ns=(at_ms + 500) * MS,
            expires_ns=(at_ms + 1000) * MS,
        )
    )


def done(batch_id: int, worker: WorkerRef = FORMER) -> BatchDone:
    return BatchDone(worker, batch_id, 5 * MS)


def told(effects: list[Effect]) -> list[tuple[object, ...]]:
    """Return what was said, short."""
    said: list[tuple[object, ...]] = []
    for effect in effects:
        if isinstance(effect, (Stage, Go, Revoke)):
            rows = [request.id for request in effect.batch.requests]
            said.append((type(effect).__name__, effect.batch.worker.generation, rows))
        elif isinstance(effect, Released):
            said.append(("Released", effect.worker.generation))
        elif isinstance(effect, Answer):
            said.append((effect.outcome.name, effect.request.id))
    return said


class Served:
    """A scheduler, asked in milliseconds."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.batches: dict[tuple[int, ...], int] = {}

    def at(self, ms: float, *events: object) -> list[tuple[object, ...]]:
        decision = self.scheduler.handle(events, round(ms * MS))  # type: ignore[arg-type]
        for effect in decision.effects:
            if isinstance(effect, Stage):
                rows = tuple(request.id for request in effect.batch.requests)
                self.batches[rows] = effect.batch.id
        return told(decision.effects)


def test_an_idle_one_is_released_at_once() -> None:
    served = Served()
    served.at(0, ready(FORMER, OLD))
    assert served.at(1, ready(SUCCESSOR, NEW), WorkerRetired(FORMER)) == [("Released", 1)]
    assert served.at(2, arrived(1, NEW, 2)) == [("Stage", 2, [1])]


def test_what_it_runs_is_answered_first() -> None:
    served = Served()
    served.at(0, ready(FORMER, OLD))
    assert served.at(1, arrived(1, OLD)) == [("Stage", 1, [1])]
    assert served.at(2, ready(SUCCESSOR, NEW), WorkerRetired(FORMER)) == []
    assert served.at(6, done(served.batches[1,])) == [("OK", 1), ("Released", 1)]
    assert served.at(7, WorkerLost(FORMER)) == []


def test_it_runs_what_waits_for_the_former_version_and_leaves_the_rest_to_the_other() -> None:
    served = Served()
    served.at(0, ready(FORMER, OLD, OTHER))
    served.at(1, arrived(1, OTHER, 1))
    assert served.at(1, arrived(2, OLD, 1), arrived(3, OTHER, 1)) == []
    said = served.at(2, ready(SUCCESSOR, NEW, OTHER), WorkerRetired(FORMER))
    assert said == [("Stage", 2, [3])]
    assert served.at(6, done(served.batches[1,])) == [("OK", 1), ("Stage", 1, [2])]
    assert served.at(11, done(served.batches[2,])) == [("OK", 2), ("Released", 1)]


def test_what_was_staged_for_it_goes_to_its_successor() -> None:
    served = Served()
    served.at(0, ready(FORMER, OLD, OTHER))
    served.at(1, arrived(1, OTHER, 1))
    served.at(2, arrived(2, OTHER, 2))
    assert served.at(5.5) == [("Stage", 1, [2])]
    said = served.at(5.6, ready(SUCCESSOR, NEW, OTHER), WorkerRetired(FORMER))
    assert sorted(said, key=str) == [("Revoke", 1, [2]), ("Stage", 2, [2])]
    assert served.at(6.5, done(served.batches[1,])) == [("OK", 1), ("Released", 1)]


def test_it_may_die_before_that() -> None:
    served = Served()
    served.at(0, ready(FORMER, OLD))
    served.at(1, arrived(1, OLD, 1))
    served.at(2, ready(SUCCESSOR, NEW), WorkerRetired(FORMER))
    assert served.at(3, WorkerLost(FORMER)) == [(Outcome.WORKER_LOST.name, 1)]
    assert served.scheduler.statistics().queued == 0


def test_nobody_is_released_twice_or_without_having_been_there() -> None:
    served = Served()
    served.at(0, ready(FORMER, OLD))
    assert served.at(1, WorkerRetired(WorkerRef("cpu-0", 7))) == []
    assert served.at(2, ready(SUCCESSOR, OLD), WorkerRetired(FORMER)) == [("Released", 1)]
    assert served.at(3, WorkerRetired(FORMER)) == []
    assert served.at(4, arrived(1, OLD, 4)) == [("Stage", 2, [1])]
