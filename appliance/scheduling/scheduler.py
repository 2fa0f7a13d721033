"""The scheduler: earliest deadline first within tiers, batched, nothing started to be useless.

Owner of every waiting request and of what each worker is doing. On each call of `handle`:

1. Events are taken in: arrivals join the waiting room (a newer one replaces an older one where
   only the newest is wanted), finished batches are answered or split, lost workers' rows are
   isolated.
2. Whoever waited past its time to live, or is firm and can no longer make its deadline, is told.
3. Each idle worker gets the best batch; each busy one may be given a staged batch shortly before
   it finishes, which stays replaceable until it is started.

Invariants: a request ends in exactly one `Answer`; a firm request is never started when its
estimated finish is past its deadline; at most one request of a keep-latest mailbox waits; two
requests with one order key never run at the same time.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from attrs import define, field, frozen

from appliance.errors import Outcome
from appliance.scheduling.batching import Choice, choose
from appliance.scheduling.estimate import Estimate
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
    WorkerRef,
)
from appliance.scheduling.queues import WaitingRoom

STAGE_LEAD_NS = 2_000_000
"""A batch that is not full is staged this long before the worker is expected to finish."""

HOPELESS = "it can no longer make its deadline"
CLOSING = "the appliance stopped before it was answered"


@define(eq=False)
class Worker:
    """What one worker is doing.

    Attributes:
        models: What it hosts, with the largest batch of each.
        executing: Started and not yet done.
        staged: Sent, not started.
        free_ns: When `executing` is expected to be done.
    """

    ref: WorkerRef
    models: dict[ModelRef, int]
    executing: Batch | None = None
    staged: Batch | None = None
    free_ns: int = 0


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
        max_queue_size: Waiting requests over all clients.
        overflow_policy: A full queue drops its oldest, or refuses the newest.
        max_retries: Further tries of a row after the engine failed on it alone.
    """

    max_queue_size: int = 1000
    overflow_policy: Literal["drop_oldest", "reject_newest"] = "drop_oldest"
    max_retries: int = 0

    _room: WaitingRoom = field(factory=WaitingRoom, init=False)
    _due: list[tuple[int, int, Request]] = field(factory=list[tuple[int, int, Request]], init=False)
    _workers: dict[WorkerRef, Worker] = field(factory=dict[WorkerRef, Worker], init=False)
    _slots: dict[ModelRef, set[str]] = field(
        factory=lambda: defaultdict[ModelRef, set[str]](set), init=False
    )
    _estimates: dict[ModelRef, Estimate] = field(factory=dict[ModelRef, Estimate], init=False)
    _batch_id: int = field(default=0, init=False)
    _isolation: int = field(default=0, init=False)
    _effects: list[Effect] = field(factory=list[Effect], init=False)

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        """Take in what happened until `now_ns` and say what to do.

        Args:
            events: In the order they happened; may be empty (a wake-up).
            now_ns: Monotonic nanoseconds; never smaller than in the call before.
        """
        self._effects = []
        for event in events:
            if isinstance(event, Arrived):
                self._arrived(event.request, now_ns)
            elif isinstance(event, BatchDone):
                self._batch_done(event, now_ns)
            elif isinstance(event, Withdrawn):
                self._withdrawn(event)
            elif isinstance(event, WorkerReady):
                self._worker_ready(event)
            elif isinstance(event, WorkerLost):
                self._worker_lost(event, now_ns)
            else:
                self._close()
        self._expire(now_ns)
        wakeup_ns = self._assign(now_ns)
        if self._due and (wakeup_ns is None or self._due[0][0] < wakeup_ns):
            wakeup_ns = self._due[0][0]
        return Decision(self._effects, wakeup_ns)

    def statistics(self) -> SchedulerStatistics:
        """Return a snapshot of what waits and runs."""
        batches = [b for w in self._workers.values() for b in (w.executing, w.staged) if b]
        in_batches = sum(len(batch.requests) for batch in batches)
        return SchedulerStatistics(self._room.count, in_batches, self._room.by_model())

    def planned_ns(self, model: ModelRef, batch_size: int) -> int:
        """Return the time to plan a batch with; 0 for a model that was never loaded."""
        estimate = self._estimates.get(model)
        return estimate.of(batch_size) if estimate else 0

    # ------------------------------------------------------------------------------- arrivals

    def _arrived(self, request: Request, now_ns: int) -> None:
        model = request.lane.model
        if request.firm and self._earliest_finish_ns(model, now_ns) > request.deadline_ns:
            self._answer(request, Outcome.INFEASIBLE, "no answer could be in time")
            return
        request.rank_ns = request.deadline_ns
        mailbox = self._room.mailbox(request.session, model)
        if request.keep_latest:
            for older in mailbox:
                # The newcomer keeps the older one's place, or a fast sender would wait for ever.
                request.rank_ns = min(request.rank_ns, older.rank_ns)
                self._discard(older, Outcome.SUPERSEDED, "a newer observation replaced it")
        elif mailbox:
            # It cannot run before its elders, so it ranks as if each took its turn: a client's
            # backlog counts against itself and not against the others.
            request.rank_ns = max(request.rank_ns, mailbox[-1].rank_ns + self.planned_ns(model, 1))
            if len(mailbox) >= request.queue_limit and not self._overflow(request, mailbox):
                return
        if self._room.count >= self.max_queue_size:
            # Whoever fills the queue pays for it, not whoever comes next.
            fullest = self._room.fullest()
            own = self._room.mailbox(request.session, model)
            if not self._overflow(request, own if len(own) >= len(fullest) - 1 else fullest):
                return
        self._room.add(request)
        self._watch(request)

    def _overflow(self, request: Request, mailbox: list[Request]) -> bool:
        """Drop one of a full mailbox, or `request` itself; return whether `request` stays."""
        own = not mailbox or mailbox[0].session == request.session
        if not mailbox or (own and self.overflow_policy == "reject_newest"):
            self._answer(request, Outcome.QUEUE_FULL, "the queue is full")
            return False
        victim = mailbox[0] if self.overflow_policy == "drop_oldest" else mailbox[-1]
        self._discard(victim, Outcome.QUEUE_FULL, "the queue is full")
        return True

    def _withdrawn(self, event: Withdrawn) -> None:
        outcome = Outcome.CLIENT_GONE if event.gone else Outcome.CANCELLED
        for request in self._room.of_session(event.session, event.model):
            if event.tag in (None, request.tag):
                self._discard(request, outcome, "withdrawn by its client")
        if event.gone:
            self._room.forget(event.session)

    def _close(self) -> None:
        """End everything that waits or runs; batches that still finish are ignored."""
        for worker in self._workers.values():
            for batch in (worker.executing, worker.staged):
                for request in batch.requests if batch else ():
                    self._answer(request, Outcome.DRAINING, CLOSING)
            worker.executing = worker.staged = None
        while self._room.count:
            for request in self._room.fullest():
                self._discard(request, Outcome.DRAINING, CLOSING)

    # ----------------------------------------------------------------------------------- ends

    def _discard(self, request: Request, outcome: Outcome, message: str) -> None:
        """End a request that waits."""
        self._room.remove(request)
        self._answer(request, outcome, message)

    def _answer(self, request: Request, outcome: Outcome, message: str) -> None:
        self._effects.append(Answer(request, outcome, message))
        self._room.end(request)

    def _watch(self, request: Request) -> None:
        heapq.heappush(self._due, (self._due_ns(request), request.id, request))

    def _due_ns(self, request: Request) -> int:
        """Return when a waiting request has to be looked at again at the latest."""
        if not request.firm:
            return request.expires_ns
        latest_start_ns = request.deadline_ns - self.planned_ns(request.lane.model, 1)
        return min(request.expires_ns, latest_start_ns + 1)

    def _expire(self, now_ns: int) -> None:
        """End whoever waited too long, or is firm and out of time."""
        while self._due and self._due[0][0] <= now_ns:
            _, _, request = heapq.heappop(self._due)
            if not self._room.holds(request):
                continue
            if now_ns >= request.expires_ns:
                waited_ms = (now_ns - request.arrived_ns) / 1e6
                self._discard(request, Outcome.EXPIRED, f"waited {waited_ms:.0f} ms")
            elif self._due_ns(request) <= now_ns:
                self._discard(request, Outcome.INFEASIBLE, HOPELESS)
            else:
                self._watch(request)

    def _refuse_hopeless(self, now_ns: int) -> None:
        """End firm heads that no worker will be free for in time."""
        for lane, line in list(self._room.lines.items()):
            while line and (head := line.head[1]).firm:
                if self._earliest_finish_ns(lane.model, now_ns) <= head.deadline_ns:
                    break
                self._discard(head, Outcome.INFEASIBLE, HOPELESS)

    # -------------------------------------------------------------------------------- workers

    def _worker_ready(self, event: WorkerReady) -> None:
        self._workers[event.worker] = Worker(event.worker, dict(event.max_batch))
        for model, times_ns in event.times_ns.items():
            self._slots[model].add(event.worker.slot)
            if model not in self._estimates:
                self._estimates[model] = Estimate.from_times(times_ns, event.max_batch[model])

    def _worker_lost(self, event: WorkerLost, now_ns: int) -> None:
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            return
        if worker.staged:
            self._put_back(worker.staged.requests, worker.staged.lane)
        if not worker.executing:
            return
        for request in worker.executing.requests:
            request.deaths += 1
            if request.deaths > 1 or len(self._slots[request.lane.model]) < 2:
                self._answer(request, Outcome.WORKER_LOST, "its worker died while running it")
            elif request.firm and request.deadline_ns <= now_ns:
                self._answer(request, Outcome.EXPIRED, "its worker died while running it")
            else:
                self._isolate([request])

    def _batch_done(self, event: BatchDone, now_ns: int) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.executing is None or worker.executing.id != event.batch_id:
            return  # an answer of an older generation
        batch, worker.executing = worker.executing, None
        if event.error:
            self._failed(batch, event.error)
            return
        if not event.failed_rows:
            self._estimates[batch.lane.model].observe(len(batch.requests), event.busy_ns)
        for row, request in enumerate(batch.requests):
            if row in event.failed_rows:
                self._answer(request, *event.failed_rows[row])
                continue
            self._room.served(request.session, now_ns)
            late = now_ns > request.deadline_ns
            self._effects.append(Answer(request, Outcome.OK, late=late, batch=batch, row=row))
            self._room.end(request)

    def _failed(self, batch: Batch, error: str) -> None:
        """Try a failed batch again in halves; a row that fails alone ends."""
        requests = batch.requests
        if len(requests) > 1:
            half = (len(requests) + 1) // 2
            self._isolate(requests[:half])
            self._isolate(requests[half:])
            return
        requests[0].attempts += 1
        if requests[0].attempts > self.max_retries:
            self._answer(requests[0], Outcome.ENGINE_FAILED, error)
        else:
            self._isolate(requests)

    def _isolate(self, requests: list[Request]) -> None:
        """Queue rows again in a lane of their own."""
        self._isolation += 1
        self._put_back(requests, requests[0].lane._replace(isolation=self._isolation))

    def _put_back(self, requests: list[Request], lane: Lane) -> None:
        for request in requests:
            request.started_ns = 0
            newer = self._room.mailbox(request.session, lane.model) if request.keep_latest else []
            if newer:
                self._answer(request, Outcome.SUPERSEDED, "a newer observation replaced it")
            else:
                request.lane = lane
                self._room.put_back(request)
                self._watch(request)

    # ------------------------------------------------------------------------------ decisions

    def _earliest_finish_ns(self, model: ModelRef, now_ns: int) -> int:
        """Return when an answer of `model` could be there, if it went before all that waits."""
        starts_ns = [
            max(now_ns, worker.free_ns) if worker.executing else now_ns
            for worker in self._workers.values()
            if model in worker.models
        ]
        return min(starts_ns, default=now_ns) + self.planned_ns(model, 1)

    def _assign(self, now_ns: int) -> int | None:
        """Give work to every worker that can take some; return when to look again."""
        wakeup_ns: int | None = None
        self._refuse_hopeless(now_ns)
        for worker in self._workers.values():
            if worker.executing is None and worker.staged is not None:
                self._start_staged(worker, now_ns)
            if worker.executing is None:
                self._start_best(worker, now_ns)
        self._refuse_hopeless(now_ns)  # what just started may have been their last chance
        for worker in self._workers.values():
            if worker.executing is None or worker.staged is not None or not self._room.lines:
                continue
            lead_ns = worker.free_ns - STAGE_LEAD_NS
            if now_ns >= lead_ns or self._could_fill(worker):
                self._stage_best(worker, now_ns)
            elif wakeup_ns is None or lead_ns < wakeup_ns:
                wakeup_ns = lead_ns
        return wakeup_ns

    def _could_fill(self, worker: Worker) -> bool:
        """Return whether waiting any longer could not make the next batch larger."""
        return any(
            len(line) >= worker.models.get(lane.model, len(line) + 1) > 1
            for lane, line in self._room.lines.items()
        )

    def _start_staged(self, worker: Worker, now_ns: int) -> None:
        """Start what is staged, unless something more important came or it became useless."""
        batch, worker.staged = worker.staged, None
        assert batch is not None
        finish_ns = now_ns + batch.expected_ns
        useless = any(r.firm and r.deadline_ns < finish_ns for r in batch.requests)
        first = min((r.tier, not r.dry) for r in batch.requests)
        overtaken = any(
            line.head[0][:2] < first
            for lane, line in self._room.lines.items()
            if self._may_run(lane, worker)
        )
        if not useless and not overtaken:
            self._start(worker, batch, now_ns)
            self._effects.append(Go(batch))
            return
        self._effects.append(Revoke(batch))
        self._put_back(batch.requests, batch.lane)
        self._expire(now_ns)

    def _start_best(self, worker: Worker, now_ns: int) -> None:
        choice = self._choose(worker, now_ns)
        if choice is not None:
            batch = self._take(worker, choice)
            self._start(worker, batch, now_ns)
            self._effects.append(Stage(batch, go=True))

    def _stage_best(self, worker: Worker, now_ns: int) -> None:
        choice = self._choose(worker, max(now_ns, worker.free_ns))
        if choice is not None:
            worker.staged = self._take(worker, choice)
            self._effects.append(Stage(worker.staged, go=False))

    def _choose(self, worker: Worker, start_ns: int) -> Choice | None:
        lines = [
            (lane, line) for lane, line in self._room.lines.items() if self._may_run(lane, worker)
        ]
        return choose(lines, worker.models, self.planned_ns, start_ns)

    def _may_run(self, lane: Lane, worker: Worker) -> bool:
        """A worker runs what it hosts; a row that killed a worker never risks the last one."""
        if lane.model not in worker.models:
            return False
        if lane.isolation == 0 or not any(r.deaths for r in self._room.lines[lane]):
            return True
        return sum(lane.model in other.models for other in self._workers.values()) > 1

    def _take(self, worker: Worker, choice: Choice) -> Batch:
        requests = self._room.take(choice.lane, choice.size)
        self._batch_id += 1
        expected_ns = self.planned_ns(choice.lane.model, choice.size)
        return Batch(self._batch_id, choice.lane, requests, worker.ref, expected_ns)

    def _start(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        worker.executing = batch
        worker.free_ns = now_ns + batch.expected_ns
        batch.started_ns = now_ns
        for request in batch.requests:
            request.started_ns = now_ns
