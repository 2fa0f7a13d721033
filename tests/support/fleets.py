"""Fleets of periodic robots that `appliance.simulation` serves, and a look at each decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from attrs import define, evolve, field

from appliance.scheduling import Scheduler
from appliance.scheduling.events import (
    Answer,
    Arrived,
    Batch,
    BatchDone,
    Decision,
    Effect,
    Event,
    Go,
    ModelRef,
    Request,
    Revoke,
    Stage,
    WorkerReady,
    WorkerRef,
)
from appliance.simulation import Engine, Fleet, LinearEngine, RobotClass, WorkerSlot, simulate
from support.simulation import line_of

MS = 1_000_000
SECOND = 1000 * MS
SWITCH_NS = MS // 5

POLICY = LinearEngine(name="policy", base_ns=6 * MS, row_ns=MS * 3 // 4, max_batch=16)
VISION = LinearEngine(name="vision", base_ns=MS * 3 // 2, row_ns=MS * 7 // 20, max_batch=16)

ARM = RobotClass(name="arm", model="policy", rate_hz=5, budget_ns=100 * MS, count=13, obedience=0.0)
BASE = evolve(ARM, name="base", rate_hz=10, budget_ns=60 * MS, count=9)
CAMERA = evolve(ARM, name="camera", model="vision", rate_hz=30, budget_ns=33 * MS, count=8)
CRITICAL = evolve(CAMERA, name="critical", rate_hz=50, budget_ns=20 * MS, count=3, tier=0)
"""Together, about 0.5 of what one device can do with batches of eight."""


@define
class Skewed:
    """An engine that takes `takes` times as long as it did, and was measured wrong at warm-up."""

    engine: Engine
    takes: float = 1.0
    measured: float = 1.0

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def max_batch(self) -> int:
        return self.engine.max_batch

    def mean_ns(self, rows: int) -> int:
        """Return what the warm-up says."""
        return round(self.measured * self.engine.mean_ns(rows))

    def sample_ns(self, rows: int, random: Random) -> int:
        return round(self.takes * self.engine.sample_ns(rows, random))


def busy_fleet(
    *engines: Engine, robots: tuple[RobotClass, ...] | None = None, workers: int = 1
) -> Fleet:
    """Return the four classes above, or others, on devices that host both models.

    Args:
        engines: Instead of those of the same name.
    """
    by_name: dict[str, Engine] = {each.name: each for each in (POLICY, VISION, *engines)}
    return Fleet(
        engines=tuple(by_name.values()),
        workers=tuple(WorkerSlot(f"w-{number}", tuple(by_name)) for number in range(workers)),
        robots=(ARM, BASE, CAMERA, CRITICAL) if robots is None else robots,
        switch_ns=SWITCH_NS,
    )


@define(eq=False)
class Watched:
    """A scheduler that is looked at after each decision, with the time."""

    scheduler: Scheduler
    look: Callable[[int], None]
    decisions: list[tuple[int, Decision]] = field(factory=list)

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        decision = self.scheduler.handle(events, now_ns)
        self.decisions.append((now_ns, decision))
        self.look(now_ns)
        return decision


@define(eq=False)
class Books:
    """What waits and what each worker does, kept from events and effects alone.

    Each rule is called after each decision, and after the effects were taken in.

    Attributes:
        now_ns, events, decision: Of the latest call.
        started: The batches that it started.
        waiting: Requests by id.
        executing, staged: By worker; None: nothing.
        hosted: The models of each worker.
    """

    scheduler: Scheduler
    rules: Sequence[Callable[[Books], None]]
    now_ns: int = 0
    events: list[Event] = field(factory=list)
    decision: Decision = field(factory=lambda: Decision([], None))
    started: list[Batch] = field(factory=list)
    waiting: dict[int, Request] = field(factory=dict)
    executing: dict[WorkerRef, Batch | None] = field(factory=dict)
    staged: dict[WorkerRef, Batch | None] = field(factory=dict)
    hosted: dict[WorkerRef, set[ModelRef]] = field(factory=dict)

    @property
    def answers(self) -> list[Answer]:
        return [effect for effect in self.decision.effects if isinstance(effect, Answer)]

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        self.now_ns, self.events, self.started = now_ns, list(events), []
        for event in self.events:
            if isinstance(event, Arrived):
                self.waiting[event.request.id] = event.request
            elif isinstance(event, WorkerReady):
                self.hosted[event.worker] = set(event.times_ns)
                self.executing[event.worker] = self.staged[event.worker] = None
            elif isinstance(event, BatchDone):
                self.executing[event.worker] = None
        self.decision = self.scheduler.handle(self.events, now_ns)
        for effect in self.decision.effects:
            self._take_in(effect)
        for rule in self.rules:
            rule(self)
        return self.decision

    def _take_in(self, effect: Effect) -> None:
        if isinstance(effect, Answer):
            self.waiting.pop(effect.request.id, None)
            return
        batch = effect.batch
        if isinstance(effect, Stage):
            for request in batch.requests:
                del self.waiting[request.id]
            self.staged[batch.worker] = batch
        elif isinstance(effect, Revoke):
            self.staged[batch.worker] = None
            self.waiting.update((request.id, request) for request in batch.requests)
        if isinstance(effect, Go) or (isinstance(effect, Stage) and effect.go):
            self.staged[batch.worker] = None
            self.executing[batch.worker] = batch
            self.started.append(batch)


def overloaded_log() -> str:
    """Return one line for each effect of serving three times as many robots, who follow advice."""
    kinds = (ARM, BASE, CAMERA, CRITICAL)
    robots = tuple(evolve(kind, obedience=1.0, count=3 * kind.count) for kind in kinds)
    watched = Watched(Scheduler(), lambda _: None)
    simulate(busy_fleet(robots=robots), watched, seed=1, horizon_ns=2 * SECOND)
    return "\n".join(
        f"{now_ns} {line_of(effect)}"
        for now_ns, decision in watched.decisions
        for effect in decision.effects
    )
