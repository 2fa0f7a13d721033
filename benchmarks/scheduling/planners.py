"""Peers that plan by deadlines and by what they have learnt of execution times."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator

from appliance.scheduling.events import ModelRef, Request
from appliance.simulation import Fleet
from benchmarks.scheduling.peer import NOTHING, Choice, Peer, Slowest, due_ns

Entry = tuple[int, int, Request]
"""Deadline, id, request: in order of deadlines."""


class Planner(Peer):
    """Estimates execution times by the slowest of the last ten batches of the same size."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.slowest = Slowest(self)

    def learn(self, model: ModelRef, rows: int, busy_ns: int) -> None:
        """Take in how long a batch took."""
        self.slowest.learn(model, rows, busy_ns)


class Clockwork(Planner):
    """Clockwork's `infer5`.

    Queues are first in, first out. Strategies (model, batch size) are tried in the order of the
    latest instants at which the first request could still start; a model runs the largest size for
    which enough requests wait. Who cannot complete is dropped from the front. Nothing waits.
    """

    sizes = (1, 2, 4, 8, 16)

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._queues: dict[ModelRef, deque[Request]] = {model: deque() for model in self.models}

    def arrived(self, request: Request) -> None:
        """Queue a request."""
        self._queues[request.lane.model].append(request)

    def choose(self, now_ns: int) -> Choice:
        """Try the strategies."""
        tried: set[ModelRef] = set()
        for _, model, size in sorted(self._strategies(now_ns)):
            if model in tried:
                continue
            largest, skipped = self._largest(model, now_ns)
            queue = self._queues[model]
            if largest >= size:
                for _ in range(skipped):
                    self.refuse(queue.popleft())
                return Choice([queue.popleft() for _ in range(largest)])
            if not largest:
                tried.add(model)
        for queue in self._queues.values():
            if queue:
                return Choice([queue.popleft()])
        return NOTHING

    def _strategies(self, now_ns: int) -> Iterator[tuple[int, ModelRef, int]]:
        """Drop who cannot complete; yield latest start, model and size."""
        for model, queue in self._queues.items():
            while queue and self._cannot(queue[0], 1, now_ns):
                self.refuse(queue.popleft())
            if queue:
                for size in self._sizes(model):
                    yield due_ns(queue[0]) - self.slowest.of(model, size), model, size

    def _sizes(self, model: ModelRef) -> list[int]:
        return [size for size in self.sizes if size <= self.models[model].max_batch]

    def _cannot(self, request: Request, size: int, now_ns: int) -> bool:
        finish_ns = now_ns + self.slowest.of(request.lane.model, size)
        return due_ns(request) < finish_ns

    def _largest(self, model: ModelRef, now_ns: int) -> tuple[int, int]:
        """Return the largest size with enough requests, and how many are dropped before it."""
        largest = skipped = 0
        queue = self._queues[model]
        for size in self._sizes(model):
            skip = 0
            for request in queue:
                if not self._cannot(request, size, now_ns):
                    break
                skip += 1
            if len(queue) - skip < size:
                break
            largest, skipped = size, skip
        return largest, skipped


class EarliestFeasible(Planner):
    """Earliest deadline first; who cannot be in time even alone is refused.

    The model of the earliest deadline gets a batch that grows as long as that deadline is kept.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._queues: dict[ModelRef, list[Entry]] = {model: [] for model in self.models}

    def arrived(self, request: Request) -> None:
        """Queue a request."""
        insort(self._queues[request.lane.model], (due_ns(request), request.id, request))

    def choose(self, now_ns: int) -> Choice:
        """Serve the model of the earliest deadline."""
        heads: list[tuple[int, ModelRef]] = []
        for model, queue in self._queues.items():
            refuse_late(self, queue, now_ns + self.slowest.of(model, 1))
            if queue:
                heads.append((queue[0][0], model))
        if not heads:
            return NOTHING
        deadline_ns, model = min(heads, key=lambda head: head[0])
        queue = self._queues[model]
        rows = min(len(queue), self.models[model].max_batch)
        while rows > 1 and now_ns + self.slowest.of(model, rows) > deadline_ns:
            rows -= 1
        batch = [entry[2] for entry in queue[:rows]]
        del queue[:rows]
        return Choice(batch)


class SymphonyEager(Planner):
    """Symphony's `rankmt` without deferring, which loses on one accelerator.

    For each model, heads are dropped until all others fit the deadline of the first of them, in
    one batch; who was dropped rides along if it is still in time, and the batch grows as long as
    its earliest deadline is kept. The batch that would have to start first runs.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._queues: dict[ModelRef, list[Entry]] = {model: [] for model in self.models}

    def arrived(self, request: Request) -> None:
        """Queue a request."""
        insort(self._queues[request.lane.model], (due_ns(request), request.id, request))

    def choose(self, now_ns: int) -> Choice:
        """Run the candidate that would have to start first."""
        candidates: list[tuple[int, ModelRef, int, int]] = []
        for model in self._queues:
            candidate = self._candidate(model, now_ns)
            if candidate is not None:
                candidates.append(candidate)
        if not candidates:
            return NOTHING
        _, model, skip, rows = min(candidates, key=lambda candidate: candidate[0])
        queue = self._queues[model]
        for _, _, request in queue[:skip]:
            self.refuse(request)
        batch = [entry[2] for entry in queue[skip : skip + rows]]
        del queue[: skip + rows]
        return Choice(batch)

    def _candidate(self, model: ModelRef, now_ns: int) -> tuple[int, ModelRef, int, int] | None:
        """Return latest start, model, how many heads are dropped, and the size of the batch."""
        queue, most = self._queues[model], self.models[model].max_batch
        refuse_late(self, queue, now_ns + self.slowest.of(model, 1))
        count = len(queue)
        if not count:
            return None
        dropped = 0
        while dropped < count and queue[dropped][0] < now_ns + self.slowest.of(
            model, min(count - dropped, most)
        ):
            dropped += 1
        dropped = min(dropped, count - 1)
        rows = min(most, count - dropped)
        finish_ns = now_ns + self.slowest.of(model, rows)
        skip = 0
        while skip < dropped and queue[skip][0] < finish_ns:
            skip += 1
        deadline_ns = queue[skip][0]
        rows = min(rows, count - skip)
        while rows < min(most, count - skip):
            if deadline_ns < now_ns + self.slowest.of(model, rows + 1):
                break
            rows += 1
        return deadline_ns - self.slowest.of(model, rows), model, skip, rows


def refuse_late(peer: Peer, queue: list[Entry], finish_ns: int) -> None:
    """Refuse the heads that cannot be in time."""
    while queue and queue[0][0] < finish_ns:
        peer.refuse(queue.pop(0)[2])
