"""The workers as the scheduler sees them: what each hosts and does, and how long that takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from attrs import define, field

from appliance.scheduling.choice import FOREVER_NS
from appliance.scheduling.estimate import Estimate
from appliance.scheduling.events import (
    Batch,
    BatchDone,
    ClocksRead,
    ModelRef,
    WorkerReady,
    WorkerRef,
)
from appliance.scheduling.loads import Loads
from appliance.scheduling.throttling import Throttling

SOONEST = 0.8
"""What part of its planned time a batch takes at least."""

LATEST, DEVIATIONS = 16, 2
"""So many of the latest delays count, about; mean deviations that are added to be careful."""

MOST_DELAY_NS, SPIKE, SPIKE_NS = 10_000_000, 2, 500_000
"""No delay counts for more, nor for more than so many times what was careful to expect and so much
more: a core that stood still once would refuse whoever it could not answer then."""


@define(eq=False)
class Delay:
    """How long something took lately.

    Attributes:
        usual_ns: On average.
        careful_ns: Not often exceeded.
    """

    usual_ns: int = 0
    careful_ns: int = 0
    _deviation_ns: int = 0

    def observe(self, took_ns: int) -> None:
        """Take in how long it took."""
        most_ns = min(MOST_DELAY_NS, SPIKE * self.careful_ns + SPIKE_NS)
        took_ns = max(0, min(took_ns, most_ns))
        error_ns = took_ns - self.usual_ns
        self.usual_ns += error_ns // LATEST
        self._deviation_ns += (abs(error_ns) - self._deviation_ns) // LATEST
        self.careful_ns = self.usual_ns + DEVIATIONS * self._deviation_ns


@define(eq=False)
class Worker:
    """What one worker is doing.

    It has two batches at most: the one it executes, and one that is staged, or is staged and will
    be started without being told again (`committed`), or runs beside. A batch that was staged when
    the one before was done is started or taken back in the same turn.

    Attributes:
        models: What it hosts, with the largest batch of each.
        throttling: How much longer its batches take for now, as its device's clocks are held down.
        executing: Started and not yet done.
        staged: Sent, not started.
        beside: Started while `executing` runs, and run before it.
        overtaken_ns: For how long others ran while `executing` had to wait for them.
        committed_ns: When it was told to start `staged` behind `executing`; 0: it was not.
        free_ns: When `executing` is expected to be done.
        soonest_ns: When it might be done at the earliest.
        likely_ns: When it will about be done.
        finished_ns: When the one before was done.
        starting: How long it takes it to begin what it is told to when it has nothing to do.
        reporting: How long it takes from its end of a batch until the answers have left.
        last: The model it ran last, or runs.
        before: The one before that.
        dry_from_ns, late_from_ns: See `Contender`.
        idle_since_ns: When it was found to have nothing to do; 0: it has.
        retired: It has a successor.
        urgent: See `WorkerReady`.
        loads: What it has to load for a batch; None: all of its models are always there.
    """

    ref: WorkerRef
    models: dict[ModelRef, int]
    throttling: Throttling = field(factory=Throttling)
    executing: Batch | None = None
    staged: Batch | None = None
    beside: Batch | None = None
    overtaken_ns: int = 0
    committed_ns: int = 0
    free_ns: int = 0
    soonest_ns: int = 0
    likely_ns: int = 0
    finished_ns: int = 0
    starting: Delay = field(factory=Delay, init=False)
    reporting: Delay = field(factory=Delay, init=False)
    last: ModelRef | None = None
    before: ModelRef | None = None
    dry_from_ns: int = 0
    late_from_ns: int = 0
    idle_since_ns: int = 0
    retired: bool = False
    urgent: frozenset[ModelRef] = frozenset()
    loads: Loads | None = None

    @property
    def committed(self) -> Batch | None:
        """What starts as soon as `executing` is done, whatever comes."""
        return self.staged if self.committed_ns else None

    @property
    def running(self) -> list[Batch]:
        """What it was told to run, and may run by now."""
        return [each for each in (self.executing, self.beside) if each is not None]

    def takes_beside(self, model: ModelRef) -> bool:
        """Return whether a batch of a model could be started beside what it executes.

        Not where something is committed: it holds two that are to run at most.
        """
        return (
            self.executing is not None
            and model in self.models
            and model in self.urgent
            and self.executing.lane.model not in self.urgent
            and self.beside is None
            and self.committed is None
            and not self.load_ns(model)
        )

    @property
    def delay_ns(self) -> int:
        """What to add to the time of its next batch, until the answers have left."""
        if self.executing is not None:
            return self.reporting.careful_ns
        return self.starting.careful_ns + self.reporting.careful_ns

    def load_ns(self, model: ModelRef) -> int:
        """Return what to plan for loading a model, if a batch of it is next; 0: it is there."""
        return 0 if self.loads is None else self.loads.planned_ns(model)

    def find(self, batch_id: int) -> Batch | None:
        """Return a batch that it may be done with."""
        found = (self.executing, self.beside, self.committed)
        return next((each for each in found if each is not None and each.id == batch_id), None)

    def overtook(self, batch: Batch, event: BatchDone, now_ns: int) -> None:
        """Note that it is done with `batch` before what it executes, which takes longer for it."""
        if batch is self.beside:
            self.beside = None
        else:
            self.staged, self.committed_ns = None, 0
        self.overtaken_ns += event.busy_ns
        self.free_ns += event.busy_ns
        self.likely_ns += event.busy_ns
        finished_ns = min(event.finished_ns or now_ns, now_ns)
        self.reporting.observe(now_ns - finished_ns + event.answering_ns)

    def done(self, event: BatchDone, now_ns: int) -> None:
        """Note that it is done with what it executed; what ran beside that goes on."""
        batch, self.executing, self.beside = self.executing, self.beside, None
        if event.load_ns and batch is not None and self.loads is not None:
            self.loads.loaded(batch.lane.model, event.load_ns, event.resident)
        self.finished_ns = min(event.finished_ns or now_ns, now_ns)
        if event.skipped:
            self.last = self.before
        elif batch is not None:
            self.reporting.observe(now_ns - self.finished_ns + event.answering_ns)
            if not batch.committed:
                begun_ns = self.finished_ns - event.busy_ns - event.load_ns - self.overtaken_ns
                self.starting.observe(begun_ns - batch.started_ns)
        self.overtaken_ns = 0
        if self.executing is not None:
            begun_ns = max(self.finished_ns, self.executing.started_ns)
            self.soonest_ns = now_ns
            self.likely_ns = self.free_ns = begun_ns + self.executing.expected_ns
            self.before, self.last = self.last, self.executing.lane.model

    def start(self, batch: Batch, now_ns: int, likely_ns: int) -> None:
        """Note that it was told to run `batch` from now on, and about how long that takes."""
        self.executing, self.overtaken_ns = batch, 0
        begins_ns = now_ns if batch.committed else now_ns + self.starting.usual_ns
        self.likely_ns = begins_ns + likely_ns
        self.free_ns = begins_ns + batch.expected_ns
        self.soonest_ns = now_ns + int(SOONEST * batch.expected_ns)
        batch.switched = self.last not in (None, batch.lane.model)
        if self.loads is not None:
            self.loads.start(batch.lane.model)
        self.before, self.last = self.last, batch.lane.model
        batch.started_ns = now_ns
        for request in batch.requests:
            request.started_ns = now_ns


@define(eq=False)
class Workers:
    """Those that are up, in the order they came, and the estimates of what they host."""

    _workers: dict[WorkerRef, Worker] = field(factory=dict[WorkerRef, Worker], init=False)
    _slots: dict[ModelRef, set[str]] = field(factory=dict[ModelRef, "set[str]"], init=False)
    _estimates: dict[ModelRef, Estimate] = field(factory=dict[ModelRef, Estimate], init=False)
    _groups: dict[ModelRef, int] = field(factory=dict[ModelRef, int], init=False)
    _throttlings: dict[str, Throttling] = field(factory=dict[str, Throttling], init=False)
    _is_throttled: bool = field(default=False, init=False)  # any of them

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def find(self, ref: WorkerRef) -> Worker | None:
        """Return a worker that is up."""
        return self._workers.get(ref)

    def ready(self, event: WorkerReady) -> None:
        """Take in a worker that came up."""
        slot = event.worker.slot
        throttling = self._throttlings.setdefault(slot, Throttling())
        worker = Worker(event.worker, dict(event.max_batch), throttling, urgent=event.urgent)
        if event.memory is not None:
            worker.loads = Loads.of(event.memory)
        self._workers[event.worker] = worker
        for model, times_ns in event.times_ns.items():
            self._slots.setdefault(model, set()).add(slot)
            known = self._estimates.get(model)
            if known is None or known.largest < event.max_batch[model]:
                usual_ns = throttling.at_usual_clocks(times_ns)
                self._estimates[model] = Estimate.from_times(usual_ns, event.max_batch[model])
        self._join(event.times_ns)

    def clocks_read(self, event: ClocksRead) -> None:
        """Take in how far the clocks of a worker's device are held down, if at all."""
        throttling = self._throttlings.setdefault(event.slot, Throttling())
        hosted = {
            model: self._estimates[model]
            for worker in self
            if worker.ref.slot == event.slot
            for model in worker.models
        }
        throttling.read(event.slowdown, hosted)
        self._is_throttled = any(each.is_on for each in self._throttlings.values())

    def _join(self, models: Collection[ModelRef]) -> None:
        """Put models into one group, with all that were in a group with one of them."""
        joined = {self._groups[model] for model in models if model in self._groups}
        group = min(joined, default=len(self._groups) + 1)
        for model, other in self._groups.items():
            if other in joined:
                self._groups[model] = group
        for model in models:
            self._groups[model] = group

    def group_of(self, model: ModelRef) -> int:
        """Return the group of models that share workers which `model` is in; 0: no worker had it.

        Groups only grow. What a session was given when it first asked stays.
        """
        return self._groups.get(model, 0)

    def retire(self, worker: Worker) -> None:
        """Let a worker host only what no other one does that is not retired."""
        worker.retired = True
        others = [other for other in self if not other.retired]
        worker.models = {
            model: largest
            for model, largest in worker.models.items()
            if not any(model in other.models for other in others)
        }

    def lost(self, ref: WorkerRef) -> Worker | None:
        """Forget a worker; return what it was doing."""
        return self._workers.pop(ref, None)

    def observe(self, worker: Worker, batch: Batch, event: BatchDone) -> None:
        """Learn how long a batch took."""
        model, size, busy_ns = batch.lane.model, len(batch.requests), event.busy_ns
        estimate = self._estimates[model]
        if event.load_ns:
            return  # the first run of a model that was loaded says little of those that follow
        if worker.throttling.is_on:
            usual_ns = estimate.likely_ns(size) + (estimate.switch_ns if batch.switched else 0)
            worker.throttling.observe(model, busy_ns / usual_ns)
        else:
            estimate.observe(size, busy_ns, switched=batch.switched)

    def estimate_of(self, model: ModelRef) -> Estimate | None:
        """Return the estimate of a model, if it was loaded."""
        return self._estimates.get(model)

    def estimate(self, model: ModelRef) -> Estimate:
        """Return the estimate of a model that was loaded."""
        return self._estimates[model]

    def planned_ns(self, model: ModelRef, batch_size: int) -> int:
        """Return the time to plan a batch with, on the worker that takes least.

        0 for a model that was never loaded.
        """
        estimate = self._estimates.get(model)
        if estimate is None:
            return 0
        if not self._is_throttled:
            return estimate.of(batch_size)
        paces = [each.throttling.pace(model) for each in self if model in each.models]
        return int(estimate.of(batch_size) * min(paces, default=1.0))

    def least_load_ns(self, model: ModelRef) -> int:
        """Return what to plan for loading a model where that takes least."""
        return min((w.load_ns(model) for w in self if model in w.models), default=0)

    def earliest_finish_ns(self, model: ModelRef, now_ns: int, *, beside: bool) -> int:
        """Return when an answer of `model` could be there, if it went before all that waits.

        That is if what runs takes no longer than it might.

        Args:
            beside: It may be started beside what a worker executes, as tier 0 may.
        """
        estimate = self._estimates.get(model)
        takes_ns = estimate.of(1) if estimate else 0
        finishes_ns = [
            worker.delay_ns
            + (
                max(now_ns, worker.soonest_ns) + _committed_ns(worker, SOONEST)
                if worker.executing and not (beside and worker.takes_beside(model))
                else now_ns
            )
            + int(takes_ns * worker.throttling.pace(model))
            + worker.load_ns(model)
            for worker in self._workers.values()
            if model in worker.models
        ]
        return min(finishes_ns, default=now_ns + takes_ns)

    def others_free_ns(self, model: ModelRef, worker: Worker, now_ns: int) -> int:
        """Return when another worker can run `model`; `FOREVER_NS`: there is none that hosts it."""
        free_ns = FOREVER_NS
        if len(self._workers) == 1:
            return free_ns
        for other in self._workers.values():
            if other is not worker and model in other.models:
                other_ns = max(now_ns, other.free_ns) if other.executing else now_ns
                other_ns += _committed_ns(other, 1.0) + other.load_ns(model)
                free_ns = min(free_ns, other_ns)
        return free_ns

    def having(self, model: ModelRef, worker: Worker) -> list[Worker]:
        """Return the other workers that have a model in memory."""
        return [
            other
            for other in self
            if other is not worker and model in other.models and not other.load_ns(model)
        ]

    def hosting(self, model: ModelRef) -> int:
        """Return how many workers host a model now."""
        return sum(model in worker.models for worker in self)

    def slots(self, model: ModelRef) -> int:
        """Return how many slots have hosted a model, up or not."""
        return len(self._slots.get(model, ()))


def _committed_ns(worker: Worker, part: float) -> int:
    """Return part of the time of what a worker runs next, if that is settled."""
    return int(part * worker.committed.expected_ns) if worker.committed else 0
