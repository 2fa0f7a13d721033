"""A fleet in virtual time: the scheduler gets what the dispatcher would give it.

A `Trace` is plain data: who asks what and when, which workers there are, what goes wrong.
`simulate` runs it to its end and returns a `Record` of every turn. What waits and what runs is
kept here a second time, from the events and effects alone, so that a rule checked on the record
does not depend on the scheduler's own books. Breaking the workers' protocol (two batches staged,
Go for nothing) fails at once.
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
    Request,
    Revoke,
    Stage,
    Withdrawn,
    WorkerLost,
    WorkerReady,
    WorkerRef,
)

MS = 1_000_000
MAX_TURNS = 20_000

Fault = Literal["", "raises", "kills", "bad row"]


@frozen(kw_only=True)
class Model:
    """An engine that takes `base_ns + row_ns * n`."""

    name: str
    max_batch: int = 1
    base_ns: int = 0
    row_ns: int = 10 * MS

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
    """A worker slot dies and is back after a while."""

    at_ns: int
    slot: str
    back_after_ns: int


@frozen
class Withdrawal:
    """A session takes back what it has waiting."""

    at_ns: int
    event: Withdrawn


@frozen(kw_only=True)
class Trace:
    """Everything that will happen, as far as it is not the scheduler's to decide.

    `report_ns` is how long the core takes to hear that a batch is done.
    """

    models: tuple[Model, ...] = (Model(name="policy"),)
    slots: tuple[tuple[str, tuple[str, ...]], ...] = (("cpu-0", ("policy",)),)
    asks: tuple[Ask, ...] = ()
    deaths: tuple[Death, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()
    max_queue_size: int = 1000
    overflow_policy: Literal["drop_oldest", "reject_newest"] = "drop_oldest"
    max_retries: int = 0
    noise: float = 0.0
    timer_lateness_ns: int = 0
    restart_ns: int = 20 * MS
    report_ns: int = 0


@frozen
class Waiting:
    """A waiting request as it was after a turn."""

    request: Request
    lane: Lane
    deaths: int
    firm: bool


@frozen
class Start:
    """A batch that was started, as it was then."""

    now_ns: int
    batch: Batch
    lanes: tuple[Lane, ...]
    deaths: tuple[int, ...]
    planned_ns: int
    hosts: int
    staged: bool


@define(eq=False)
class SimulatedWorker:
    """One life of a worker process.

    `running` is what it runs; `executing` what it runs as far as the core has heard, and `ahead`
    what it began, or skipped, after that. `goes`: `staged` is to start when it is done.
    """

    ref: WorkerRef
    models: dict[ModelRef, Model]
    running: Batch | None = None
    executing: Batch | None = None
    ahead: Batch | None = None
    staged: Batch | None = None
    goes: bool = False
    free_ns: dict[int, int] = field(factory=dict)


@frozen
class WorkerView:
    """A worker after a turn, as far as the core has heard. `goes`: `staged` is to start next.

    `delay_ns` is what the scheduler has learnt to add to its next batch.
    """

    ref: WorkerRef
    models: dict[ModelRef, Model]
    executing: Batch | None
    staged: Batch | None
    goes: bool
    free_ns: int
    delay_ns: int

    @classmethod
    def of(cls, worker: SimulatedWorker, scheduler: Scheduler) -> WorkerView:
        """Return how a worker is now."""
        executing, staged, goes = worker.executing, worker.staged, worker.goes
        if worker.ahead is not None:
            staged, goes = worker.ahead, True
        free_ns = worker.free_ns.get(executing.id, 0) if executing else 0
        known = scheduler._workers.find(worker.ref)
        delay_ns = known.delay_ns if known else 0
        return cls(worker.ref, worker.models, executing, staged, goes, free_ns, delay_ns)


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
    _workers: dict[str, SimulatedWorker] = field(factory=dict, init=False)
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
        for slot, _ in trace.slots:
            self.at(0, lambda slot=slot: self._up(slot))
        for ask in sorted(trace.asks, key=lambda ask: ask.at_ns):
            self.ask(ask)
        for death in trace.deaths:
            self.at(death.at_ns, lambda d=death: self.die(d.slot, d.back_after_ns))
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
            tuple(Waiting(r, r.lane, r.deaths, r.firm) for r in self._waiting.values()),
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
        names = dict(self.trace.slots)[slot]
        models = {self._models[name].ref: self._models[name] for name in names}
        worker = SimulatedWorker(WorkerRef(slot, generation), models)
        self._workers[slot] = worker
        times_ns = {
            ref: {size: model.time_ns(size) for size in {1, model.max_batch}}
            for ref, model in models.items()
        }
        max_batch = {ref: model.max_batch for ref, model in models.items()}
        return WorkerReady(worker.ref, times_ns, max_batch)

    def die(self, slot: str, back_after_ns: int) -> WorkerLost | None:
        """A worker process ends; its slot is back after a while."""
        worker = self._workers.pop(slot, None)
        if worker is None:
            return None
        self.at(self.now_ns + back_after_ns, lambda: self._up(slot))
        for batch in (worker.executing, worker.ahead, worker.staged):
            self._return(batch.requests if batch else [])
        return WorkerLost(worker.ref)

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
            assert not worker.goes, "Go for a second time"
            worker.goes = True
            self._go_on(worker)
        elif isinstance(effect, Revoke):
            worker = self._worker(effect.batch)
            assert worker.staged is effect.batch, "Revoke of a batch that is not staged"
            assert not worker.goes, "Revoke of a batch that was told to go"
            worker.staged = None
            self._return(effect.batch.requests)

    def _worker(self, batch: Batch) -> SimulatedWorker:
        worker = self._workers[batch.worker.slot]
        assert worker.ref == batch.worker, "an effect for a worker that is gone"
        return worker

    def _stage(self, batch: Batch, *, go: bool) -> None:
        worker = self._worker(batch)
        assert worker.staged is None, "a second batch staged"
        for request in batch.requests:
            assert self._waiting.pop(request.id, None) is request, "staged what does not wait"
        assert go or worker.executing is not None, "staged on an idle worker without go"
        worker.staged, worker.goes = batch, go
        self._go_on(worker, staged=False)

    def _go_on(self, worker: SimulatedWorker, *, staged: bool = True) -> None:
        """Let a worker that has nothing to do begin what it was told to."""
        batch = worker.staged
        if worker.running is not None or batch is None or not worker.goes:
            return
        worker.staged, worker.goes = None, False
        worker.free_ns[batch.id] = self.now_ns + batch.expected_ns
        if worker.executing is None:
            worker.executing = batch
        else:
            worker.ahead = batch
        if 0 < batch.latest_start_ns < self.now_ns:
            worker.running = batch
            self.at(self.now_ns, lambda: self._skip(worker, batch))
        else:
            self._start(worker, batch, staged=staged)

    def _start(self, worker: SimulatedWorker, batch: Batch, *, staged: bool) -> None:
        model = batch.lane.model
        self._starts.append(
            Start(
                self.now_ns,
                batch,
                tuple(request.lane for request in batch.requests),
                tuple(request.deaths for request in batch.requests),
                self.scheduler.planned_ns(model, len(batch.requests)),
                sum(model in other.models for other in self._workers.values()),
                staged,
            )
        )
        worker.running = batch
        noise = 1 + self.trace.noise * (2 * self._random.random() - 1)
        busy_ns = round(worker.models[model].time_ns(len(batch.requests)) * noise)
        faults = [self._faults[request.id] for request in batch.requests]
        if "kills" in faults:
            slot, ref = worker.ref
            self.at(self.now_ns + busy_ns // 2, lambda: self._killed(slot, ref))
        self.at(self.now_ns + busy_ns, lambda: self._done(worker, batch, busy_ns, faults))

    def _killed(self, slot: str, generation: int) -> WorkerLost | None:
        worker = self._workers.get(slot)
        if worker is None or worker.ref.generation != generation:
            return None
        return self.die(slot, self.trace.restart_ns)

    def _done(
        self, worker: SimulatedWorker, batch: Batch, busy_ns: int, faults: list[Fault]
    ) -> BatchDone | None:
        if self._workers.get(worker.ref.slot) is not worker:
            return None  # it died meanwhile
        failed = {
            row: (Outcome.INVALID, "truncated")
            for row, fault in enumerate(faults)
            if fault == "bad row"
        }
        error = "ValueError: no" if "raises" in faults else ""
        event = BatchDone(worker.ref, batch.id, busy_ns, failed, error, self.now_ns)
        return self._finish(worker, batch, event, returned=bool(error))

    def _skip(self, worker: SimulatedWorker, batch: Batch) -> BatchDone | None:
        event = BatchDone(worker.ref, batch.id, 0, finished_ns=self.now_ns, skipped=True)
        return self._finish(worker, batch, event, returned=True)

    def _finish(
        self, worker: SimulatedWorker, batch: Batch, event: BatchDone, *, returned: bool
    ) -> BatchDone | None:
        """Let a worker go on, and the core hear of what it has done."""
        worker.running = None
        self._go_on(worker)
        if not self.trace.report_ns:
            return self._hear(worker, batch, event, returned=returned)
        self.at(
            self.now_ns + self.trace.report_ns,
            lambda: self._hear(worker, batch, event, returned=returned),
        )
        return None

    def _hear(
        self, worker: SimulatedWorker, batch: Batch, event: BatchDone, *, returned: bool
    ) -> BatchDone | None:
        if self._workers.get(worker.ref.slot) is not worker:
            return None  # it died meanwhile
        worker.executing, worker.ahead = worker.ahead, None
        if returned:
            self._return(batch.requests)
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
