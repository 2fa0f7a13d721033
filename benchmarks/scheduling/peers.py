"""Peers that do not plan by deadlines, or only when they rank: as their sources say they behave."""

from __future__ import annotations

from bisect import insort
from collections import deque
from random import Random

from appliance.scheduling.events import Batch, ModelRef, Request
from appliance.simulation import Fleet
from benchmarks.scheduling.peer import MILLISECOND_NS, NOTHING, Choice, Peer, due_ns

TIME_TO_LIVE_NS = 5000 * MILLISECOND_NS
STEP_NS = 20 * MILLISECOND_NS
"""A control step, where remaining steps are counted."""


class InferentialDefault(Peer):
    """`inferential` 1.4.0 as it comes.

    A request's score is computed once, when it is submitted: its tier, and a little for the time
    it took to submit it. Up to eight of the highest score are collected, run one by one, and
    answered all together at the end. 1000 wait at most; the oldest makes room.
    """

    group = 8
    capacity = 1000

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._random = Random(1)
        self._queue: list[tuple[float, int, Request]] = []
        self._group: deque[Request] = deque()
        self._finished: list[Batch] = []

    def arrived(self, request: Request) -> None:
        """Score a request once and for all."""
        if len(self._queue) >= self.capacity:
            oldest = min(self._queue, key=lambda entry: entry[2].arrived_ns)
            self._queue.remove(oldest)
            self.refuse(oldest[2])
        submitting_ms = self._random.uniform(0.002, 0.04)
        score = (10 - request.tier) + min(submitting_ms / 50.0, 1) * 15
        insort(self._queue, (-score, request.id, request))

    def choose(self, now_ns: int) -> Choice:
        """Go on with the group, or collect the next one."""
        if not self._group:
            queue = self._queue
            while queue and now_ns - queue[0][2].arrived_ns > TIME_TO_LIVE_NS:
                self.refuse(queue.pop(0)[2])
            self._group.extend(entry[2] for entry in queue[: self.group])
            del queue[: self.group]
        return Choice([self._group.popleft()]) if self._group else NOTHING

    def done(self, batch: Batch) -> None:
        """Answer when the whole group is over."""
        self._finished.append(batch)
        if not self._group:
            for finished in self._finished:
                self.reply(finished)
            self._finished = []


class InferentialIdealised(Peer):
    """What `inferential` advertises, at its best.

    The weights that it documents (cadence, urgency, priority, age) are scored anew at each
    decision, the model of the highest score gets a true batch of up to eight, and what has expired
    is dropped.
    """

    group = 8

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._queue: list[Request] = []
        self._budgets_ns = {
            kind.name: kind.budget_ns or (kind.chunks.length_ns if kind.chunks else 1)
            for kind in fleet.robots
        }

    def arrived(self, request: Request) -> None:
        """Queue a request."""
        self._queue.append(request)

    def choose(self, now_ns: int) -> Choice:
        """Score all, and batch the best model."""
        alive: list[Request] = []
        for request in self._queue:
            if due_ns(request) < now_ns:
                self.refuse(request)
            else:
                alive.append(request)
        alive.sort(key=lambda request: -self._score(request, now_ns))
        batch: list[Request] = []
        if alive:
            model = alive[0].lane.model
            batch = [request for request in alive if request.lane.model == model][: self.group]
        taken = {request.id for request in batch}
        self._queue = [request for request in alive if request.id not in taken]
        return Choice(batch)

    def _score(self, request: Request, now_ns: int) -> float:
        budget_ns = self._budgets_ns[request.client.rsplit("-", 1)[0]]
        until_next_ns = request.arrived_ns + request.period_ns - now_ns
        left_ns = due_ns(request) - now_ns
        score = max(0.0, -until_next_ns / MILLISECOND_NS) / 100.0 * 50
        score += 30 * max(0.0, 1 - left_ns / budget_ns)
        steps = left_ns / STEP_NS
        score += 15 if steps <= 0 else 10.5 if steps <= 2 else 6 if steps <= 4 else 0
        age = min((now_ns - request.arrived_ns) / budget_ns, 1.0)
        return score + (10 - request.tier) + age * 15


class Delayed(Peer):
    """A first-in-first-out queue for each model; a batch goes when it is full or has waited.

    Among models whose batch may go, the one that has waited longest goes first.
    """

    delay_ns = 0

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.queues: dict[ModelRef, deque[Request]] = {model: deque() for model in self.models}

    def largest(self, model: ModelRef) -> int:
        """Return the size of a full batch."""
        return self.models[model].max_batch

    def arrived(self, request: Request) -> None:
        """Queue a request."""
        self.queues[request.lane.model].append(request)

    def prune(self, model: ModelRef, now_ns: int) -> None:
        """Refuse whom the original refuses."""

    def choose(self, now_ns: int) -> Choice:
        """Take the batch that has waited longest, of those that may go."""
        ready: list[tuple[int, ModelRef]] = []
        look_again_ns: int | None = None
        for model in self.queues:
            self.prune(model, now_ns)
            queue = self.queues[model]
            if not queue:
                continue
            oldest_ns = min(request.arrived_ns for request in queue)
            goes_ns = oldest_ns + self.delay_ns
            if len(queue) >= self.largest(model) or now_ns >= goes_ns:
                ready.append((oldest_ns, model))
            elif look_again_ns is None or goes_ns < look_again_ns:
                look_again_ns = goes_ns
        if not ready:
            return Choice([], look_again_ns)
        _, model = min(ready, key=lambda pair: pair[0])
        queue = self.queues[model]
        return Choice([queue.popleft() for _ in range(min(len(queue), self.largest(model)))])


class RayServe(Delayed):
    """Ray Serve's `@serve.batch` as it comes: up to 10, after 10 ms; it knows no deadlines."""

    delay_ns = 10 * MILLISECOND_NS

    def largest(self, model: ModelRef) -> int:
        """Return the size of a full batch."""
        return min(10, self.models[model].max_batch)


class Triton(Delayed):
    """Triton's dynamic batcher, tuned by somebody who knows it well.

    Tier 0 is a priority level of its own, and each request has a timeout after which an answer in
    time would not be possible any more: then it is refused.
    """

    def arrived(self, request: Request) -> None:
        """Queue a request, tier 0 before all others."""
        queue = self.queues[request.lane.model]
        if request.tier > 0:
            queue.append(request)
            return
        place = 0
        while place < len(queue) and queue[place].tier == 0:
            place += 1
        queue.insert(place, request)

    def prune(self, model: ModelRef, now_ns: int) -> None:
        """Refuse who cannot be in time even alone."""
        alone_ns = self.models[model].mean_ns(1)
        kept: deque[Request] = deque()
        for request in self.queues[model]:
            if now_ns > due_ns(request) - alone_ns:
                self.refuse(request)
            else:
                kept.append(request)
        self.queues[model] = kept


class Triton2(Triton):
    """The same with a queue delay of 2 ms."""

    delay_ns = 2 * MILLISECOND_NS


class Triton5(Triton):
    """The same with a queue delay of 5 ms."""

    delay_ns = 5 * MILLISECOND_NS
