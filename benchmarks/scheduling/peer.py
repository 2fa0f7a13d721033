"""What all peers share: they serve by the interface of the appliance's scheduler.

Nobody is refused unless the original refuses, nothing is staged ahead, and a newer observation does
not replace an older one. They know the engines' true mean times, which ours has to learn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from appliance.errors import Outcome
from appliance.scheduling.events import (
    Answer,
    Arrived,
    Batch,
    BatchDone,
    Decision,
    Effect,
    Event,
    ModelRef,
    Request,
    Stage,
    WorkerReady,
    WorkerRef,
)
from appliance.simulation import Fleet

MILLISECOND_NS = 1_000_000
LEARNT_FROM = 10
"""Batches of one size that an estimate is the slowest of."""
MARGIN = 1.02
"""Before the first of them, the mean is taken times this."""


class Choice(NamedTuple):
    """What to do with an idle worker: run these requests of one model, or look again then."""

    requests: list[Request]
    look_again_ns: int | None = None


NOTHING = Choice([])


class Peer(ABC):
    """Gives each idle worker what its subclass chooses; every worker hosts every model."""

    def __init__(self, fleet: Fleet) -> None:
        self.models = {ModelRef(engine.name, "1"): engine for engine in fleet.engines}
        self._workers: list[WorkerRef] = []
        self._running: dict[WorkerRef, Batch] = {}
        self._batch_id = 0
        self._effects: list[Effect] = []

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        """Take in what happened until `now_ns` and say what to do."""
        self._effects = []
        for event in events:
            if isinstance(event, Arrived):
                self.arrived(event.request)
            elif isinstance(event, BatchDone):
                batch = self._running.pop(event.worker)
                self.learn(batch.lane.model, len(batch.requests), event.busy_ns)
                self.done(batch)
            elif isinstance(event, WorkerReady):
                self._workers.append(event.worker)
        wakeups_ns: list[int] = []
        for worker in self._workers:
            if worker not in self._running:
                choice = self.choose(now_ns)
                if choice.requests:
                    self._run(worker, choice.requests)
                elif choice.look_again_ns is not None:
                    wakeups_ns.append(choice.look_again_ns)
        return Decision(self._effects, min(wakeups_ns, default=None))

    def _run(self, worker: WorkerRef, requests: list[Request]) -> None:
        self._batch_id += 1
        lane = requests[0].lane
        expected_ns = self.models[lane.model].mean_ns(len(requests))
        self._running[worker] = Batch(self._batch_id, lane, requests, worker, expected_ns)
        self._effects.append(Stage(self._running[worker], go=True))

    def refuse(self, request: Request) -> None:
        """End a request that will not be served."""
        self._effects.append(Answer(request, Outcome.EXPIRED))

    def reply(self, batch: Batch) -> None:
        """Answer a batch."""
        for row, request in enumerate(batch.requests):
            self._effects.append(Answer(request, Outcome.OK, batch=batch, row=row))

    def done(self, batch: Batch) -> None:
        """Take in a batch that is over."""
        self.reply(batch)

    def learn(self, model: ModelRef, rows: int, busy_ns: int) -> None:
        """Take in how long a batch took; few do."""
        del model, rows, busy_ns

    @abstractmethod
    def arrived(self, request: Request) -> None:
        """Queue a request."""

    @abstractmethod
    def choose(self, now_ns: int) -> Choice:
        """Refuse whom the original refuses, and take from the queue what an idle worker runs."""


def due_ns(request: Request) -> int:
    """Return the deadline that a peer is told.

    None of them knows robots that are dry already and want an answer however late: those are due
    before they observe again.
    """
    return request.arrived_ns + request.period_ns if request.dry else request.deadline_ns


class Slowest:
    """An estimate of execution times: the slowest of the last ten batches of the same size."""

    def __init__(self, peer: Peer) -> None:
        self._models = peer.models
        self._seen: dict[tuple[ModelRef, int], deque[int]] = {}

    def learn(self, model: ModelRef, rows: int, busy_ns: int) -> None:
        """Take in how long a batch took."""
        self._seen.setdefault((model, rows), deque(maxlen=LEARNT_FROM)).append(busy_ns)

    def of(self, model: ModelRef, rows: int) -> int:
        """Return how long a batch will take at most."""
        seen = self._seen.get((model, rows))
        return max(seen) if seen else round(self._models[model].mean_ns(rows) * MARGIN)
