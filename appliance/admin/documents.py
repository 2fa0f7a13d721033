"""The documents operators read, put together from what each room says of itself.

Nothing here is on the path of a request; a document is made when somebody asks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field

import appliance
from appliance.admission.catalog import Catalog, Served
from appliance.dispatch.dispatcher import Dispatcher
from appliance.dispatch.fleet import Fleet
from appliance.metrics.ledger import Ledger
from appliance.metrics.rate import RateMeter
from appliance.metrics.registry import Metrics
from appliance.metrics.status import (
    Arena,
    Client,
    Clients,
    Device,
    Model,
    Requests,
    Snapshot,
    State,
    Status,
    Worker,
)
from appliance.workers.arena import FAILED, FINISHED, STARTED
from appliance.workers.pool import WorkerPool
from appliance.workers.slot import WorkerStatistics

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@define(eq=False, kw_only=True)
class Documents:
    """Makes the admin documents.

    Args:
        lifecycle: What the appliance as a whole is doing.
        config_error: Why the configuration on disk does not hold.
        pending: What has changed in the model repository and is not served.
        connections_refused: How many did not come to be, by cause.
        devices: The GPUs that workers compute on.
        problems: What else is wrong, with keys or recordings, in words.
        clients: The sessions; how many are connected and remembered, how many have left.
        clock: Monotonic nanoseconds.
    """

    appliance_id: str
    instance: int
    lifecycle: Callable[[], State]
    binds: Callable[[], list[str]]
    config_error: Callable[[], str]
    pending: Callable[[], list[str]]
    clients: Callable[[], list[Client]]
    client_counts: Callable[[], Clients]
    connections_refused: Callable[[], dict[str, int]]
    problems: Callable[[], list[str]]
    devices: Callable[[], list[Device]]
    clock: Callable[[], int]
    metrics: Metrics
    ledger: Ledger
    catalog: Catalog
    fleet: Fleet
    dispatcher: Dispatcher
    pool: WorkerPool
    _started_ns: int = field(init=False)
    _rate: RateMeter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started_ns = self.clock()
        self._rate = RateMeter(self._started_ns)

    def status(self) -> Status:
        """Return `GET /v1/status`."""
        now_ns = self.clock()
        snapshot = self.metrics.snapshot(now_ns)
        workers = self.pool.statistics()
        reasons = self._reasons(workers)
        count = self.ledger.overall
        statistics = self.dispatcher.scheduler.statistics()
        return Status(
            state=self._state(reasons),
            reasons=reasons,
            appliance_id=self.appliance_id,
            version=appliance.__version__,
            instance=f"{self.instance:016x}",
            pid=os.getpid(),
            uptime_s=round((now_ns - self._started_ns) / 1e9, 1),
            binds=self.binds(),
            config_error=self.config_error(),
            pending=self.pending(),
            requests=Requests(
                asked=count.asked,
                answered=count.answered,
                in_flight=count.in_flight,
                queued=statistics.queued,
                per_second=round(self._rate.read(now_ns, count.asked), 1),
                late=count.late,
            ),
            outcomes=count.outcomes(),
            replies_lost=dict(self.ledger.replies_lost),
            latency_us=snapshot["latency_us"],
            models=self._models(snapshot),
            workers=[self._worker(worker) for worker in workers],
            devices=self.devices(),
            clients=self.client_counts(),
            connections_refused=self.connections_refused(),
            arena=self._arena(),
            timer_lateness_us=snapshot["timer_lateness_us"],
            ledger=self.ledger.document(self.fleet.rows_finished(), self.fleet.rows_abandoned()),
        )

    def _state(self, reasons: Sequence[str]) -> State:
        state = self.lifecycle()
        return "degraded" if state == "ready" and reasons else state

    def _reasons(self, workers: Sequence[WorkerStatistics]) -> list[str]:
        """Say in words what is not as it should be."""
        reasons: list[str] = []
        for worker in workers:
            if worker.state != "ready":
                why = f": {worker.last_cause}" if worker.last_cause else ""
                reasons.append(f"worker {worker.slot} is {worker.state}{why}")
        reasons.extend(
            f"model {served.name} failed: {served.error}"
            for served in self.catalog.models.values()
            if served.error
        )
        reasons.extend(self.problems())
        return reasons

    def _models(self, snapshot: Snapshot) -> list[Model]:
        queued = self.dispatcher.scheduler.statistics().queued_by_model
        by_name = Counter[str]()
        for ref, count in queued.items():
            by_name[ref.name] += count
        return [
            self._model(served, snapshot, by_name[served.name])
            for served in self.catalog.models.values()
        ]

    def _model(self, served: Served, snapshot: Snapshot, queued: int) -> Model:
        recorded, counters = snapshot["models"][served.name], snapshot["counters"]
        resident, memory_bytes = self.fleet.model_memory(served.name, served.version)
        return Model(
            name=served.name,
            version=served.version,
            state=served.state,
            error=served.error or None,
            workers=sorted({slot for slot, _ in served.workers}),
            resident=resident,
            memory_bytes=memory_bytes,
            loads=counters["model_loads"].get(served.name, 0),
            evictions=counters["model_evictions"].get(served.name, 0),
            queued=queued,
            rows=recorded["rows"],
            batch_size_mean=recorded["batch_size_mean"],
            latency_us=recorded["latency_us"],
            outcomes=self.ledger.model(served.name).outcomes(),
        )

    def _worker(self, worker: WorkerStatistics) -> Worker:
        rows = self.fleet.rows(worker.slot)
        memory = self.fleet.worker_memory(worker.slot, worker.generation)
        return Worker(
            slot=worker.slot,
            device=worker.device,
            generation=worker.generation,
            state=worker.state,
            pid=worker.pid,
            models=list(worker.models),
            restarts=worker.restarts,
            last_cause=worker.last_cause or None,
            rows_started=int(rows[STARTED]),
            rows_finished=int(rows[FINISHED]),
            rows_failed=int(rows[FAILED]),
            busy=worker.busy_since_ns is not None,
            resident=[model.name for model in memory.resident],
            resident_bytes=sum(memory.memory_bytes.get(model, 0) for model in memory.resident),
            budget_bytes=memory.budget_bytes,
            remarks=self.fleet.remarks(worker.slot, worker.generation),
            rss_bytes=0 if worker.pid is None else _rss_bytes(worker.pid),
        )

    def _arena(self) -> Arena:
        statistics = self.fleet.memory.arena.allocator.statistics()
        return Arena(bytes=statistics.total, used=statistics.used, peak=statistics.peak)


def _rss_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0
