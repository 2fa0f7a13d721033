"""What each worker runs next: batches are chosen, staged ahead, chosen again, started, taken back.

Each idle worker gets the best batch. Each busy one is given a staged batch shortly before it is
done, so that choosing takes no time of it; that batch is chosen again when something comes or goes,
and may be replaced. Still a little later it is committed: the worker starts it when it is done,
without asking, unless that were too late for somebody in it.

A worker that runs some models before others, on a GPU, is given a batch of them for tier 0 at once,
beside the one it executes.
"""

from __future__ import annotations

from attrs import Factory, define, field

from appliance.scheduling.batch_times import BatchTimes, commit_ns
from appliance.scheduling.choice import Choice, Contender, Strategy, Wait
from appliance.scheduling.contenders import Contenders
from appliance.scheduling.events import (
    Batch,
    BatchDone,
    Go,
    Released,
    Revoke,
    Stage,
)
from appliance.scheduling.queue import Queue
from appliance.scheduling.workers import Worker, Workers

STAGE_LEAD_NS = 1_000_000
"""A batch is staged this long before the worker is expected to be done."""

DRY_PAUSE, LATE_PAUSE = 0.8, 2.5
"""Times its own duration between two batches of dry ones, and two of late ones, that go before all
others while these can be in time (see `leads.lead`). A little less than 1 and 3, as batches are
sometimes shorter: about half of the time, and a quarter."""

EMPTY_PAUSE, MOST_EMPTY_PAUSE_NS = 5.0, 75_000_000
"""After a batch of dry ones the pause is longer by this many times the batch, for the part of it
that was empty: what fills up meanwhile is served with less effort. But not for long, as robots of
other models wait too."""


@define(eq=False)
class Assignment:
    """See the module's docstring.

    Attributes:
        workers: What each of them does.
        queue: Owner of what waits, and of the list that effects go to.
        strategy: Chooses.
    """

    workers: Workers
    queue: Queue
    strategy: Strategy
    _contenders: Contenders = field(
        default=Factory(lambda self: Contenders(self.workers, self.queue), takes_self=True),
        init=False,
    )
    _times: BatchTimes = field(
        default=Factory(lambda self: BatchTimes(self.workers), takes_self=True), init=False
    )
    _looks_ns: int | None = field(default=None, init=False)
    _batch_id: int = field(default=0, init=False)
    _went_on: bool = field(default=False, init=False)  # and some may be hopeless since

    def assign(self, now_ns: int, *, is_news: bool) -> int | None:
        """Give work to every worker that can take some; return when to look again.

        Args:
            is_news: Something came or went, so that a staged batch may not be the best any more.
        """
        self._looks_ns = None
        idle = [worker for worker in self.workers if worker.executing is None]
        if idle or self._went_on:
            self.queue.refuse_hopeless(now_ns)
            self._went_on = False
        for worker in idle:
            if worker.staged is not None:
                self._start_staged(worker, worker.staged, now_ns, is_news=is_news)
        for worker in idle:
            if worker.executing is None:
                self._start_best(worker, now_ns)
                if not (worker.executing or worker.idle_since_ns or self.queue.room.lines):
                    worker.idle_since_ns = now_ns
        if idle:  # what just started may have been their last chance
            self.queue.refuse_hopeless(now_ns)
        self._start_all_beside(now_ns)
        self._stage_ahead(now_ns, is_news=is_news)
        if is_news:  # what was staged may wait again
            self._start_all_beside(now_ns)
        return self._looks_ns

    def go_on(self, worker: Worker) -> None:
        """Note that a worker that is done began what it was told to, if it was.

        Called while events are taken in: the next one may say that this is done too.
        """
        batch, begun_ns = worker.committed, max(worker.finished_ns, worker.committed_ns)
        if batch is not None:
            worker.staged, worker.committed_ns = None, 0
            self._start(worker, batch, begun_ns)
            self._went_on = True

    def overtaken(self, worker: Worker, batch: Batch, event: BatchDone, now_ns: int) -> None:
        """Note that a worker was done with a batch before what it executes."""
        if batch is worker.committed:
            self._begin(worker, batch, max(worker.committed_ns, now_ns - event.busy_ns))
        worker.overtook(batch, event, now_ns)

    def retire(self, worker: Worker, now_ns: int) -> None:
        """Leave to others what they can run of what a worker would have."""
        self.workers.retire(worker)
        if worker.staged is not None and not worker.committed:
            self._revoke(worker, worker.staged, now_ns)

    def release(self) -> None:
        """Let go of retired workers that have nothing to do any more."""
        for worker in list(self.workers):
            if worker.retired and worker.executing is None and worker.staged is None:
                waiting = self.queue.room.by_model()
                if not any(model in waiting for model in worker.models):
                    self.workers.lost(worker.ref)
                    self.queue.effects.append(Released(worker.ref))

    def _look_at(self, at_ns: int) -> None:
        """Be asked again by then."""
        if self._looks_ns is None or at_ns < self._looks_ns:
            self._looks_ns = at_ns

    def _stage_ahead(self, now_ns: int, *, is_news: bool) -> None:
        """Give busy workers their next batch shortly before they need it."""
        busy = [
            each
            for each in self.workers
            if each.executing and not each.committed and not each.beside
        ]
        if is_news:
            for worker in busy:
                if worker.staged is not None:
                    self._choose_again(worker, worker.staged, max(now_ns, worker.free_ns), now_ns)
        for worker in busy:
            if worker.staged is None:
                self._stage_best(worker, now_ns)
            if worker.staged is not None and not worker.committed:
                if self._may_commit(worker, worker.staged, now_ns):
                    self._commit(worker, worker.staged, now_ns)
                    self.queue.effects.append(Go(worker.staged))
                elif now_ns < commit_ns(worker):
                    self._look_at(commit_ns(worker))

    def _stage_best(self, worker: Worker, now_ns: int) -> None:
        """Stage the best batch for a busy worker, when it is time to.

        Not if its model has to be loaded: what runs has the memory, and gathering waits for it.
        """
        if not self.queue.room.lines:
            return
        lead_ns = min(worker.free_ns, commit_ns(worker)) - STAGE_LEAD_NS
        if now_ns < lead_ns:
            self._look_at(lead_ns)
            return
        choice = self._choose(worker, max(now_ns, worker.free_ns))
        if choice is not None and not worker.load_ns(choice.lane.model):
            self._stage(worker, choice, now_ns)

    def _stage(self, worker: Worker, choice: Choice, now_ns: int) -> None:
        """Send a busy worker its next batch."""
        batch = worker.staged = self._take(worker, choice)
        go = self._may_commit(worker, batch, now_ns)
        if go:
            self._commit(worker, batch, now_ns)
        self.queue.effects.append(Stage(batch, go=go))

    def _may_commit(self, worker: Worker, batch: Batch, now_ns: int) -> bool:
        """Return whether it is time to; of a worker that should be done by now nobody knows.

        A row that killed a worker is not committed: this may be the last one when it is done.
        """
        risky = batch.lane.isolation and any(request.deaths for request in batch.requests)
        if risky or not commit_ns(worker) <= now_ns < worker.free_ns:
            return False
        latest_ns = self._times.latest_start_ns(worker, batch)
        return latest_ns is None or latest_ns >= max(now_ns, worker.likely_ns)

    def _commit(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        worker.committed_ns, batch.committed = now_ns, True
        batch.latest_start_ns = self._times.latest_start_ns(worker, batch) or 0

    def _start_staged(self, worker: Worker, batch: Batch, now_ns: int, *, is_news: bool) -> None:
        """Start what is staged, unless something else is better by now."""
        batch.expected_ns = self._times.planned_ns(worker, batch.lane, len(batch.requests))
        finish_ns = now_ns + batch.expected_ns + worker.delay_ns
        if any(
            request.firm and request.deadline_ns < finish_ns for request in batch.requests
        ) or not self._contenders.may_run(batch.lane, batch.requests, worker):
            self._revoke(worker, batch, now_ns)
            self.queue.refuse_hopeless(now_ns)  # before anybody is chosen: some may run dry by it
            return
        if is_news:
            self._choose_again(worker, batch, now_ns, now_ns)
        if worker.staged is not None:
            batch = worker.staged
            worker.staged = None
            self._start(worker, batch, now_ns)
            self.queue.effects.append(Go(batch))

    def _choose_again(self, worker: Worker, batch: Batch, start_ns: int, now_ns: int) -> None:
        """Replace what is staged if something else is better by now."""
        if batch.expected_ns < STAGE_LEAD_NS and not self._is_pressing():
            return  # it would be chosen again and again, for little
        worker.staged = None
        before = len(self.queue.effects)
        self.queue.put_back(batch.requests, batch.lane)
        self.queue.expire(now_ns)
        choice = self._choose(worker, start_ns)
        if choice is not None and choice.lane == batch.lane and choice.requests == batch.requests:
            self.queue.room.take(choice.lane, choice.requests)
            worker.staged = batch
            return
        # Some may have ended already, as something newer waits.
        self.queue.effects.insert(before, Revoke(batch))
        if worker.executing is None or choice is None or worker.load_ns(choice.lane.model):
            return
        self._stage(worker, choice, now_ns)

    def _is_pressing(self) -> bool:
        """Return whether anybody waits who is firm, dry or of tier 0."""
        return any(
            line.firm or line.critical.requests or line.first.requests
            for line in self.queue.room.lines.values()
        )

    def _revoke(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        worker.staged = None
        self.queue.effects.append(Revoke(batch))
        self.queue.put_back(batch.requests, batch.lane)
        self.queue.expire(now_ns)

    def _start_best(self, worker: Worker, now_ns: int) -> None:
        choice = self._choose(worker, now_ns)
        while choice is None and self._take_over(worker, now_ns):
            choice = self._choose(worker, now_ns)
        if choice is not None:
            batch = self._take(worker, choice)
            self._start(worker, batch, now_ns)
            self.queue.effects.append(Stage(batch, go=True))

    def _start(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        if worker.idle_since_ns:
            for model in worker.models:
                self.queue.shedding.idled(model, now_ns - worker.idle_since_ns)
            worker.idle_since_ns = 0
        likely_ns = self._times.likely_ns(worker, batch.lane, len(batch.requests))
        worker.start(batch, now_ns, likely_ns)
        if batch.lead is not None:
            if batch.lead.dry:
                count = len(batch.requests)
                empty = 1 - count / worker.models.get(batch.lane.model, count)
                longer_ns = min(MOST_EMPTY_PAUSE_NS, int(EMPTY_PAUSE * empty * likely_ns))
                pause_ns = int(DRY_PAUSE * likely_ns) + longer_ns
                worker.dry_from_ns = worker.likely_ns + pause_ns
            else:
                worker.late_from_ns = worker.likely_ns + int(LATE_PAUSE * likely_ns)
        self.workers.estimate(batch.lane.model).ran_ns = now_ns
        self.queue.room.start(batch.requests, now_ns, batch.expected_ns)

    def _start_all_beside(self, now_ns: int) -> None:
        """Go on while there is one: what is taken back for it may run beside another."""
        while any(self._start_beside(worker, now_ns) for worker in self.workers if worker.urgent):
            pass

    def _start_beside(self, worker: Worker, now_ns: int) -> bool:
        """Start a batch for tier 0 beside what runs, if the worker then runs it first.

        What is staged is taken back for it, as there is room for the outputs of two.
        """
        choice = self._choose_beside(worker, now_ns)
        if choice is not None and worker.staged is not None:
            self._revoke(worker, worker.staged, now_ns)
            choice = self._choose_beside(worker, now_ns)  # somebody newer may wait now
        if choice is None:
            return False
        batch = worker.beside = self._take(worker, choice)
        batch.committed = True
        self._begin(worker, batch, now_ns)
        self.queue.effects.append(Stage(batch, go=True))
        return True

    def _begin(self, worker: Worker, batch: Batch, begun_ns: int) -> None:
        """Note that a batch runs that is not what its worker executes."""
        if worker.loads is not None:
            worker.loads.start(batch.lane.model)
        batch.started_ns = begun_ns
        for request in batch.requests:
            request.started_ns = begun_ns
        self.workers.estimate(batch.lane.model).ran_ns = begun_ns
        self.queue.room.start(batch.requests, begun_ns, batch.expected_ns)

    def _take_over(self, worker: Worker, now_ns: int) -> bool:
        """Take back what is staged behind a busy worker and could start on this one now."""
        for other in self.workers:
            batch = None if other.committed else other.staged
            if batch is None or worker.load_ns(batch.lane.model):
                continue
            if self._contenders.may_run(batch.lane, batch.requests, worker):
                self._revoke(other, batch, now_ns)
                return True
        return False

    def _choose(self, worker: Worker, start_ns: int) -> Choice | None:
        if not self.queue.room.lines:
            return None
        # What counts is when answers leave: what would be done at once is reported by then.
        return self._ask(self._contenders.of(worker, start_ns), start_ns + worker.delay_ns)

    def _choose_beside(self, worker: Worker, now_ns: int) -> Choice | None:
        return self._ask(self._contenders.beside(worker, now_ns), now_ns + worker.delay_ns)

    def _ask(self, contenders: list[Contender], start_ns: int) -> Choice | None:
        """Ask the strategy, if there is anything to choose."""
        decided = self.strategy.choose(contenders, start_ns) if contenders else None
        if isinstance(decided, Wait):
            self._look_at(decided.until_ns)
            return None
        return decided

    def _take(self, worker: Worker, choice: Choice) -> Batch:
        self.queue.room.take(choice.lane, choice.requests)
        self._batch_id += 1
        expected_ns = self._times.planned_ns(worker, choice.lane, len(choice.requests))
        batch = Batch(self._batch_id, choice.lane, choice.requests, worker.ref, expected_ns)
        batch.lead = choice.lead
        return batch
