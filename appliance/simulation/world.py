"""The world around a scheduler: robots observe, workers execute, a timer wakes it up.

A discrete-event loop over virtual nanoseconds. Effects are performed as the dispatcher does:
a worker executes one batch and may hold one staged one beside it, which waits for Go or Revoke.
Told to go, it is started as soon as the other one is done, or skipped if that is too late.
Whoever breaks that protocol, or answers a request twice, fails at once. Robots observe until the
horizon; what is asked by then is still served.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Protocol

from attrs import define, field

from appliance.errors import LocalProtocolError
from appliance.residency import Residency
from appliance.scheduling.events import (
    Answer,
    Arrived,
    Batch,
    BatchDone,
    Decision,
    Event,
    Go,
    Lane,
    ModelRef,
    Request,
    Revoke,
    Stage,
    WorkerMemory,
    WorkerReady,
    WorkerRef,
)
from appliance.simulation.execution import Engine, measured_ns, reference_of
from appliance.simulation.fleet import SECOND_NS, Fleet, WorkerSlot
from appliance.simulation.population import population
from appliance.simulation.record import Asked, Record
from appliance.simulation.robots import Arrival, Robot

TIME_TO_LIVE_NS = 5 * SECOND_NS
"""Nobody waits longer for an answer, as by default in the configuration."""

DRAIN_NS = 2 * TIME_TO_LIVE_NS
"""After the horizon the world goes on for as long as this, if anybody waits."""


LOAD_SIGMA = 0.1
"""Standard deviation of the logarithm of how long loading takes."""

IDLE_WAKEUPS = 10_000
"""So often in a row nobody wants to be woken up for nothing."""


class Schedules(Protocol):
    """Whatever schedules as `appliance.scheduling.Scheduler` does."""

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        """Take in what happened until `now_ns` and say what to do."""
        ...


@define(eq=False)
class _Worker:
    ref: WorkerRef
    engines: dict[ModelRef, Engine]
    executing: Batch | None = None
    staged: Batch | None = None
    goes: bool = False
    last: ModelRef | None = None
    residency: Residency[ModelRef] | None = None

    def has(self, model: ModelRef) -> bool:
        """Return whether a model is in memory."""
        return self.residency is None or model in self.residency


def simulate(
    fleet: Fleet,
    scheduler: Schedules,
    *,
    seed: int,
    horizon_ns: int,
    clock_ns: Callable[[], int] | None = None,
) -> Record:
    """Let a fleet be served until `horizon_ns`.

    Args:
        clock_ns: Measures how long decisions take; None: nobody does.
    """
    random = Random(seed * 7919 + 13)
    world = _World(fleet, scheduler, Record(fleet, horizon_ns), _execution(seed), clock_ns, random)
    for robot in population(fleet, random):
        world.join(robot)
    world.run()
    return world.record


def replay(
    arrivals: Iterable[Arrival],
    fleet: Fleet,
    scheduler: Schedules,
    *,
    seed: int = 0,
    clock_ns: Callable[[], int] | None = None,
) -> Record:
    """Let arrivals that were recorded be served by the workers of a fleet, its robots aside.

    Args:
        seed: For the times that batches take, where they are drawn.
    """
    ordered = sorted(arrivals, key=lambda arrival: arrival.arrived_ns)
    record = Record(fleet, ordered[-1].arrived_ns if ordered else 0)
    world = _World(fleet, scheduler, record, _execution(seed), clock_ns)
    for arrival in ordered:
        world.ask(arrival, None)
    world.run()
    return world.record


def _execution(seed: int) -> Random:
    return Random(seed * 104729 + 7)


@define(eq=False)
class _World:
    """See the module's docstring."""

    fleet: Fleet
    scheduler: Schedules
    record: Record
    _execution: Random
    _clock_ns: Callable[[], int] | None = None
    _random: Random = field(factory=Random)
    _now_ns: int = field(default=0, init=False)
    _agenda: list[tuple[int, int, Callable[..., Event | None], tuple[object, ...]]] = field(
        factory=list["tuple[int, int, Callable[..., Event | None], tuple[object, ...]]"],
        init=False,
    )
    _count: int = field(default=0, init=False)
    _workers: dict[str, _Worker] = field(factory=dict[str, _Worker], init=False)
    _idle: int = field(default=0, init=False)
    _waiting: dict[int, Asked] = field(factory=dict[int, Asked], init=False)
    _in_batches: dict[int, Asked] = field(factory=dict[int, Asked], init=False)
    _lanes: dict[str, Lane] = field(factory=dict[str, Lane], init=False)

    def __attrs_post_init__(self) -> None:
        self._lanes = {each.name: Lane(reference_of(each.name)) for each in self.fleet.engines}
        for worker in self.fleet.workers:
            self._at(0, self._ready, worker)

    def _at(self, at_ns: int, action: Callable[..., Event | None], *arguments: object) -> None:
        """Let something happen later; it may return what the scheduler is told."""
        self._count += 1
        heapq.heappush(self._agenda, (max(at_ns, self._now_ns), self._count, action, arguments))

    # ---------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Run until nothing is left to happen."""
        last_ns = self.record.horizon_ns + DRAIN_NS
        agenda, wakeup_ns, idle = self._agenda, None, 0
        while agenda or (wakeup_ns is not None and (self._waiting or self._in_batches)):
            if wakeup_ns is None or (agenda and agenda[0][0] <= wakeup_ns):
                now_ns = agenda[0][0]
            else:
                now_ns = wakeup_ns
            if now_ns > last_ns:
                return
            self._now_ns = now_ns
            events: list[Event] = []
            while agenda and agenda[0][0] <= now_ns:
                _, _, action, arguments = heapq.heappop(agenda)
                event = action(*arguments)
                if event is not None:
                    events.append(event)
            if events or now_ns == wakeup_ns:
                decision = self._turn(events)
                idle = 0 if events or decision.effects else idle + 1
                if idle > IDLE_WAKEUPS:
                    raise LocalProtocolError(f"woken up {idle} times in a row for nothing")
                next_ns = decision.next_wakeup_ns
                wakeup_ns = None if next_ns is None else max(next_ns, now_ns + 1)

    def _turn(self, events: list[Event]) -> Decision:
        """Ask the scheduler once and perform what it says."""
        decides = self._idle > 0
        clock_ns = self._clock_ns
        if clock_ns is None:
            decision = self.scheduler.handle(events, self._now_ns)
        else:
            start_ns = clock_ns()
            decision = self.scheduler.handle(events, self._now_ns)
            took_ns = clock_ns() - start_ns
            effects = decision.effects
            if decides or any(isinstance(effect, (Stage, Go)) for effect in effects):
                self.record.decision_ns.append(took_ns)
        for effect in decision.effects:
            if isinstance(effect, Answer):
                self._answer(effect)
            elif isinstance(effect, Stage):
                self._stage(effect.batch, go=effect.go)
            elif isinstance(effect, Go):
                self._go(effect.batch)
            elif isinstance(effect, Revoke):
                self._revoke(effect)
        return decision

    # ------------------------------------------------------------------------------- robots

    def join(self, robot: Robot) -> None:
        """Let a robot begin."""
        self.record.robots.append(robot)
        self._plan(robot)

    def _plan(self, robot: Robot) -> None:
        robot.plan(self._random)
        self._await_capture(robot)

    def _await_capture(self, robot: Robot) -> None:
        due_ns = robot.due_ns
        if due_ns < self.record.horizon_ns:
            self._at(due_ns, self._capture, robot, due_ns)

    def _capture(self, robot: Robot, due_ns: int) -> None:
        if robot.due_ns == due_ns:  # else advice has moved it
            self.ask(robot.capture(self._now_ns), robot)

    def ask(self, arrival: Arrival, robot: Robot | None) -> None:
        """Let an observation be on its way."""
        self._at(arrival.arrived_ns, self._arrive, arrival, robot)

    def _arrive(self, arrival: Arrival, robot: Robot | None) -> Arrived:
        asked = Asked(arrival, robot)
        self.record.asked.append(asked)
        number = len(self.record.asked)
        self._waiting[number] = asked
        if robot is not None:
            self._plan(robot)
        return Arrived(
            Request(
                id=number,
                session=arrival.client,
                client=arrival.client,
                lane=self._lanes[arrival.model],
                arrived_ns=self._now_ns,
                deadline_ns=arrival.deadline_ns,
                expires_ns=self._now_ns + TIME_TO_LIVE_NS,
                period_ns=arrival.period_ns,
                keep_latest=arrival.keep_latest,
                firm=arrival.firm,
                dry=arrival.dry,
                runs_out=arrival.runs_out,
                tier=arrival.tier,
                priority=arrival.priority,
            )
        )

    def _answer(self, answer: Answer) -> None:
        number = answer.request.id
        asked = self._waiting.pop(number, None) or self._in_batches.pop(number, None)
        if asked is None:
            raise LocalProtocolError(f"request {number} is answered a second time")
        asked.outcome, asked.answered_ns = answer.outcome, self._now_ns
        robot = asked.robot
        if robot is not None and (robot.kind.chunks or (answer.advice_ns and robot.obeys)):
            heard_ns = self._now_ns + robot.kind.network.return_ns
            self._at(heard_ns, self._hear, robot, asked.arrival, answer)

    def _hear(self, robot: Robot, arrival: Arrival, answer: Answer) -> None:
        robot.hears(arrival, answer.outcome, self._now_ns)
        if answer.advice_ns and robot.obeys:
            due_ns = robot.due_ns
            robot.advised(answer.advice_ns, self._now_ns)
            if robot.due_ns != due_ns:
                self._await_capture(robot)

    # ------------------------------------------------------------------------------ workers

    def _ready(self, slot: WorkerSlot) -> WorkerReady:
        engines = {reference_of(name): self.fleet.engine(name) for name in slot.models}
        worker = self._workers[slot.slot] = _Worker(WorkerRef(slot.slot, 1), engines)
        self._idle += 1
        return WorkerReady(
            worker.ref,
            {model: measured_ns(engine) for model, engine in engines.items()},
            {model: engine.max_batch for model, engine in engines.items()},
            self._load_all(worker, slot.budget_bytes) if slot.budget_bytes else None,
        )

    def _load_all(self, worker: _Worker, budget_bytes: int) -> WorkerMemory:
        """Load each model of a worker once, as it does before it is ready."""
        footprints = {model: self.fleet.footprints[model.name] for model in worker.engines}
        memory_bytes = {model: each.memory_bytes for model, each in footprints.items()}
        worker.residency = Residency[ModelRef](budget_bytes, memory_bytes)
        for model in worker.engines:
            worker.residency.foresee(model)
        load_ns = {model: each.load_ns for model, each in footprints.items()}
        return WorkerMemory(budget_bytes, memory_bytes, load_ns, worker.residency.resident)

    def _stage(self, batch: Batch, *, go: bool) -> None:
        worker = self._workers[batch.worker.slot]
        if worker.staged is not None:
            raise LocalProtocolError(f"{batch.worker.slot} is given a second staged batch")
        for request in batch.requests:
            asked = self._waiting.pop(request.id, None)
            if asked is None:
                raise LocalProtocolError(f"request {request.id} is staged and does not wait")
            self._in_batches[request.id] = asked
        if worker.executing is not None:
            if not worker.has(batch.lane.model):
                raise LocalProtocolError(f"batch {batch.id} is staged ahead and has to be loaded")
            worker.staged, worker.goes = batch, go
        elif go:
            self._start(worker, batch)
        else:
            raise LocalProtocolError(f"{batch.worker.slot} is idle and gets a batch without go")

    def _go(self, batch: Batch) -> None:
        worker = self._workers[batch.worker.slot]
        if worker.executing is None:
            self._start(self._take_staged(batch), batch)
        elif worker.staged is not batch:
            raise LocalProtocolError(f"batch {batch.id} is not staged on {batch.worker.slot}")
        else:
            worker.goes = True

    def _take_staged(self, batch: Batch) -> _Worker:
        worker = self._workers[batch.worker.slot]
        if worker.staged is not batch or worker.goes:
            where = batch.worker.slot
            raise LocalProtocolError(f"batch {batch.id} is not staged on {where}, or is to start")
        worker.staged = None
        return worker

    def _revoke(self, effect: Revoke) -> None:
        self._take_staged(effect.batch)
        for request in effect.batch.requests:
            asked = self._in_batches.pop(request.id, None)
            if asked is not None:  # else it was answered in the same breath
                self._waiting[request.id] = asked

    def _start(self, worker: _Worker, batch: Batch) -> None:
        if worker.executing is not None:
            raise LocalProtocolError(f"{batch.worker.slot} is told to start a second batch")
        model, rows = batch.lane.model, len(batch.requests)
        engine = worker.engines[model]
        if rows > engine.max_batch:
            raise LocalProtocolError(f"{model.name} takes {engine.max_batch} rows, not {rows}")
        busy_ns = engine.sample_ns(rows, self._execution)
        if worker.last is not None and worker.last != model:
            busy_ns += self.fleet.switch_ns
        load_ns = self._load(worker, model)
        worker.executing, worker.last = batch, model
        self._idle -= 1
        done_ns = self._now_ns + load_ns + busy_ns
        self.record.busy_ns.append((self._now_ns, done_ns))
        self.record.batched_rows += rows
        self._at(done_ns, self._done, worker, batch, busy_ns, load_ns)

    def _load(self, worker: _Worker, model: ModelRef) -> int:
        """Have a model in memory; return how long that takes."""
        is_there = worker.has(model)
        if worker.residency is not None:
            worker.residency.foresee(model)
        if is_there:
            return 0
        self.record.loads += 1
        footprint = self.fleet.footprints[model.name]
        return round(footprint.load_ns * math.exp(self._execution.gauss(0, LOAD_SIGMA)))

    def _done(self, worker: _Worker, batch: Batch, busy_ns: int, load_ns: int) -> BatchDone:
        resident = worker.residency.resident if load_ns and worker.residency is not None else ()
        self._go_on(worker)
        return BatchDone(worker.ref, batch.id, busy_ns, load_ns=load_ns, resident=resident)

    def _go_on(self, worker: _Worker) -> None:
        """Let a worker that is done begin what it was told to."""
        worker.executing = None
        self._idle += 1
        if worker.staged is not None and worker.goes:
            batch, worker.staged, worker.goes = worker.staged, None, False
            if 0 < batch.latest_start_ns < self._now_ns:
                self._idle -= 1
                worker.executing = batch
                self._at(self._now_ns, self._skip, worker, batch)
            else:
                self._start(worker, batch)

    def _skip(self, worker: _Worker, batch: Batch) -> BatchDone:
        for request in batch.requests:
            self._waiting[request.id] = self._in_batches.pop(request.id)
        self._go_on(worker)
        return BatchDone(worker.ref, batch.id, 0, skipped=True)
