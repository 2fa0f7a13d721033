"""The scheduler: answers before robots need them, batched, nothing started to be useless.

Owner of what each worker is doing, and of the queue. On each call of `handle`:

1. Events are taken in: arrivals join the queue (a newer one replaces an older one where only the
   newest is wanted), finished batches are answered or split, lost workers' rows are isolated.
2. Whoever waited past its time to live, or is firm and can no longer make its deadline, is told.
3. Workers that are idle, or soon will be, get their next batch (`assignment`), as the strategy
   chooses, by default `deadline_aware`.

Invariants: a request ends in exactly one `Answer`; a firm request is never started when its
estimated finish is past its deadline (of what is committed, the likely one); at most one request of
a keep-latest mailbox waits; two requests with one order key never run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import Factory, define, field, frozen

from appliance.errors import Outcome
from appliance.scheduling.advice import PhaseAdvice
from appliance.scheduling.assignment import Assignment
from appliance.scheduling.deadline_aware import DeadlineAware
from appliance.scheduling.events import (
    Answer,
    Arrived,
    Batch,
    BatchDone,
    ClocksRead,
    Closing,
    Decision,
    Effect,
    Event,
    ModelRef,
    Withdrawn,
    WorkerLost,
    WorkerReady,
    WorkerRetired,
)
from appliance.scheduling.guard import Guard, StrategyFault, StrategyMaker
from appliance.scheduling.queue import CLOSING, OverflowPolicy, Queue
from appliance.scheduling.room import WaitingRoom
from appliance.scheduling.workers import Worker, Workers

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
    _default: DeadlineAware = field(
        default=Factory(
            lambda self: DeadlineAware(self._queue.streams.forecasts, self._queue.shedding),
            takes_self=True,
        ),
        init=False,
    )
    _assignment: Assignment = field(
        default=Factory(
            lambda self: Assignment(self._workers, self._queue, self._default),
            takes_self=True,
        ),
        init=False,
    )
    _guard: Guard | None = field(default=None, init=False)
    _is_succeeded: bool = field(default=False, init=False)  # some worker was, once
    _effects: list[Effect] = field(factory=list[Effect], init=False)

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        """Take in what happened until `now_ns` and say what to do.

        Args:
            events: In the order they happened; may be empty (a wake-up).
            now_ns: Monotonic nanoseconds; never smaller than in the call before.
        """
        self._effects = self._queue.effects = []
        self._room.look(now_ns)
        is_news = False
        for event in events:
            if isinstance(event, BatchDone):
                self._batch_done(event, now_ns)
                is_news = is_news or event.skipped
                continue
            is_news = True
            if isinstance(event, Arrived):
                self._queue.arrived(event.request, now_ns)
            elif isinstance(event, Withdrawn):
                self._queue.withdrawn(event)
            elif isinstance(event, Closing):
                self._close()
            else:
                self._worker_changed(event, now_ns)
        self._queue.expire(now_ns)
        wakeup_ns = self._assignment.assign(now_ns, is_news=is_news)
        if self._is_succeeded:
            self._assignment.release()
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
        if maker is None:
            self._guard, self._assignment.strategy = None, self._default
        else:
            strategy = maker.make(self._queue.streams)
            self._guard = Guard(maker.name, strategy, self._default, self.clock_ns)
            self._assignment.strategy = self._guard

    @property
    def fault(self) -> StrategyFault | None:
        """Why the default chooses instead of the strategy it was told to use; None: it does not."""
        return self._guard.fault if self._guard is not None else None

    def statistics(self) -> SchedulerStatistics:
        """Return a snapshot of what waits and runs."""
        batches = [b for w in self._workers for b in (*w.running, w.staged) if b]
        in_batches = sum(len(batch.requests) for batch in batches)
        return SchedulerStatistics(self._room.count, in_batches, self._room.by_model())

    def planned_ns(self, model: ModelRef, batch_size: int) -> int:
        """Return the time to plan a batch with; 0 for a model that was never loaded."""
        return self._workers.planned_ns(model, batch_size)

    def overdue_ns(self, now_ns: int) -> dict[str, int]:
        """Return how overdue clients are, by name: who should have observed by now."""
        return self._queue.streams.overdue_ns(now_ns)

    def _close(self) -> None:
        """End everything that waits or runs; batches that still finish are ignored."""
        for worker in self._workers:
            for batch in (*worker.running, worker.staged):
                for request in batch.requests if batch else ():
                    self._queue.answer(request, Outcome.DRAINING, CLOSING)
            worker.executing = worker.beside = worker.staged = None
            worker.committed_ns = 0
        self._queue.close()

    # -------------------------------------------------------------------------------- workers

    def _worker_changed(
        self, event: WorkerReady | WorkerLost | WorkerRetired | ClocksRead, now_ns: int
    ) -> None:
        if isinstance(event, WorkerReady):
            self._workers.ready(event)
        elif isinstance(event, WorkerLost):
            self._worker_lost(event, now_ns)
        elif isinstance(event, WorkerRetired):
            self._worker_retired(event, now_ns)
        else:
            self._workers.clocks_read(event)

    def _worker_lost(self, event: WorkerLost, now_ns: int) -> None:
        worker = self._workers.lost(event.worker)
        if worker is None:
            return
        if worker.staged:
            self._queue.put_back(worker.staged.requests, worker.staged.lane)
        for request in [each for batch in worker.running for each in batch.requests]:
            request.deaths += 1
            if request.deaths > 1 or self._workers.slots(request.lane.model) < 2:
                self._queue.answer(request, Outcome.WORKER_LOST, DIED)
            elif request.firm and request.deadline_ns <= now_ns and not request.runs_out:
                self._queue.answer(request, Outcome.EXPIRED, DIED)
            else:
                self._queue.isolate([request])

    def _worker_retired(self, event: WorkerRetired, now_ns: int) -> None:
        worker = self._workers.find(event.worker)
        if worker is not None:
            self._is_succeeded = True
            self._assignment.retire(worker, now_ns)

    def _batch_done(self, event: BatchDone, now_ns: int) -> None:
        worker = self._workers.find(event.worker)
        batch = worker.find(event.batch_id) if worker is not None else None
        if worker is None or batch is None:
            return  # an answer of an older generation
        if batch is worker.executing:
            worker.done(event, now_ns)
        else:
            self._assignment.overtaken(worker, batch, event, now_ns)
        if event.skipped:
            self._room.take_back(batch.requests)
        self._assignment.go_on(worker)
        if event.skipped:
            self._queue.put_back(batch.requests, batch.lane)
        elif event.error:
            self._failed(batch, event.error)
        else:
            self._executed(worker, batch, event, now_ns)

    def _executed(self, worker: Worker, batch: Batch, event: BatchDone, now_ns: int) -> None:
        """Answer the rows of a batch."""
        if not event.failed_rows:
            self._workers.observe(worker, batch, event)
        failed_rows, advice, streams = event.failed_rows, self._advice, self._queue.streams
        for row, request in enumerate(batch.requests):
            if row in failed_rows:
                self._queue.answer(request, *failed_rows[row])
                continue
            advice_ns = 0
            if request.keep_latest and request.stream is not None:
                if not request.background:
                    wait_ns = request.started_ns - request.arrived_ns
                    advice.started(request.stream, wait_ns)
                advice_ns = advice.of(request.stream)
                if advice_ns:
                    streams.advised(request.stream, advice_ns)
            late = now_ns > request.deadline_ns
            self._queue.answered(Answer(request, Outcome.OK, "", late, batch, row, None, advice_ns))

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
