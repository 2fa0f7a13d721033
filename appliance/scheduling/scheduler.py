"""The scheduler: earliest deadline first within tiers, batched, nothing started to be useless.

Owner of what each worker is doing, and of the queue. On each call of `handle`:

1. Events are taken in: arrivals join the queue (a newer one replaces an older one where only the
   newest is wanted), finished batches are answered or split, lost workers' rows are isolated.
2. Whoever waited past its time to live, or is firm and can no longer make its deadline, is told.
3. Each idle worker gets the best batch; each busy one may be given a staged batch shortly before
   it finishes, which stays replaceable until it is started.

Invariants: a request ends in exactly one `Answer`; a firm request is never started when its
estimated finish is past its deadline; at most one request of a keep-latest mailbox waits; two
requests with one order key never run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import Factory, define, field, frozen

from appliance.errors import Outcome
from appliance.scheduling.advice import PhaseAdvice
from appliance.scheduling.choice import Choice, Contender, Strategy, Wait
from appliance.scheduling.deadline_aware import DeadlineAware
from appliance.scheduling.events import (
    Answer,
    Arrived,
    Batch,
    BatchDone,
    Decision,
    Effect,
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
)
from appliance.scheduling.guard import Guard, StrategyFault, StrategyMaker
from appliance.scheduling.queue import CLOSING, OverflowPolicy, Queue
from appliance.scheduling.room import Line, WaitingRoom
from appliance.scheduling.workers import Worker, Workers

STAGE_LEAD_NS = 1_000_000
"""A batch that is not full is staged this long before the worker is expected to finish."""

DIED = "its worker died while running it"


@frozen
class SchedulerStatistics:
    """A snapshot: requests that wait, by model and in all, and those in batches."""

    queued: int
    in_batches: int
    queued_by_model: dict[ModelRef, int]


@define(eq=False)
class Scheduler:
    """See the module's docstring.

    Args:
        max_queue_size: Waiting requests over all clients. Only what was already taken in and
            comes back from a worker may exceed it.
        overflow_policy: A full queue drops its oldest, or refuses the newest.
        max_retries: Further tries of a row after the engine failed on it alone.
        clock_ns: Measures how long a strategy that was chosen takes; it decides nothing else.
    """

    max_queue_size: int = 1000
    overflow_policy: OverflowPolicy = "drop_oldest"
    max_retries: int = 0
    clock_ns: Callable[[], int] | None = None

    _workers: Workers = field(factory=Workers, init=False)
    _queue: Queue = field(
        default=Factory(
            lambda self: Queue(self._workers, self.max_queue_size, self.overflow_policy),
            takes_self=True,
        ),
        init=False,
    )
    _room: WaitingRoom = field(
        default=Factory(lambda self: self._queue.room, takes_self=True), init=False
    )
    _advice: PhaseAdvice = field(factory=PhaseAdvice, init=False)
    _strategy: Strategy = field(
        default=Factory(
            lambda self: DeadlineAware(self._queue.streams.forecasts, self._queue.shedding),
            takes_self=True,
        ),
        init=False,
    )
    _guard: Guard | None = field(default=None, init=False)
    _looks_ns: int | None = field(default=None, init=False)
    _batch_id: int = field(default=0, init=False)
    _effects: list[Effect] = field(factory=list[Effect], init=False)

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        """Take in what happened until `now_ns` and say what to do.

        Args:
            events: In the order they happened; may be empty (a wake-up).
            now_ns: Monotonic nanoseconds; never smaller than in the call before.
        """
        self._effects = self._queue.effects = []
        is_news = False
        for event in events:
            if isinstance(event, BatchDone):
                self._batch_done(event, now_ns)
                continue
            is_news = True
            if isinstance(event, Arrived):
                self._queue.arrived(event.request, now_ns)
            elif isinstance(event, Withdrawn):
                self._queue.withdrawn(event)
            elif isinstance(event, WorkerReady):
                self._workers.ready(event)
            elif isinstance(event, WorkerLost):
                self._worker_lost(event, now_ns)
            else:
                self._close()
        self._queue.expire(now_ns)
        wakeup_ns = self._assign(now_ns, is_news=is_news)
        due_ns = self._queue.due_ns
        if wakeup_ns is None or (due_ns is not None and due_ns < wakeup_ns):
            wakeup_ns = due_ns
        return Decision(self._effects, wakeup_ns)

    def reconfigure(
        self, max_queue_size: int, overflow_policy: OverflowPolicy, max_retries: int
    ) -> None:
        """Let other bounds hold from now on; what waits stays."""
        self.max_queue_size = self._queue.max_queue_size = max_queue_size
        self.overflow_policy = self._queue.overflow_policy = overflow_policy
        self.max_retries = max_retries

    def use_strategy(self, maker: StrategyMaker | None) -> None:
        """Let another strategy choose from now on; None: the default. What waits or runs stays.

        If it breaks a rule, the default takes over and `fault` says why.
        """
        default = DeadlineAware(self._queue.streams.forecasts, self._queue.shedding)
        self._guard = None
        self._strategy = default
        if maker is not None:
            strategy = maker.make(self._queue.streams)
            self._strategy = self._guard = Guard(maker.name, strategy, default, self.clock_ns)

    @property
    def fault(self) -> StrategyFault | None:
        """Why the default chooses instead of the strategy it was told to use; None: it does not."""
        return self._guard.fault if self._guard is not None else None

    def statistics(self) -> SchedulerStatistics:
        """Return a snapshot of what waits and runs."""
        batches = [b for w in self._workers for b in (w.executing, w.staged) if b]
        in_batches = sum(len(batch.requests) for batch in batches)
        return SchedulerStatistics(self._room.count, in_batches, self._room.by_model())

    def planned_ns(self, model: ModelRef, batch_size: int) -> int:
        """Return the time to plan a batch with; 0 for a model that was never loaded."""
        return self._workers.planned_ns(model, batch_size)

    def _close(self) -> None:
        """End everything that waits or runs; batches that still finish are ignored."""
        for worker in self._workers:
            for batch in (worker.executing, worker.staged):
                for request in batch.requests if batch else ():
                    self._queue.answer(request, Outcome.DRAINING, CLOSING)
            worker.executing = worker.staged = None
        self._queue.close()

    # -------------------------------------------------------------------------------- workers

    def _worker_lost(self, event: WorkerLost, now_ns: int) -> None:
        worker = self._workers.lost(event.worker)
        if worker is None:
            return
        if worker.staged:
            self._queue.put_back(worker.staged.requests, worker.staged.lane)
        for request in worker.executing.requests if worker.executing else ():
            request.deaths += 1
            if request.deaths > 1 or self._workers.slots(request.lane.model) < 2:
                self._queue.answer(request, Outcome.WORKER_LOST, DIED)
            elif request.firm and request.deadline_ns <= now_ns:
                self._queue.answer(request, Outcome.EXPIRED, DIED)
            else:
                self._queue.isolate([request])

    def _batch_done(self, event: BatchDone, now_ns: int) -> None:
        worker = self._workers.find(event.worker)
        if worker is None or worker.executing is None or worker.executing.id != event.batch_id:
            return  # an answer of an older generation
        batch, worker.executing = worker.executing, None
        if event.error:
            self._failed(batch, event.error)
            return
        if not event.failed_rows:
            self._workers.observe(batch, event.busy_ns)
        for row, request in enumerate(batch.requests):
            if row in event.failed_rows:
                self._queue.answer(request, *event.failed_rows[row])
                continue
            late = now_ns > request.deadline_ns
            answer = Answer(
                request,
                Outcome.OK,
                late=late,
                batch=batch,
                row=row,
                advice_ns=self._advise(request),
            )
            self._queue.answered(answer, late=late)

    def _advise(self, request: Request) -> int:
        """Return by how much later the client of an answered request had better observe next."""
        if not request.keep_latest:
            return 0
        streams = self._queue.streams
        stream = streams.find(request)
        advice_ns = self._advice.of(stream) if stream is not None else 0
        if advice_ns and stream is not None:
            streams.advised(stream, advice_ns)
        return advice_ns

    def _failed(self, batch: Batch, error: str) -> None:
        """Try a failed batch again in halves; a row that fails alone ends."""
        requests = batch.requests
        if len(requests) > 1:
            half = (len(requests) + 1) // 2
            self._queue.isolate(requests[:half])
            self._queue.isolate(requests[half:])
            return
        requests[0].attempts += 1
        if requests[0].attempts > self.max_retries:
            self._queue.answer(requests[0], Outcome.ENGINE_FAILED, error)
        else:
            self._queue.isolate(requests)

    # ------------------------------------------------------------------------------ decisions

    def _assign(self, now_ns: int, *, is_news: bool) -> int | None:
        """Give work to every worker that can take some; return when to look again.

        Args:
            is_news: Something came or went, so that a staged batch may not be the best any more.
        """
        self._looks_ns = None
        idle = [worker for worker in self._workers if worker.executing is None]
        if idle:
            self._queue.refuse_hopeless(now_ns)
        for worker in idle:
            if worker.staged is not None:
                self._start_staged(worker, worker.staged, now_ns, is_news=is_news)
        for worker in idle:
            if worker.executing is None:
                self._start_best(worker, now_ns)
                if not (worker.executing or worker.idle_since_ns or self._room.lines):
                    worker.idle_since_ns = now_ns
        if idle:  # what just started may have been their last chance
            self._queue.refuse_hopeless(now_ns)
        self._stage_ahead(now_ns, is_news=is_news)
        return self._looks_ns

    def _look_at(self, at_ns: int) -> None:
        """Be asked again by then."""
        if self._looks_ns is None or at_ns < self._looks_ns:
            self._looks_ns = at_ns

    def _stage_ahead(self, now_ns: int, *, is_news: bool) -> None:
        """Give busy workers their next batch shortly before they need it, or at once if full."""
        for worker in self._workers:
            if worker.executing is None:
                continue
            if worker.staged is not None:
                if is_news:
                    self._choose_again(worker, worker.staged, max(now_ns, worker.free_ns))
            elif self._room.lines:
                lead_ns = worker.free_ns - STAGE_LEAD_NS
                if now_ns < lead_ns:
                    self._look_at(lead_ns)
                else:
                    choice = self._choose(worker, max(now_ns, worker.free_ns))
                    if choice is not None:
                        worker.staged = self._take(worker, choice)
                        self._effects.append(Stage(worker.staged, go=False))

    def _start_staged(self, worker: Worker, batch: Batch, now_ns: int, *, is_news: bool) -> None:
        """Start what is staged, unless something else is better by now."""
        batch.expected_ns = self._planned_ns(worker, batch.lane, len(batch.requests))
        finish_ns = now_ns + batch.expected_ns
        if any(
            request.firm and request.deadline_ns < finish_ns for request in batch.requests
        ) or not self._may_run(batch.lane, batch.requests, worker):
            self._revoke(worker, batch, now_ns)
            return
        if is_news:
            self._choose_again(worker, batch, now_ns)
        if worker.staged is not None:
            batch = worker.staged
            worker.staged = None
            self._start(worker, batch, now_ns)
            self._effects.append(Go(batch))

    def _choose_again(self, worker: Worker, batch: Batch, start_ns: int) -> None:
        """Replace what is staged if something else is better by now."""
        worker.staged = None
        before = len(self._effects)
        self._queue.put_back(batch.requests, batch.lane)
        choice = self._choose(worker, start_ns)
        if choice is not None and choice.lane is batch.lane and choice.requests == batch.requests:
            self._room.take(choice.lane, choice.requests)
            worker.staged = batch
            return
        # Some may have ended already, as something newer waits.
        self._effects.insert(before, Revoke(batch))
        if worker.executing is not None and choice is not None:
            worker.staged = self._take(worker, choice)
            self._effects.append(Stage(worker.staged, go=False))

    def _revoke(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        worker.staged = None
        self._effects.append(Revoke(batch))
        self._queue.put_back(batch.requests, batch.lane)
        self._queue.expire(now_ns)

    def _start_best(self, worker: Worker, now_ns: int) -> None:
        choice = self._choose(worker, now_ns)
        while choice is None and self._take_over(worker, now_ns):
            choice = self._choose(worker, now_ns)
        if choice is not None:
            batch = self._take(worker, choice)
            self._start(worker, batch, now_ns)
            self._effects.append(Stage(batch, go=True))

    def _start(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        if worker.idle_since_ns:
            for model in worker.models:
                self._queue.shedding.idled(model, now_ns - worker.idle_since_ns)
            worker.idle_since_ns = 0
        worker.start(batch, now_ns)
        self._room.start(batch.requests, now_ns)
        for request in batch.requests:
            if request.keep_latest and not request.background:
                stream = self._queue.streams.find(request)
                if stream is not None:
                    self._advice.started(stream, now_ns - request.arrived_ns)

    def _take_over(self, worker: Worker, now_ns: int) -> bool:
        """Take back what is staged behind a busy worker and could start on this one now."""
        for other in self._workers:
            batch = other.staged
            if batch is not None and self._may_run(batch.lane, batch.requests, worker):
                self._revoke(other, batch, now_ns)
                return True
        return False

    def _choose(self, worker: Worker, start_ns: int) -> Choice | None:
        if not self._room.lines:
            return None
        contenders = self._contenders(worker, start_ns)
        decided = self._strategy.choose(contenders, start_ns) if contenders else None
        if isinstance(decided, Wait):
            self._look_at(decided.until_ns)
            return None
        return decided

    def _contenders(self, worker: Worker, start_ns: int) -> list[Contender]:
        """Return the lanes a worker may serve, and those of tier 0 that it may have to."""
        lines = [pair for pair in self._room.lines.items() if self._may_run(*pair, worker)]
        if not lines:
            return []
        forecasts = self._queue.streams.forecasts
        if forecasts:
            waiting = {lane.model for lane, _ in lines}
            for model, forecast in forecasts.items():
                forecast.forget_overdue(start_ns)
                if forecast.arrivals and model in worker.models and model not in waiting:
                    lines.append((Lane(model), Line()))
        return [self._contender(lane, line, worker, start_ns) for lane, line in lines]

    def _contender(self, lane: Lane, line: Line, worker: Worker, start_ns: int) -> Contender:
        model = lane.model
        estimate = self._workers.estimate(model)
        most = worker.models[model]
        careful_ns = estimate.careful_ns
        times_ns = careful_ns if line.critical else estimate.planned_ns
        if len(times_ns) > most + 1:  # another worker takes larger batches of it
            careful_ns, times_ns = careful_ns[: most + 1], times_ns[: most + 1]
        return Contender(
            lane,
            line,
            times_ns,
            careful_ns,
            0 if worker.last in (None, model) else estimate.switch_ns,
            estimate.switch_ns,
            self._workers.others_free_ns(model, worker, start_ns),
            times_ns[most] / most,
        )

    def _may_run(self, lane: Lane, requests: Iterable[Request], worker: Worker) -> bool:
        """A worker runs what it hosts; a row that killed a worker never risks the last one."""
        if lane.model not in worker.models:
            return False
        if lane.isolation == 0 or not any(request.deaths for request in requests):
            return True
        return self._workers.hosting(lane.model) > 1

    def _take(self, worker: Worker, choice: Choice) -> Batch:
        self._room.take(choice.lane, choice.requests)
        self._batch_id += 1
        expected_ns = self._planned_ns(worker, choice.lane, len(choice.requests))
        return Batch(self._batch_id, choice.lane, choice.requests, worker.ref, expected_ns)

    def _planned_ns(self, worker: Worker, lane: Lane, size: int) -> int:
        """Return the time to plan a batch on a worker with."""
        estimate = self._workers.estimate(lane.model)
        switch_ns = 0 if worker.last in (None, lane.model) else estimate.switch_ns
        return estimate.of(size) + switch_ns
