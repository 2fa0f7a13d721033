"""How long a batch takes on a worker, and when what is staged there is committed.

*Planned* is what it seldom takes longer than: whether somebody can be in time is judged by that.
*Likely* is what it about takes: what is committed is, as a worker that waits to be told loses time.
"""

from __future__ import annotations

from attrs import define

from appliance.scheduling.events import Batch, Lane
from appliance.scheduling.workers import Worker, Workers

MOST_LEAD_NS = 1_000_000
"""A batch is committed before its worker will likely be done: by as much as it takes to hear of
that and to tell it to start. By no more than this, because what comes later cannot be in it."""

SURELY = 0.95
"""A batch hardly ever takes less than this part of the time that it will about take."""


@define(eq=False)
class BatchTimes:
    """See the module's docstring.

    Attributes:
        workers: The times of their models.
    """

    workers: Workers

    def latest_start_ns(self, worker: Worker, batch: Batch) -> int | None:
        """Return from when on a firm one of a batch would surely be late; None: it has none.

        Skipping costs all others in it, and who is next, a round trip to the worker.
        """
        due_ns = min((each.deadline_ns for each in batch.requests if each.firm), default=None)
        if due_ns is None:
            return None
        likely_ns = self.likely_ns(worker, batch.lane, len(batch.requests))
        return due_ns - int(SURELY * likely_ns)

    def planned_ns(self, worker: Worker, lane: Lane, size: int) -> int:
        """Return the time to plan a batch on a worker with."""
        usual_ns = self.workers.estimate(lane.model).of(size) + self._switch_ns(worker, lane)
        return int(usual_ns * worker.throttling.pace(lane.model)) + worker.load_ns(lane.model)

    def likely_ns(self, worker: Worker, lane: Lane, size: int) -> int:
        """Return the time that a batch on a worker will about take."""
        likely_ns = self.workers.estimate(lane.model).likely_ns(size)
        usual_ns = likely_ns + self._switch_ns(worker, lane)
        load_ns = 0 if worker.loads is None else worker.loads.likely_ns(lane.model)
        return int(usual_ns * worker.throttling.pace(lane.model)) + load_ns

    def _switch_ns(self, worker: Worker, lane: Lane) -> int:
        if worker.last in (None, lane.model):
            return 0
        return self.workers.estimate(lane.model).switch_ns


def commit_ns(worker: Worker) -> int:
    """Return when to commit what is staged; never if nothing is lost by waiting."""
    round_trip_ns = min(MOST_LEAD_NS, worker.reporting.careful_ns + worker.starting.careful_ns)
    return worker.likely_ns - round_trip_ns if round_trip_ns else worker.free_ns
