"""The owner of the scheduler: inbox -> `Scheduler.handle` -> effects -> timer.

Doors and the pool post events and then call `turn`, in their own task: a switch to another one
would cost as much as the decision. A turn is synchronous, does not block and is never entered
twice; what is posted during one is handled before it ends. The inbox needs no bound of its own:
each door and each worker receiver posts one bounded batch and then takes its turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import cast

import structlog
import trio
from attrs import define, field

from appliance.dispatch.endings import Endings
from appliance.dispatch.fleet import LONGEST_NS, Fleet
from appliance.dispatch.results import MICROSECOND_NS, BatchResult
from appliance.dispatch.ticket import Ended, Reply, Ticket
from appliance.errors import Outcome
from appliance.io.notify import Notifier
from appliance.io.timer import Timer
from appliance.scheduling import Scheduler
from appliance.scheduling.events import (
    Answer,
    Batch,
    BatchDone,
    Closing,
    Event,
    Go,
    ModelRef,
    Released,
    Revoke,
    Stage,
)
from appliance.scheduling.guard import StrategyFault
from appliance.wire.types import Timing
from appliance.workers.events import BatchFinished, PoolEvent, WorkerDown
from appliance.workers.pool import WorkerPool

AnswerRows = Callable[[list[Answer], BatchResult, Batch, int], list[Answer]]

ANSWERS = 16
"""About so many of the latest batches count for how long answering one takes."""

_OK = Outcome.OK  # members are slow to find before Python 3.12


@define(eq=False)
class Dispatcher:
    """See the module's docstring.

    Args:
        fleet: What the workers host; fed with the pool's events here.
        clock: Monotonic nanoseconds.

    Attributes:
        answer_rows: A fast path for rows of a batch that are OK, if a door has one: it ends those
            it can and returns the others, which come after them.
    """

    scheduler: Scheduler
    fleet: Fleet
    endings: Endings
    notifier: Notifier
    clock: Callable[[], int] = time.monotonic_ns
    pool: WorkerPool = field(init=False)
    answer_rows: AnswerRows | None = field(default=None, init=False)
    _inbox: list[Event] = field(factory=list[Event], init=False)
    _turning: bool = field(default=False, init=False)
    _timer: Timer = field(factory=Timer, init=False)
    _armed_ns: int | None = field(default=None, init=False)
    _ping_ns: int = field(default=0, init=False)
    _results: dict[int, BatchResult] = field(factory=dict[int, BatchResult], init=False)
    _answering_ns: int = field(default=0, init=False)
    _idle: trio.Event | None = field(default=None, init=False)
    _fault: StrategyFault | None = field(default=None, init=False)

    def post(self, event: Event) -> None:
        """Let the scheduler know at the next `turn`, which whoever posts calls after its batch."""
        self._inbox.append(event)

    def on_pool_event(self, event: PoolEvent) -> None:
        """Take in what the worker pool reports."""
        if isinstance(event, BatchFinished):
            done = event.done
            result = self._results[done.batch_id] = BatchResult.of(done)
            resident = self.fleet.batch_finished(event.worker, done)
            self.post(_batch_done(event, self._answering_ns, resident))
        else:
            result = None
            if isinstance(event, WorkerDown):
                self.endings.timeline.lost(event.worker, self.clock())
            for translated in self.fleet.on_pool_event(event):
                self.post(translated)
        if self.endings.witness is not None:
            self.endings.witness.reported(event, result, self.clock())
        self.turn()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take a turn whenever the timer says so, until cancelled."""
        self.turn()  # arms the timer, for the watchdog
        task_status.started()
        while True:
            await self._timer.wait()
            if self._armed_ns is not None:
                lateness_us = (self.clock() - self._armed_ns) // MICROSECOND_NS
                self.endings.metrics.timer_lateness.record(max(0, lateness_us))
                self._armed_ns = None
            self.turn()

    def close(self) -> None:
        """Give up the timer; nothing is posted any more."""
        self._timer.close()

    async def wait_idle(self) -> None:
        """Wait until nothing waits and nothing runs."""
        self._idle = trio.Event()
        self.turn()
        await self._idle.wait()

    def abandon(self) -> None:
        """Give everything that has no outcome yet one now: the appliance stops."""
        self.post(Closing())
        self.turn()
        self.fleet.abandon()

    def turn(self) -> None:
        """Handle everything posted so far, and what comes of that."""
        if self._turning:
            return  # posted from within a turn, which goes on until the inbox is empty
        self._turning = True
        try:
            wakeup_ns = self._handle()
            while self._inbox:
                wakeup_ns = self._handle()
        finally:
            self._turning = False
        self._arm(wakeup_ns)
        if self._idle is not None:
            statistics = self.scheduler.statistics()
            if statistics.queued == statistics.in_batches == 0:
                self._idle.set()

    def _handle(self) -> int | None:
        """Ask the scheduler once and do what it says; return when it wants to be asked again."""
        now_ns = self.clock()
        events, self._inbox = self._inbox, []
        decision = self.scheduler.handle(events, now_ns)
        if self.scheduler.fault is not self._fault:
            self._note_fault()
        answers: list[Answer] = []
        orders: deque[Stage | Go | Revoke] = deque()
        released: list[Released] = []
        for effect in decision.effects:
            if isinstance(effect, Answer):
                answers.append(effect)
            elif isinstance(effect, Released):
                released.append(effect)
            else:
                orders.append(effect)
        if self.endings.memory.states.running:
            self._keep_states(answers)
        # First, so that workers work while others are answered; unless a batch would write over
        # the outputs that are just being sent.
        while orders and self._has_room(orders[0]):
            self._perform(orders.popleft())
        self._answer(answers)
        if answers and answers[-1].batch is not None:
            took_ns = self.clock() - now_ns
            self._answering_ns += (took_ns - self._answering_ns) // ANSWERS
        self._forget_finished(events, now_ns)
        while orders:
            self._perform(orders.popleft())
        for effect in released:
            self.pool.dismiss(effect.worker)
        return decision.next_wakeup_ns

    def _forget_finished(self, events: Sequence[Event], now_ns: int) -> None:
        """Let go of what finished batches, which are answered by now, have held."""
        for event in events:
            if isinstance(event, BatchDone):
                result = self._results.pop(event.batch_id, None)
                if result is not None:
                    self.endings.timeline.finished(event, result, now_ns)
                self.fleet.release(event.worker, event.batch_id)

    def _note_fault(self) -> None:
        """Tell once that the default has taken over from the strategy that was chosen."""
        fault = self._fault = self.scheduler.fault
        if fault is not None:
            self.endings.metrics.count("strategy_faults", fault.cause)
            structlog.get_logger("appliance").error(
                "scheduling strategy replaced by the default",
                strategy=fault.strategy,
                cause=fault.cause,
                error=fault.message,
                **({"exception": fault.traceback} if fault.traceback else {}),
            )

    # -------------------------------------------------------------------------------- effects

    def _has_room(self, order: Stage | Go | Revoke) -> bool:
        return not isinstance(order, Stage) or self.fleet.has_room(order.batch.worker)

    def _perform(self, order: Stage | Go | Revoke) -> None:
        batch = order.batch
        if isinstance(order, Stage):
            self._stage(batch, go=order.go)
        elif isinstance(order, Go):
            self.pool.go(batch.worker, batch.id, batch.latest_start_ns)
        else:
            self._revoke(batch)

    def _stage(self, batch: Batch, *, go: bool) -> None:
        tickets = [cast("Ticket", request.payload) for request in batch.requests]
        message = self.fleet.stage_message(batch, tickets, go=go)
        if batch.lane.isolation:
            self.endings.metrics.count("dispatch_retries", "isolated", len(tickets))
        self.pool.stage(batch.worker, message)
        now_ns = self.clock()
        self.endings.timeline.staged(batch, now_ns)
        if self.endings.witness is not None:
            self.endings.witness.staged(batch, now_ns)

    def _revoke(self, batch: Batch) -> None:
        self.fleet.revoked(batch)
        self.pool.revoke(batch.worker, batch.id)
        now_ns = self.clock()
        self.endings.timeline.revoked(batch, now_ns)
        if self.endings.witness is not None:
            self.endings.witness.revoked(batch, now_ns)

    def _keep_states(self, answers: Sequence[Answer]) -> None:
        """Let what was produced be current, before the next request of an episode is staged."""
        for answer in answers:
            if answer.batch is not None:
                ticket = cast("Ticket", answer.request.payload)
                if ticket.state_key is not None:
                    self.endings.memory.states.keep(ticket.state_key, ticket)

    def _answer(self, answers: Sequence[Answer]) -> None:
        """End requests, in order."""
        if not answers:
            return
        now_ns = self.clock()
        if self.answer_rows is None:
            self._answer_each(answers, now_ns)
            return
        for batch, group in groupby(answers, _batch):
            left = list(group)
            if batch is not None:
                left = self.answer_rows(left, self._results[batch.id], batch, now_ns)
            self._answer_each(left, now_ns)

    def _answer_each(self, answers: Sequence[Answer], now_ns: int) -> None:
        """End requests, all together: replies sent in one go cost half."""
        ended: list[Ended] = []
        for answer in answers:
            ticket = cast("Ticket", answer.request.payload)
            ended.append((ticket, self._reply(answer, ticket, now_ns)))
        outcomes = self.endings.end(ended, now_ns)
        for answer, (ticket, reply), outcome in zip(answers, ended, outcomes, strict=True):
            if outcome is _OK:
                self._record(answer, ticket, reply, now_ns)

    def _reply(self, answer: Answer, ticket: Ticket, now_ns: int) -> Reply:
        batch, received_ns = answer.batch, ticket.received_ns
        advice_us = answer.advice_ns // MICROSECOND_NS
        total_us = (now_ns - received_ns) // MICROSECOND_NS
        if batch is None:
            return Reply(
                outcome=answer.outcome,
                message=answer.message,
                timing=Timing(queue_us=total_us, total_us=total_us),
                retry_after_ns=answer.retry_after_ns,
                answer=answer,
                advice_us=advice_us,
            )
        result = self._results[batch.id]
        tensors, parts = result.row(self.endings.memory.arena, answer.row)
        return Reply(
            outcome=answer.outcome,
            message=answer.message,
            late=answer.late,
            timing=Timing(
                (batch.started_ns - received_ns) // MICROSECOND_NS,
                result.batch_us,
                result.execute_us,
                total_us,
                len(batch.requests),
            ),
            tensors=tensors,
            parts=parts,
            answer=answer,
            finished_ns=result.finished_ns,
            slack_us=(answer.request.deadline_ns - now_ns) // MICROSECOND_NS,
            advice_us=advice_us,
        )

    def _record(self, answer: Answer, ticket: Ticket, reply: Reply, now_ns: int) -> None:
        assert answer.batch is not None
        observation, timing = ticket.observation, reply.timing
        finished_ns = self._results[answer.batch.id].finished_ns
        self.endings.metrics.recorder(observation.model_id).record(
            age_us=observation.age_us if observation.protocol_version else None,
            queue_us=timing.queue_us,
            batch_us=timing.batch_us,
            execute_us=timing.execute_us,
            reply_us=(now_ns - finished_ns) // MICROSECOND_NS,
            total_us=timing.total_us,
            slack_us=reply.slack_us,
        )

    # ---------------------------------------------------------------------------------- timer

    def _arm(self, wakeup_ns: int | None) -> None:
        """Set the timer for the scheduler's next look, and for the watchdog."""
        interval_ns = self.notifier.watchdog_interval_ns
        if interval_ns is not None:
            now_ns = self.clock()
            if now_ns >= self._ping_ns:
                self.notifier.watchdog()
                self._ping_ns = now_ns + interval_ns
            wakeup_ns = self._ping_ns if wakeup_ns is None else min(wakeup_ns, self._ping_ns)
        # Looking too early does no harm, and a system call in each turn would cost more.
        if wakeup_ns is not None and (self._armed_ns is None or wakeup_ns < self._armed_ns):
            self._armed_ns = wakeup_ns
            self._timer.set(wakeup_ns)


def _batch(answer: Answer) -> Batch | None:
    return answer.batch


def _batch_done(
    event: BatchFinished, answering_ns: int, resident: tuple[ModelRef, ...]
) -> BatchDone:
    done = event.done
    failed_rows = {
        error.row: (Outcome(int(error.code)), error.message) for error in done.row_errors
    }
    busy_ns = done.gather_ns + done.finished_ns - done.execute_started_ns
    busy_ns = max(0, min(busy_ns, LONGEST_NS))  # whatever a worker says
    return BatchDone(
        event.worker,
        done.batch_id,
        busy_ns,
        failed_rows,
        done.error,
        done.finished_ns,
        answering_ns,
        done.skipped,
        min(done.load_ns, LONGEST_NS),
        resident,
    )
