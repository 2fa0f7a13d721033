"""The task that owns the scheduler: inbox -> `Scheduler.handle` -> effects -> timer.

Everything else posts events and is called back through doors and the pool, all synchronously and
without blocking. One turn handles everything posted since the last one. The inbox needs no bound
of its own: each door and each worker receiver posts one bounded batch and then waits its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import trio
from attrs import define, field

from appliance.dispatch.endings import Endings
from appliance.dispatch.fleet import Fleet
from appliance.dispatch.ticket import OutputTensor, Reply, Ticket
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
    Revoke,
    Stage,
)
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType, Timing
from appliance.workers.events import BatchFinished, PoolEvent
from appliance.workers.pool import WorkerPool

MICROSECOND_NS = 1000


@define(eq=False)
class Dispatcher:
    """See the module's docstring.

    Args:
        fleet: What the workers host; fed with the pool's events here.
        clock: Monotonic nanoseconds.
    """

    scheduler: Scheduler
    fleet: Fleet
    endings: Endings
    notifier: Notifier
    clock: Callable[[], int] = time.monotonic_ns
    pool: WorkerPool = field(init=False)
    _inbox: list[Event] = field(factory=list[Event], init=False)
    _wake: trio.Event = field(factory=trio.Event, init=False)
    _timer: Timer = field(factory=Timer, init=False)
    _armed_ns: int | None = field(default=None, init=False)
    _done: dict[int, worker_pb2.Done] = field(factory=dict[int, worker_pb2.Done], init=False)
    _idle: trio.Event | None = field(default=None, init=False)

    def post(self, event: Event) -> None:
        """Let the scheduler know, at the next turn."""
        self._inbox.append(event)
        self._wake.set()

    def on_pool_event(self, event: PoolEvent) -> None:
        """Take in what the worker pool reports."""
        if isinstance(event, BatchFinished):
            done = event.done
            self._done[done.batch_id] = done
            self.fleet.batch_finished(event.worker, done)
            self.post(_batch_done(event))
            return
        for translated in self.fleet.on_pool_event(event):
            self.post(translated)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_timer)
            task_status.started()
            try:
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    self.turn()
            finally:
                self._timer.close()

    async def wait_idle(self) -> None:
        """Wait until nothing waits and nothing runs."""
        self._idle = trio.Event()
        self._wake.set()
        await self._idle.wait()

    def abandon(self) -> None:
        """Give everything that has no outcome yet one now: the appliance stops."""
        self.post(Closing())
        self.turn()

    def turn(self) -> None:
        """Handle everything posted so far."""
        now_ns = self.clock()
        events, self._inbox = self._inbox, []
        decision = self.scheduler.handle(events, now_ns)
        for effect in decision.effects:
            if isinstance(effect, Answer):
                self._answer(effect)
            elif isinstance(effect, Stage):
                self._stage(effect.batch, go=effect.go)
            elif isinstance(effect, Go):
                self.pool.go(effect.batch.worker, effect.batch.id)
            else:
                self._revoke(effect)
        for event in events:
            if isinstance(event, BatchDone):
                self._done.pop(event.batch_id, None)
                self.fleet.release(event.worker, event.batch_id)
        self._arm(decision.next_wakeup_ns)
        if self._idle is not None and not self._inbox:
            statistics = self.scheduler.statistics()
            if statistics.queued == statistics.in_batches == 0:
                self._idle.set()

    # -------------------------------------------------------------------------------- effects

    def _stage(self, batch: Batch, *, go: bool) -> None:
        tickets = [cast("Ticket", request.payload) for request in batch.requests]
        message = self.fleet.stage_message(batch, tickets, go=go)
        if batch.lane.isolation:
            self.endings.metrics.count("dispatch_retries", "isolated", len(tickets))
        self.pool.stage(batch.worker, message)

    def _revoke(self, effect: Revoke) -> None:
        self.pool.revoke(effect.batch.worker, effect.batch.id)

    def _answer(self, answer: Answer) -> None:
        ticket = cast("Ticket", answer.request.payload)
        now_ns = self.clock()
        if answer.batch is None:
            total_us = (now_ns - ticket.received_ns) // MICROSECOND_NS
            reply = Reply(
                outcome=answer.outcome,
                message=answer.message,
                timing=Timing(queue_us=total_us, total_us=total_us),
                retry_after_ns=answer.retry_after_ns,
            )
            self.endings.end(ticket, reply, now_ns)
            return
        done = self._done[answer.batch.id]
        reply = self._reply(answer, ticket, done, now_ns)
        if ticket.state_key is not None:
            self.endings.memory.keep_state(ticket.state_key, ticket)
        outcome = self.endings.end(ticket, reply, now_ns)
        if outcome is Outcome.OK:
            self._record(answer, ticket, reply.timing, done, now_ns)

    def _reply(self, answer: Answer, ticket: Ticket, done: worker_pb2.Done, now_ns: int) -> Reply:
        batch = answer.batch
        assert batch is not None
        timing = Timing(
            queue_us=(answer.request.started_ns - ticket.received_ns) // MICROSECOND_NS,
            batch_us=(done.execute_started_ns - done.stage_started_ns) // MICROSECOND_NS,
            execute_us=(done.finished_ns - done.execute_started_ns) // MICROSECOND_NS,
            total_us=(now_ns - ticket.received_ns) // MICROSECOND_NS,
            batch_size=len(batch.requests),
        )
        return Reply(
            outcome=answer.outcome,
            message=answer.message,
            late=answer.late,
            timing=timing,
            outputs=[self._output(output, answer.row) for output in done.outputs],
        )

    def _output(self, output: worker_pb2.Output, row: int) -> OutputTensor:
        """Return row `row` of one output of a batch, where it lies in the arena."""
        if output.row_lengths:
            offset = output.offset + sum(output.row_lengths[:row])
            length = output.row_lengths[row]
        else:
            length = output.row_length
            offset = output.offset + row * length
        view = self.endings.memory.arena.view(offset, length)
        return OutputTensor(output.key, DType(output.dtype), tuple(output.row_shape), view)

    def _record(
        self, answer: Answer, ticket: Ticket, timing: Timing, done: worker_pb2.Done, now_ns: int
    ) -> None:
        observation = ticket.observation
        self.endings.metrics.recorder(observation.model_id).record(
            age_us=observation.age_us if observation.protocol_version else None,
            queue_us=timing.queue_us,
            batch_us=timing.batch_us,
            execute_us=timing.execute_us,
            reply_us=(now_ns - done.finished_ns) // MICROSECOND_NS,
            total_us=timing.total_us,
            slack_us=(answer.request.deadline_ns - now_ns) // MICROSECOND_NS,
        )

    # ---------------------------------------------------------------------------------- timer

    def _arm(self, wakeup_ns: int | None) -> None:
        """Set the timer for the scheduler's next look, and for the watchdog."""
        watchdog_ns = self.notifier.watchdog_interval_ns
        if watchdog_ns is not None:
            ping_ns = self.clock() + watchdog_ns
            wakeup_ns = ping_ns if wakeup_ns is None else min(wakeup_ns, ping_ns)
            self.notifier.watchdog()
        self._armed_ns = wakeup_ns
        self._timer.set(wakeup_ns)

    async def _watch_timer(self) -> None:
        while True:
            await self._timer.wait()
            if self._armed_ns is not None:
                lateness_us = (self.clock() - self._armed_ns) // MICROSECOND_NS
                self.endings.metrics.timer_lateness.record(max(0, lateness_us))
            self._wake.set()


def _batch_done(event: BatchFinished) -> BatchDone:
    done = event.done
    failed_rows = {
        error.row: (Outcome(int(error.code)), error.message) for error in done.row_errors
    }
    busy_ns = done.finished_ns - done.stage_started_ns
    return BatchDone(event.worker, done.batch_id, busy_ns, failed_rows, done.error)
