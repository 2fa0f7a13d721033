"""A scheduler that can be foretold: one request at a time, first in, first out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import define, field

from appliance.errors import Outcome
from appliance.scheduling.events import (
    Answer,
    Arrived,
    Batch,
    BatchDone,
    Decision,
    Effect,
    Event,
    Request,
    Stage,
    WorkerReady,
    WorkerRef,
)


@define(eq=False)
class Serial:
    """Serves by the interface of the scheduler.

    Attributes:
        advice_ns: Given with every answer.
        wait_ns: After each arrival nothing starts for so long.
        stops_after: So many batches are run, no more.
        turns_ns: When it was asked.
    """

    advice_ns: int = 0
    wait_ns: int = 0
    stops_after: int = 1 << 30
    turns_ns: list[int] = field(factory=list, init=False)
    times_ns: dict[object, dict[int, int]] = field(factory=dict, init=False)
    _queue: deque[Request] = field(factory=deque, init=False)
    _workers: dict[WorkerRef, Batch | None] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        self.turns_ns.append(now_ns)
        effects: list[Effect] = []
        for event in events:
            if isinstance(event, Arrived):
                self._queue.append(event.request)
            elif isinstance(event, WorkerReady):
                self._workers[event.worker] = None
                self.times_ns.update(event.times_ns)
            elif isinstance(event, BatchDone):
                batch = self._workers[event.worker]
                self._workers[event.worker] = None
                effects += [
                    Answer(each, Outcome.OK, batch=batch, advice_ns=self.advice_ns)
                    for each in batch.requests
                ]
        for worker, running in self._workers.items():
            if running is None and self._queue and self._count < self.stops_after:
                start_ns = self._queue[0].arrived_ns + self.wait_ns
                if now_ns < start_ns:
                    return Decision(effects, start_ns)
                request = self._queue.popleft()
                self._count += 1
                batch = Batch(self._count, request.lane, [request], worker, 0)
                self._workers[worker] = batch
                effects.append(Stage(batch, go=True))
        return Decision(effects, None)
