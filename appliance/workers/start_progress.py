"""Whether the workers of a start get on. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from appliance.workers.slot import WorkerStatistics


@define(eq=False)
class StartProgress:
    """What workers have loaded so far, and since when they have come no further.

    Attributes:
        patience_ns: They count as getting on for this long after their last step.
    """

    patience_ns: int
    _seen: object = field(default=None, init=False)
    _since_ns: int = field(default=0, init=False)

    def gets_on(self, workers: Sequence[WorkerStatistics], now_ns: int) -> bool:
        """Look at them; return whether any has got on, now or not long ago."""
        seen = [(worker.state, worker.progress, worker.step) for worker in workers]
        if seen != self._seen:
            self._seen, self._since_ns = seen, now_ns
        return now_ns - self._since_ns <= self.patience_ns
