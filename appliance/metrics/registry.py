"""Where the hot path records: histograms per (stage, model), and counters with causes.

One owner, the app. A request is recorded through the `ModelRecorder` of its model, looked up
once. Memory is bounded: only `add_model` makes a recorder, and every name that was not added is
recorded under "", so no client can grow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, field, fields, frozen

from appliance.metrics.histogram import Histogram, Summary, merged
from appliance.metrics.status import Latencies, ModelSnapshot, Snapshot, Stage

STAGES: tuple[Stage, ...] = (
    "age",
    "queue",
    "batch",
    "execute",
    "reply",
    "total",
    "slack",
    "lateness",
)
COUNTERS = {
    "dispatch_retries": "Rows that were queued again, by cause.",
    "model_loads": "Models loaded again for a batch, by model.",
    "model_evictions": "Models that left a worker's memory for another one, by model.",
    "worker_restarts": "Worker processes that ended, by cause.",
    "strategy_faults": "Times the default took over from a scheduling strategy, by cause.",
    "slow_steps": "Task steps that held the event loop for too long, by task.",
}
"""The counters there are, with what they count. Outcomes and lost replies are the ledger's."""

MAX_CAUSES = 64
"""Causes told apart per counter; later ones are counted as `other`."""

MAX_AGE_NS = 250_000_000
"""How long a reading serves before the percentiles are computed again."""

_MAX_ROWS = 65_535
_MAX_PAYLOAD_BYTES = (1 << 30) - 1


@define(eq=False)
class ModelRecorder:
    """The histograms of one model; the eight stages in microseconds.

    Attributes:
        age: Capture to arrival of an observation, as its client says.
        queue: Admitted to handed to a worker.
        batch: Gathering and preprocessing in the worker.
        execute: The engine.
        reply: The engine's end to the answer handed to the socket.
        total: Received to answered.
        slack: Time left to the deadline, of answers in time.
        lateness: Time past the deadline, of late answers.
        batch_size: Rows of executed batches.
        payload_bytes: Bytes of an observation's tensors.
    """

    name: str
    age: Histogram = field(factory=Histogram, init=False)
    queue: Histogram = field(factory=Histogram, init=False)
    batch: Histogram = field(factory=Histogram, init=False)
    execute: Histogram = field(factory=Histogram, init=False)
    reply: Histogram = field(factory=Histogram, init=False)
    total: Histogram = field(factory=Histogram, init=False)
    slack: Histogram = field(factory=Histogram, init=False)
    lateness: Histogram = field(factory=Histogram, init=False)
    batch_size: Histogram = field(factory=lambda: Histogram(_MAX_ROWS), init=False)
    payload_bytes: Histogram = field(factory=lambda: Histogram(_MAX_PAYLOAD_BYTES), init=False)

    def record(
        self,
        *,
        queue_us: int,
        batch_us: int,
        execute_us: int,
        reply_us: int,
        total_us: int,
        slack_us: int,
        age_us: int | None = None,
    ) -> None:
        """Record one answered request. Negative slack is lateness; None: the age is not known."""
        self.queue.record(queue_us)
        self.batch.record(batch_us)
        self.execute.record(execute_us)
        self.reply.record(reply_us)
        self.total.record(total_us)
        if slack_us >= 0:
            self.slack.record(slack_us)
        else:
            self.lateness.record(-slack_us)
        if age_us is not None:
            self.age.record(age_us)

    def record_batch(self, rows: int) -> None:
        """Record one executed batch."""
        self.batch_size.record(rows)

    def record_payload(self, length: int) -> None:
        """Record one observation's bytes, as it arrives."""
        self.payload_bytes.record(length)

    def histograms(self) -> tuple[Histogram, ...]:
        """Return all of them."""
        return tuple(getattr(self, each.name) for each in fields(ModelRecorder)[1:])

    def read(self) -> ModelReading:
        """Return what was recorded so far."""
        return ModelReading(
            stages={stage: getattr(self, stage).read() for stage in STAGES},
            batch_size=self.batch_size.read(),
            payload_bytes=self.payload_bytes.read(),
        )


@frozen
class ModelReading:
    """The histograms of one model, read."""

    stages: Mapping[Stage, Summary]
    batch_size: Summary
    payload_bytes: Summary


@frozen
class Reading:
    """Everything recorded, read at one moment. `stages` is over all models."""

    taken_ns: int
    stages: Mapping[Stage, Summary]
    models: Mapping[str, ModelReading]
    timer_lateness: Summary
    counters: Mapping[str, Mapping[str, int]]
    clamped: int


@define(eq=False)
class Metrics:
    """The registry. `timer_lateness` takes how late the dispatcher's timer fired, microseconds."""

    timer_lateness: Histogram = field(factory=Histogram, init=False)
    _recorders: dict[str, ModelRecorder] = field(init=False)
    _counters: dict[str, dict[str, int]] = field(init=False)
    _reading: Reading | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._recorders = {"": ModelRecorder("")}
        self._counters = {name: {} for name in COUNTERS}

    def add_model(self, name: str) -> ModelRecorder:
        """Return the recorder of a model that is served from now on; made once, kept for good."""
        self._reading = None  # it lacks this one
        return self._recorders.setdefault(name, ModelRecorder(name))

    def recorder(self, model: str) -> ModelRecorder:
        """Return the recorder of `model`, or that of "" if no such model was added."""
        return self._recorders.get(model) or self._recorders[""]

    def count(self, counter: str, cause: str, amount: int = 1) -> None:
        """Add to one of `COUNTERS`.

        Raises:
            KeyError: There is no such counter.
        """
        causes = self._counters[counter]
        if cause not in causes and len(causes) >= MAX_CAUSES:
            cause = "other"
        causes[cause] = causes.get(cause, 0) + amount

    def read(self, now_ns: int) -> Reading:
        """Return everything recorded, at most `MAX_AGE_NS` old."""
        reading = self._reading
        if reading is None or now_ns - reading.taken_ns >= MAX_AGE_NS:
            reading = self._reading = self._read(now_ns)
        return reading

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return `read(now_ns)` as the parts of the status document."""
        reading = self.read(now_ns)
        return Snapshot(
            latency_us=_latencies(reading.stages),
            models={
                name: ModelSnapshot(
                    latency_us=_latencies(model.stages),
                    rows=model.batch_size.total,
                    batch_size_mean=round(
                        model.batch_size.total / max(1, model.batch_size.count), 2
                    ),
                )
                for name, model in reading.models.items()
            },
            timer_lateness_us=reading.timer_lateness.document(),
            counters={name: dict(causes) for name, causes in reading.counters.items()},
            clamped=reading.clamped,
        )

    def _read(self, now_ns: int) -> Reading:
        recorders = self._recorders.values()
        return Reading(
            taken_ns=now_ns,
            stages={stage: merged(getattr(each, stage) for each in recorders) for stage in STAGES},
            models={each.name: each.read() for each in recorders},
            timer_lateness=self.timer_lateness.read(),
            counters={name: dict(causes) for name, causes in self._counters.items()},
            clamped=_clamped(recorders) + self.timer_lateness.clamped,
        )


def _latencies(stages: Mapping[Stage, Summary]) -> Latencies:
    return {stage: summary.document() for stage, summary in stages.items()}


def _clamped(recorders: Iterable[ModelRecorder]) -> int:
    return sum(each.clamped for recorder in recorders for each in recorder.histograms())
