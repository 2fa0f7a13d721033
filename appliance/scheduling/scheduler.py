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

from collections.abc import Iterable

from attrs import Factory, define, field, frozen

from appliance.errors import Outcome
from appliance.scheduling.batching import Choice, choose, endangered, is_late
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
from appliance.scheduling.queue import CLOSING, OverflowPolicy, Queue
from appliance.scheduling.room import RANK, Line, WaitingRoom
from appliance.scheduling.workers import Worker, Workers

STAGE_LEAD_NS = 2_000_000
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
    """

    max_queue_size: int = 1000
    overflow_policy: OverflowPolicy = "drop_oldest"
    max_retries: int = 0

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
    _batch_id: int = field(default=0, init=False)
    _effects: list[Effect] = field(factory=list[Effect], init=False)

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        """Take in what happened until `now_ns` and say what to do.

        Args:
            events: In the order they happened; may be empty (a wake-up).
            now_ns: Monotonic nanoseconds; never smaller than in the call before.
        """
        self._effects = self._queue.effects = []
        for event in events:
            if isinstance(event, Arrived):
                self._queue.arrived(event.request, now_ns)
            elif isinstance(event, BatchDone):
                self._batch_done(event, now_ns)
            elif isinstance(event, Withdrawn):
                self._queue.withdrawn(event)
            elif isinstance(event, WorkerReady):
                self._workers.ready(event)
            elif isinstance(event, WorkerLost):
                self._worker_lost(event, now_ns)
            else:
                self._close()
        self._queue.expire(now_ns)
        wakeup_ns = self._assign(now_ns)
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
            self._effects.append(Answer(request, Outcome.OK, late=late, batch=batch, row=row))
            self._room.end(request)

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

    def _assign(self, now_ns: int) -> int | None:
        """Give work to every worker that can take some; return when to look again."""
        self._queue.refuse_hopeless(now_ns)
        idle = [worker for worker in self._workers if worker.executing is None]
        for worker in idle:
            if worker.staged is not None:
                self._start_staged(worker, worker.staged, now_ns)
        for worker in idle:
            if worker.executing is None:
                self._start_best(worker, now_ns)
        if idle:  # what just started may have been their last chance
            self._queue.refuse_hopeless(now_ns)
        return self._stage_ahead(now_ns) if self._room.lines else None

    def _stage_ahead(self, now_ns: int) -> int | None:
        """Give busy workers their next batch shortly before they need it, or at once if full."""
        wakeup_ns: int | None = None
        for worker in self._workers:
            if worker.executing is None or worker.staged is not None:
                continue
            lead_ns = worker.free_ns - STAGE_LEAD_NS
            if now_ns >= lead_ns or self._is_full(worker):
                choice = self._choose(worker, max(now_ns, worker.free_ns))
                if choice is not None:
                    worker.staged = self._take(worker, choice)
                    self._effects.append(Stage(worker.staged, go=False))
            elif wakeup_ns is None or lead_ns < wakeup_ns:
                wakeup_ns = lead_ns
        return wakeup_ns

    def _is_full(self, worker: Worker) -> bool:
        """Return whether waiting any longer could not make the next batch larger."""
        lines = self._lines(worker)
        if not lines:
            return False
        lane, line = min(lines, key=lambda pair: pair[1].head.rank)
        return len(line) >= worker.models[lane.model] > 1

    def _start_staged(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        """Start what is staged, unless something more important came or it became useless."""
        batch.expected_ns = self._workers.planned_ns(batch.lane.model, len(batch.requests))
        finish_ns = now_ns + batch.expected_ns
        if (
            any(request.firm and request.deadline_ns < finish_ns for request in batch.requests)
            or not self._may_run(batch.lane, batch.requests, worker)
            or self._is_overtaken(batch, worker, now_ns)
        ):
            self._revoke(worker, batch, now_ns)
            return
        worker.staged = None
        self._start(worker, batch, now_ns)
        self._effects.append(Go(batch))

    def _is_overtaken(self, batch: Batch, worker: Worker, now_ns: int) -> bool:
        """Return whether somebody waits for whom a staged batch has to give way.

        That is a better tier or a dry robot, whoever is earlier in rank and would be made late,
        and, where the batch is late anyway, a firm request that would be lost.
        """
        best = min(batch.requests, key=RANK)
        finish_ns = now_ns + batch.expected_ns
        gives_way = is_late(best, now_ns + self._workers.planned_ns(batch.lane.model, 1))
        for lane, line in self._lines(worker):
            head = line.head
            if head.rank[:2] < best.rank[:2]:
                return True
            time_ns = self._workers.planned_ns(lane.model, 1)
            in_danger = now_ns <= head.deadline_ns - time_ns < finish_ns
            if head.rank < best.rank and (in_danger or (head.dry and not best.dry)):
                return True
            firm = endangered(line, time_ns, now_ns, finish_ns)
            if firm is not None and (gives_way or firm.rank < best.rank):
                return True
        return False

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
        worker.start(batch, now_ns)
        self._room.start(batch.requests, now_ns)

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
        return choose(self._lines(worker), worker.models, self._workers.planned_ns, start_ns)

    def _lines(self, worker: Worker) -> list[tuple[Lane, Line]]:
        """Return the lines a worker may serve."""
        return [pair for pair in self._room.lines.items() if self._may_run(*pair, worker)]

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
        expected_ns = self._workers.planned_ns(choice.lane.model, len(choice.requests))
        return Batch(self._batch_id, choice.lane, choice.requests, worker.ref, expected_ns)
