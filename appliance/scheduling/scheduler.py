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

from collections.abc import Iterable
from operator import itemgetter
from typing import Literal

from attrs import Factory, define, field, frozen

from appliance.errors import Outcome
from appliance.scheduling.batching import Choice, choose, endangered, is_late
from appliance.scheduling.due import DueTimes
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
from appliance.scheduling.queues import Line, WaitingRoom
from appliance.scheduling.workers import Worker, Workers

STAGE_LEAD_NS = 2_000_000
"""A batch that is not full is staged this long before the worker is expected to finish."""

HOPELESS = "it can no longer make its deadline"
SUPERSEDED = "a newer observation replaced it"
CLOSING = "the appliance stopped before it was answered"
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
    overflow_policy: Literal["drop_oldest", "reject_newest"] = "drop_oldest"
    max_retries: int = 0

    _room: WaitingRoom = field(factory=WaitingRoom, init=False)
    _due: DueTimes = field(
        default=Factory(lambda self: DueTimes(self._room), takes_self=True), init=False
    )
    _workers: Workers = field(factory=Workers, init=False)
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
                self._workers.ready(event)
            elif isinstance(event, WorkerLost):
                self._worker_lost(event, now_ns)
            else:
                self._close()
        self._expire(now_ns)
        wakeups_ns = (self._assign(now_ns), self._due.next_ns)
        return Decision(self._effects, min((w for w in wakeups_ns if w is not None), default=None))

    def statistics(self) -> SchedulerStatistics:
        """Return a snapshot of what waits and runs."""
        batches = [b for w in self._workers for b in (w.executing, w.staged) if b]
        in_batches = sum(len(batch.requests) for batch in batches)
        return SchedulerStatistics(self._room.count, in_batches, self._room.by_model())

    def planned_ns(self, model: ModelRef, batch_size: int) -> int:
        """Return the time to plan a batch with; 0 for a model that was never loaded."""
        return self._workers.planned_ns(model, batch_size)

    # ------------------------------------------------------------------------------- arrivals

    def _arrived(self, request: Request, now_ns: int) -> None:
        model = request.lane.model
        if request.firm and self._workers.earliest_finish_ns(model, now_ns) > request.deadline_ns:
            self._answer(request, Outcome.INFEASIBLE, "no answer could be in time")
            return
        # A deadline that was over on arrival is no way to pass those who came before.
        request.rank_ns = max(request.deadline_ns, request.arrived_ns)
        older = self._room.latest(request.session, model)
        if older is not None:
            # The newcomer keeps the older one's place, or a fast sender would wait for ever.
            request.rank_ns = min(request.rank_ns, older.rank_ns)
            self._discard(older, Outcome.SUPERSEDED, SUPERSEDED)
        if not request.keep_latest and not self._queue_up(request):
            return
        if self._room.count >= self.max_queue_size and not self._make_room(request):
            return
        self._room.add(request)
        self._watch(request)

    def _queue_up(self, request: Request) -> bool:
        """Rank `request` behind its elders, if it stays; return whether it does."""
        newest, count = self._room.newest(request.session, request.lane.model)
        if newest is None:
            return True
        # It cannot run before its elders, so it ranks as if each took its turn: a client's
        # backlog counts against itself and not against the others.
        turn_ns = self._workers.planned_ns(request.lane.model, 1)
        request.rank_ns = max(request.rank_ns, newest.rank_ns + turn_ns)
        if count < request.queue_limit:
            return True
        return self._overflow(request, self._room.mailbox(request.session, request.lane.model))

    def _make_room(self, request: Request) -> bool:
        """Drop one of a full queue: whoever fills it pays, not whoever comes next."""
        own = self._room.mailbox(request.session, request.lane.model)
        fullest = self._room.fullest()
        own_turn = len(own) >= len(fullest) - 1 and (own or self.overflow_policy == "reject_newest")
        return self._overflow(request, own if own_turn else fullest)

    def _overflow(self, request: Request, mailbox: list[Request]) -> bool:
        """Drop one of a full mailbox, or `request` itself; return whether `request` stays."""
        own = not mailbox or mailbox[0].session == request.session
        if own and self.overflow_policy == "reject_newest":
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
        for worker in self._workers:
            for batch in (worker.executing, worker.staged):
                for request in batch.requests if batch else ():
                    self._answer(request, Outcome.DRAINING, CLOSING)
            worker.executing = worker.staged = None
        for request in list(self._room):
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
        self._due.add(request, self._due_ns(request))

    def _due_ns(self, request: Request) -> int:
        """Return when a waiting request has to be looked at again at the latest."""
        if not request.firm:
            return request.expires_ns
        latest_start_ns = request.deadline_ns - self.planned_ns(request.lane.model, 1)
        return min(request.expires_ns, latest_start_ns + 1)

    def _expire(self, now_ns: int) -> None:
        """End whoever waited too long, or is firm and out of time."""
        while (request := self._due.pop(now_ns)) is not None:
            if now_ns >= request.expires_ns:
                waited_ms = (now_ns - request.arrived_ns) / 1e6
                self._discard(request, Outcome.EXPIRED, f"waited {waited_ms:.0f} ms")
            elif self._due_ns(request) <= now_ns:
                self._discard(request, Outcome.INFEASIBLE, HOPELESS)
            else:
                self._watch(request)

    def _refuse_hopeless(self, now_ns: int) -> None:
        """End firm heads that no worker will be free for in time."""
        for lane in [lane for lane, line in self._room.lines.items() if line.firm]:
            # Who ends may let the next of its order into the same line, or leave it empty.
            while (line := self._room.lines.get(lane)) and (head := line.head[1]).firm:
                if self._workers.earliest_finish_ns(lane.model, now_ns) <= head.deadline_ns:
                    break
                self._discard(head, Outcome.INFEASIBLE, HOPELESS)

    # -------------------------------------------------------------------------------- workers

    def _worker_lost(self, event: WorkerLost, now_ns: int) -> None:
        worker = self._workers.lost(event.worker)
        if worker is None:
            return
        if worker.staged:
            self._put_back(worker.staged.requests, worker.staged.lane)
        for request in worker.executing.requests if worker.executing else ():
            request.deaths += 1
            if request.deaths > 1 or self._workers.slots(request.lane.model) < 2:
                self._answer(request, Outcome.WORKER_LOST, DIED)
            elif request.firm and request.deadline_ns <= now_ns:
                self._answer(request, Outcome.EXPIRED, DIED)
            else:
                self._isolate([request])

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
        """Let requests wait again that were sent to a worker and got no answer there."""
        for request in requests:
            request.started_ns = 0
            if not self._room.knows(request.session):
                self._answer(request, Outcome.CLIENT_GONE, "its client has left")
            elif request.keep_latest and self._is_replaced(request):
                self._answer(request, Outcome.SUPERSEDED, SUPERSEDED)
            else:
                older = self._room.latest(request.session, lane.model)
                if older is not None and older.id < request.id:
                    self._discard(older, Outcome.SUPERSEDED, SUPERSEDED)
                request.lane = lane
                self._room.put_back(request)
                self._watch(request)

    def _is_replaced(self, request: Request) -> bool:
        mailbox = self._room.mailbox(request.session, request.lane.model)
        return any(other.id > request.id for other in mailbox)

    # ------------------------------------------------------------------------------ decisions

    def _assign(self, now_ns: int) -> int | None:
        """Give work to every worker that can take some; return when to look again."""
        self._refuse_hopeless(now_ns)
        for worker in self._workers:
            if worker.executing is None and worker.staged is not None:
                self._start_staged(worker, worker.staged, now_ns)
        for worker in self._workers:
            if worker.executing is None:
                self._start_best(worker, now_ns)
        self._refuse_hopeless(now_ns)  # what just started may have been their last chance
        return self._stage_ahead(now_ns)

    def _stage_ahead(self, now_ns: int) -> int | None:
        """Give busy workers their next batch shortly before they need it, or at once if full."""
        wakeup_ns: int | None = None
        for worker in self._workers:
            if worker.executing is None or worker.staged is not None or not self._room.lines:
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
        lane, line = min(lines, key=lambda pair: pair[1].head[0])
        return len(line) >= worker.models[lane.model] > 1

    def _start_staged(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        """Start what is staged, unless something more important came or it became useless."""
        batch.expected_ns = self.planned_ns(batch.lane.model, len(batch.requests))
        finish_ns = now_ns + batch.expected_ns
        if (
            any(request.firm and request.deadline_ns < finish_ns for request in batch.requests)
            or not self._may_run(batch.lane, batch.requests, worker)
            or self._is_overtaken(batch, worker, now_ns)
        ):
            self._revoke(worker, batch, now_ns)
            return
        worker.staged = None
        worker.start(batch, now_ns)
        self._effects.append(Go(batch))

    def _is_overtaken(self, batch: Batch, worker: Worker, now_ns: int) -> bool:
        """Return whether somebody waits for whom a staged batch has to give way.

        That is a better tier or a dry robot, whoever is earlier in rank and would be made late,
        and, where the batch is late anyway, a firm request that would be lost.
        """
        rank, best = min(((self._room.rank(r), r) for r in batch.requests), key=itemgetter(0))
        finish_ns = now_ns + batch.expected_ns
        gives_way = is_late(best, now_ns + self.planned_ns(batch.lane.model, 1))
        for lane, line in self._lines(worker):
            head_rank, head = line.head
            if head_rank[:2] < rank[:2]:
                return True
            time_ns = self.planned_ns(lane.model, 1)
            if head_rank < rank and now_ns <= head.deadline_ns - time_ns < finish_ns:
                return True
            found = endangered(line, time_ns, now_ns, finish_ns)
            if found and (gives_way or found[0] < rank):
                return True
        return False

    def _revoke(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        worker.staged = None
        self._effects.append(Revoke(batch))
        self._put_back(batch.requests, batch.lane)
        self._expire(now_ns)

    def _start_best(self, worker: Worker, now_ns: int) -> None:
        choice = self._choose(worker, now_ns)
        while choice is None and self._take_over(worker, now_ns):
            choice = self._choose(worker, now_ns)
        if choice is not None:
            batch = self._take(worker, choice)
            worker.start(batch, now_ns)
            self._effects.append(Stage(batch, go=True))

    def _take_over(self, worker: Worker, now_ns: int) -> bool:
        """Take back what is staged behind a busy worker and could start on this one now."""
        for other in self._workers:
            batch = other.staged
            if batch is not None and self._may_run(batch.lane, batch.requests, worker):
                self._revoke(other, batch, now_ns)
                return True
        return False

    def _choose(self, worker: Worker, start_ns: int) -> Choice | None:
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
        expected_ns = self.planned_ns(choice.lane.model, len(choice.requests))
        return Batch(self._batch_id, choice.lane, choice.requests, worker.ref, expected_ns)
