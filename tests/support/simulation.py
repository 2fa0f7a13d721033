"""A fleet in virtual time: the scheduler gets what the dispatcher would give it.

A `Trace` is plain data: who asks what and when, which workers there are, what goes wrong.
`simulate` runs it to its end and returns a `Record` of every turn. What waits and what runs is
kept here a second time, from the events and effects alone, so that a rule checked on the record
does not depend on the scheduler's own books. Breaking the workers' protocol (more batches than a
worker has room for, Go for nothing) fails at once.

A worker runs one batch at a time. One of an urgent model, and by chance (`Trace.overlap`) any
other, overtakes what runs of another model: that goes on when it is done.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from typing import Literal

from attrs import define, field, frozen

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
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
    Released,
    Request,
    Revoke,
    Stage,
    Withdrawn,
    WorkerLost,
    WorkerReady,
    WorkerRef,
    WorkerRetired,
)

MS = 1_000_000
MAX_TURNS = 20_000
MOST_HELD = 2
"""Batches that a worker has room for."""

Fault = Literal["", "raises", "kills", "bad row"]


@frozen(kw_only=True)
class Model:
    """An engine that takes `base_ns + row_ns * n`."""

    name: str
    max_batch: int = 1
    base_ns: int = 0
    row_ns: int = 10 * MS
    urgent: bool = False

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, "1")

    def time_ns(self, rows: int) -> int:
        return self.base_ns + self.row_ns * rows


@frozen(kw_only=True)
class Ask:
    """One observation. `fault` is what it does to the engine, each time it runs."""

    at_ns: int
    session: str = "robot"
    model: str = "policy"
    budget_ns: int = 50 * MS
    ttl_ns: int = 5000 * MS
    shape: int = 0
    keep_latest: bool = True
    firm: bool = False
    dry: bool = False
    runs_out: bool = False
    tier: int = 1
    priority: int = 1
    ordered: bool = False
    queue_limit: int = 64
    client: str = ""
    period_ns: int = 0
    tag: int = 0
    fault: Fault = ""


@frozen
class Death:
    """The oldest worker of a slot dies. If it has no successor, it is back after a while."""

    at_ns: int
    slot: str
    back_after_ns: int


@frozen
class Succession:
    """A worker slot, if it is up, gets a worker with these models in place of the one it has."""

    at_ns: int
    slot: str
    models: tuple[str, ...]


@frozen
class Withdrawal:
    """A session takes back what it has waiting."""

    at_ns: int
    event: Withdrawn


@frozen(kw_only=True)
class Trace:
    """Everything that will happen, as far as it is not the scheduler's to decide.

    `report_ns` is how long the core takes to hear that a batch is done; `overlap` how often a batch
    that is not urgent overtakes one of another model.
    """

    models: tuple[Model, ...] = (Model(name="policy"),)
    slots: tuple[tuple[str, tuple[str, ...]], ...] = (("cpu-0", ("policy",)),)
    asks: tuple[Ask, ...] = ()
    deaths: tuple[Death, ...] = ()
    successions: tuple[Succession, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()
    max_queue_size: int = 1000
    overflow_policy: Literal["drop_oldest", "reject_newest"] = "drop_oldest"
    max_retries: int = 0
    noise: float = 0.0
    timer_lateness_ns: int = 0
    restart_ns: int = 20 * MS
    report_ns: int = 0
    overlap: float = 0.0


@frozen
class Waiting:
    """A waiting request as it was after a turn. `yields`: it is not its client's turn."""

    request: Request
    lane: Lane
    deaths: int
    firm: bool
    yields: bool

    @classmethod
    def of(cls, request: Request) -> Waiting:
        """Return how a request is now."""
        yields = request.yields or request.background
        return cls(request, request.lane, request.deaths, request.firm, yields)


@frozen
class Start:
    """A batch that was started, as it was then."""

    now_ns: int
    batch: Batch
    lanes: tuple[Lane, ...]
    deaths: tuple[int, ...]
    planned_ns: int
    hosts: int


@define(eq=False)
class Run:
    """A batch that a worker runs, or skips. `ends_ns` is later by what overtakes it."""

    batch: Batch
    busy_ns: int
    ends_ns: int
    failed: dict[int, tuple[Outcome, str]] = field(factory=dict)
    error: str = ""
    skipped: bool = False


@define(eq=False)
class SimulatedWorker:
    """One life of a worker process.

    What the core knows: `told` is what it was told to run and has not heard the end of, in that
    order; `staged` what it may yet take back.
    What the worker does: the last of `running` runs, and has overtaken the one before it; `behind`
    begins when both are done.
    """

    ref: WorkerRef
    models: dict[ModelRef, Model]
    retired: bool = False
    told: list[Batch] = field(factory=list)
    staged: Batch | None = None
    running: list[Run] = field(factory=list)
    behind: Batch | None = None
    free_ns: dict[int, int] = field(factory=dict)


@frozen
class WorkerView:
    """A worker after a turn, as far as the core has heard.

    `free_ns` is when the first of `told` is expected to be done, `delay_ns` what the scheduler has
    learnt to add to its next batch.
    """

    ref: WorkerRef
    models: dict[ModelRef, Model]
    retired: bool
    told: tuple[Batch, ...]
    staged: Batch | None
    free_ns: int
    delay_ns: int

    @classmethod
    def of(cls, worker: SimulatedWorker, scheduler: Scheduler) -> WorkerView:
        """Return how a worker is now."""
        told = tuple(worker.told)
        free_ns = worker.free_ns.get(told[0].id, 0) if told else 0
        known = scheduler._workers.find(worker.ref)
        delay_ns = known.delay_ns if known else 0
        return cls(
            worker.ref, worker.models, worker.retired, told, worker.staged, free_ns, delay_ns
        )


@frozen
class Turn:
    """One call of `handle`, and how things stood after it.

    `expected` are the models of which the scheduler expects somebody of tier 0.
    """

    now_ns: int
    events: tuple[Event, ...]
    decision: Decision
    starts: tuple[Start, ...]
    waiting: tuple[Waiting, ...]
    workers: tuple[WorkerView, ...]
    planned_ns: dict[ModelRef, int]
    expected: frozenset[ModelRef]

    @property
    def answers(self) -> list[Answer]:
        return [effect for effect in self.decision.effects if isinstance(effect, Answer)]


@define(eq=False)
class Record:
    """What came of a trace."""

    trace: Trace
    scheduler: Scheduler
    turns: list[Turn] = field(factory=list)
    requests: list[Request] = field(factory=list)
    returned: set[int] = field(factory=set)

    @property
    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Every answer, with the time it was given."""
        return ((turn.now_ns, answer) for turn in self.turns for answer in turn.answers)

    @property
    def starts(self) -> list[Start]:
        return [start for turn in self.turns for start in turn.starts]

    def outcomes(self) -> dict[int, Outcome]:
        """Outcome by position in `trace.asks` sorted by time."""
        return {answer.request.id: answer.outcome for _, answer in self.answers}

    def served(self) -> list[str]:
        """The sessions of started requests, in the order they were started."""
        return [request.session for start in self.starts for request in start.batch.requests]

    def log(self) -> str:
        """One line for each effect: two runs are the same if their logs are."""
        return "\n".join(
            f"{turn.now_ns} {line_of(effect)}"
            for turn in self.turns
            for effect in turn.decision.effects
        )


def line_of(effect: object) -> str:
    """Return all that matters of an effect."""
    if isinstance(effect, Answer):
        ended = f"{effect.outcome.name} {effect.late} {effect.message}"
        return f"answer {effect.request.id} {ended} advised {effect.advice_ns}"
    if isinstance(effect, (Stage, Go, Revoke)):
        rows = [request.id for request in effect.batch.requests]
        return f"{type(effect).__name__} {effect.batch.id} {effect.batch.worker} {rows}"
    if isinstance(effect, Released):
        return f"Released {effect.worker}"
    raise TypeError(effect)


@define(eq=False)
class Simulation:
    """See the module's docstring."""

    trace: Trace
    scheduler: Scheduler
    on_answer: Callable[[Simulation, Answer], None] | None = None
    now_ns: int = 0
    record: Record = field(init=False)
    _agenda: list[tuple[int, int, Callable[[], Event | None]]] = field(factory=list, init=False)
    _count: int = field(default=0, init=False)
    _wakeup_ns: int | None = field(default=None, init=False)
    _random: random.Random = field(init=False)
    _models: dict[str, Model] = field(init=False)
    _workers: dict[WorkerRef, SimulatedWorker] = field(factory=dict, init=False)
    _slots: dict[str, tuple[str, ...]] = field(init=False)
    _generations: dict[str, int] = field(factory=dict, init=False)
    _waiting: dict[int, Request] = field(factory=dict, init=False)
    _faults: dict[int, Fault] = field(factory=dict, init=False)
    _lanes: dict[Lane, Lane] = field(factory=dict, init=False)
    _starts: list[Start] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        trace = self.trace
        self.record = Record(trace, self.scheduler)
        self._random = random.Random(7)
        self._models = {model.name: model for model in trace.models}
        self._slots = dict(trace.slots)
        for slot in self._slots:
            self.at(0, lambda slot=slot: self._up(slot))
        for ask in sorted(trace.asks, key=lambda ask: ask.at_ns):
            self.ask(ask)
        for death in trace.deaths:
            self.at(death.at_ns, lambda d=death: self.die(d.slot, d.back_after_ns))
        for succession in trace.successions:
            self.at(succession.at_ns, lambda s=succession: self._succeed(s))
        for withdrawal in trace.withdrawals:
            self.at(withdrawal.at_ns, lambda w=withdrawal: w.event)

    def at(self, at_ns: int, action: Callable[[], Event | None]) -> None:
        """Let something happen later; it returns the event the scheduler is told."""
        self._count += 1
        heapq.heappush(self._agenda, (at_ns, self._count, action))

    def ask(self, ask: Ask) -> None:
        """Let an observation arrive."""
        self.at(ask.at_ns, lambda: Arrived(self._request(ask)))

    def _request(self, ask: Ask) -> Request:
        request = Request(
            id=len(self.record.requests) + 1,
            session=ask.session,
            client=ask.client or ask.session,
            lane=self._lane(ask),
            arrived_ns=ask.at_ns,
            deadline_ns=ask.at_ns + ask.budget_ns,
            expires_ns=ask.at_ns + ask.ttl_ns,
            period_ns=ask.period_ns,
            keep_latest=ask.keep_latest,
            firm=ask.firm,
            dry=ask.dry,
            runs_out=ask.runs_out,
            tier=ask.tier,
            priority=ask.priority,
            order_key=(ask.session, ask.model) if ask.ordered else None,
            queue_limit=ask.queue_limit,
            tag=ask.tag,
        )
        self.record.requests.append(request)
        self._faults[request.id] = ask.fault
        return request

    def _lane(self, ask: Ask) -> Lane:
        """Return the one lane of a model and shape, as the dispatcher does."""
        lane = Lane(self._models[ask.model].ref, ((ask.shape,),) if ask.shape else ())
        return self._lanes.setdefault(lane, lane)

    # ---------------------------------------------------------------------------- the loop

    def run(self, until_ns: int | None = None) -> Record:
        """Run until nothing is left to happen, or until a time."""
        while True:
            next_ns = self._next_ns()
            if next_ns is None or (until_ns is not None and next_ns > until_ns):
                return self.record
            self._wakeup_ns = self._turn(next_ns).decision.next_wakeup_ns
            assert len(self.record.turns) < MAX_TURNS, "the simulation does not come to an end"

    def _next_ns(self) -> int | None:
        times_ns = [self._agenda[0][0]] if self._agenda else []
        if self._wakeup_ns is not None:
            times_ns.append(self._wakeup_ns + self.trace.timer_lateness_ns)
        return min(times_ns, default=None)

    def _turn(self, now_ns: int) -> Turn:
        assert now_ns >= self.now_ns
        self.now_ns = now_ns
        self._starts = []
        events: list[Event] = []
        while self._agenda and self._agenda[0][0] <= now_ns:
            event = heapq.heappop(self._agenda)[2]()
            if event is not None:
                self._note(event)
                events.append(event)
        decision = self.scheduler.handle(events, now_ns)
        for effect in decision.effects:
            self._perform(effect)
        turn = Turn(
            now_ns,
            tuple(events),
            decision,
            tuple(self._starts),
            tuple(Waiting.of(each) for each in self._waiting.values()),
            tuple(WorkerView.of(each, self.scheduler) for each in self._workers.values()),
            {m.ref: self.scheduler.planned_ns(m.ref, 1) for m in self.trace.models},
            frozenset(
                model
                for model, forecast in self.scheduler._queue.streams.forecasts.items()
                if forecast.arrivals
            ),
        )
        self.record.turns.append(turn)
        return turn

    # ------------------------------------------------------------------- what the world does

    def _up(self, slot: str) -> WorkerReady:
        generation = self._generations[slot] = self._generations.get(slot, 0) + 1
        models = {self._models[name].ref: self._models[name] for name in self._slots[slot]}
        worker = SimulatedWorker(WorkerRef(slot, generation), models)
        self._workers[worker.ref] = worker
        times_ns = {
            ref: {size: model.time_ns(size) for size in {1, model.max_batch}}
            for ref, model in models.items()
        }
        max_batch = {ref: model.max_batch for ref, model in models.items()}
        urgent = frozenset(ref for ref, model in models.items() if model.urgent)
        return WorkerReady(worker.ref, times_ns, max_batch, urgent=urgent)

    def _succeed(self, succession: Succession) -> WorkerReady | None:
        """A worker comes up in the place of another, which is retired then."""
        slot = succession.slot
        former = WorkerRef(slot, self._generations[slot])
        if former not in self._workers:
            return None
        self._slots[slot] = succession.models
        self.at(self.now_ns, lambda: self._retire(former))
        return self._up(slot)

    def _retire(self, ref: WorkerRef) -> WorkerRetired:
        """A worker that has a successor is left what nobody else has."""
        worker = self._workers.get(ref)
        if worker is not None:  # it has not died meanwhile
            worker.retired = True
            others = [other.models for other in self._workers.values() if not other.retired]
            worker.models = {
                model: engine
                for model, engine in worker.models.items()
                if not any(model in models for models in others)
            }
        return WorkerRetired(ref)

    def die(self, slot: str, back_after_ns: int) -> WorkerLost | None:
        """The oldest worker process of a slot ends; see `Death`."""
        refs = [ref for ref in self._workers if ref.slot == slot]
        return self._end_process(refs[0], back_after_ns) if refs else None

    def _end_process(self, ref: WorkerRef, back_after_ns: int) -> WorkerLost | None:
        worker = self._workers.pop(ref, None)
        if worker is None:
            return None
        if ref.generation == self._generations[ref.slot]:
            self.at(self.now_ns + back_after_ns, lambda: self._up(ref.slot))
        for batch in (*worker.told, worker.staged):
            self._return(batch.requests if batch else [])
        return WorkerLost(ref)

    def _return(self, requests: list[Request]) -> None:
        for request in requests:
            self._waiting[request.id] = request
            self.record.returned.add(request.id)

    def _note(self, event: Event) -> None:
        if isinstance(event, Arrived):
            self._waiting[event.request.id] = event.request

    # ------------------------------------------------------------- what the scheduler asks for

    def _perform(self, effect: object) -> None:
        if isinstance(effect, Answer):
            self._waiting.pop(effect.request.id, None)
            if self.on_answer is not None:
                self.on_answer(self, effect)
        elif isinstance(effect, Stage):
            self._stage(effect.batch, go=effect.go)
        elif isinstance(effect, Go):
            worker = self._worker(effect.batch)
            assert worker.staged is effect.batch, "Go for a batch that is not staged"
            worker.staged = None
            self._tell(worker, effect.batch)
        elif isinstance(effect, Revoke):
            worker = self._worker(effect.batch)
            assert worker.staged is effect.batch, "Revoke of a batch that is not staged"
            worker.staged = None
            self._return(effect.batch.requests)
        elif isinstance(effect, Released):
            self._release(self._workers.pop(effect.worker))

    def _worker(self, batch: Batch) -> SimulatedWorker:
        assert batch.worker in self._workers, "an effect for a worker that is gone"
        return self._workers[batch.worker]

    def _stage(self, batch: Batch, *, go: bool) -> None:
        worker = self._worker(batch)
        assert worker.staged is None, "a second batch staged"
        assert len(worker.told) < MOST_HELD, "no room for another batch"
        assert batch.lane.model in worker.models, "staged where its model is not"
        for request in batch.requests:
            assert self._waiting.pop(request.id, None) is request, "staged what does not wait"
        assert go or worker.told, "staged on an idle worker without go"
        if go:
            self._tell(worker, batch)
        else:
            worker.staged = batch

    def _release(self, worker: SimulatedWorker) -> None:
        """Let a worker go: its process ends a little later."""
        assert worker.retired, "a worker without a successor released"
        assert not worker.told, "released while it runs something"
        assert worker.staged is None, "released while something is staged"
        for request in self._waiting.values():
            assert request.lane.model not in worker.models, "released while somebody waits for it"
        self.at(self.now_ns + MS, lambda: WorkerLost(worker.ref))

    # ---------------------------------------------------------------------- what workers do

    def _tell(self, worker: SimulatedWorker, batch: Batch) -> None:
        """Let a worker run a batch, as soon as it can."""
        worker.told.append(batch)
        if not worker.running or self._overtakes(batch, worker.running[-1].batch):
            self._begin(worker, batch)
        else:
            worker.behind = batch

    def _overtakes(self, batch: Batch, other: Batch) -> bool:
        """Return whether a worker runs a batch before the other, which it runs already."""
        model, others = (self._models[each.lane.model.name] for each in (batch, other))
        if model is others:
            return False
        is_first = model.urgent and not others.urgent
        return is_first or self._random.random() < self.trace.overlap

    def _begin(self, worker: SimulatedWorker, batch: Batch) -> None:
        """Let a worker run a batch from now on, or skip it as it is too late."""
        worker.free_ns[batch.id] = self.now_ns + batch.expected_ns
        if 0 < batch.latest_start_ns < self.now_ns:
            run = Run(batch, 0, self.now_ns, skipped=True)
        else:
            run = self._start(worker, batch)
        for overtaken in worker.running:
            overtaken.ends_ns += run.busy_ns
        worker.running.append(run)
        self.at(run.ends_ns, lambda: self._done(worker, run))

    def _start(self, worker: SimulatedWorker, batch: Batch) -> Run:
        model, size = self._models[batch.lane.model.name], len(batch.requests)
        self._starts.append(
            Start(
                self.now_ns,
                batch,
                tuple(request.lane for request in batch.requests),
                tuple(request.deaths for request in batch.requests),
                self.scheduler.planned_ns(model.ref, size),
                sum(model.ref in other.models for other in self._workers.values()),
            )
        )
        noise = 1 + self.trace.noise * (2 * self._random.random() - 1)
        busy_ns = round(model.time_ns(size) * noise)
        faults = [self._faults[request.id] for request in batch.requests]
        if "kills" in faults:
            killed_ns = self.now_ns + busy_ns // 2
            self.at(killed_ns, lambda: self._end_process(worker.ref, self.trace.restart_ns))
        failed = {
            row: (Outcome.INVALID, "truncated")
            for row, fault in enumerate(faults)
            if fault == "bad row"
        }
        error = "ValueError: no" if "raises" in faults else ""
        return Run(batch, busy_ns, self.now_ns + busy_ns, failed, error)

    def _done(self, worker: SimulatedWorker, run: Run) -> BatchDone | None:
        """Let a worker go on after a batch, and the core hear of that, at once or later."""
        if worker.ref not in self._workers:
            return None  # it died meanwhile
        if self.now_ns < run.ends_ns:
            self.at(run.ends_ns, lambda: self._done(worker, run))
            return None
        event = BatchDone(
            worker.ref,
            run.batch.id,
            run.busy_ns,
            run.failed,
            run.error,
            self.now_ns,
            skipped=run.skipped,
        )
        worker.running.remove(run)
        batch, worker.behind = worker.behind, None
        if batch is not None:
            self._begin(worker, batch)
        if not self.trace.report_ns:
            return self._hear(worker, run, event)
        self.at(self.now_ns + self.trace.report_ns, lambda: self._hear(worker, run, event))
        return None

    def _hear(self, worker: SimulatedWorker, run: Run, event: BatchDone) -> BatchDone | None:
        """Tell the core that a worker is done with a batch."""
        if worker.ref not in self._workers:
            return None  # it died meanwhile
        if run.batch is not worker.told[0]:
            worker.free_ns[worker.told[0].id] += run.busy_ns
        worker.told.remove(run.batch)
        if run.skipped or run.error:
            self._return(run.batch.requests)
        return event


def simulation(
    trace: Trace, on_answer: Callable[[Simulation, Answer], None] | None = None
) -> Simulation:
    """Set a trace up."""
    scheduler = Scheduler(trace.max_queue_size, trace.overflow_policy, trace.max_retries)
    return Simulation(trace, scheduler, on_answer)


def simulate(trace: Trace) -> Record:
    """Run a trace to its end."""
    return simulation(trace).run()
