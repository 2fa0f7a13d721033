"""Full batches: a lane waits until it has enough for one, or somebody in it waited long enough."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from attrs import define, field
from attrs.validators import ge, le

from appliance.scheduling.choice import FOREVER_NS, Choice, Contender, Decided, Wait
from appliance.scheduling.events import Request
from appliance.scheduling.strategies.batches import background_of, batch_of, ordinary
from appliance.scheduling.strategies.registry import register_scheduler

MARGIN_NS = 1_000_000
"""So long before the last chance of somebody to be in time nothing is waited for any more."""

LONGEST_WAIT_MS = 500
"""Half of what `guard` allows."""


@register_scheduler("batch_optimized")
@define(eq=False)
class BatchOptimized:
    """See the module's docstring.

    Nobody is waited for where it would cost somebody who waits his deadline, or a robot that has
    run dry its turn. Of the lanes that may run, the one that may have for longest goes first.

    Attributes:
        max_batch_size: Enough for a batch, where the model takes as many.
        batch_wait_ms: How long somebody waits for others.
    """

    max_batch_size: int = field(default=8, validator=ge(1))
    batch_wait_ms: float = field(default=10.0, validator=[ge(0), le(LONGEST_WAIT_MS)])

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        ready_ns, best = FOREVER_NS, None
        for one in contenders:
            at_ns = self._ready_ns(one, start_ns)
            if at_ns < ready_ns:
                ready_ns, best = at_ns, one
        if best is None:
            alone = background_of(contenders, start_ns)
            if alone is None:
                return None
            best = alone[0]
        elif ready_ns > start_ns:
            return Wait(ready_ns)
        riders = chain(ordinary(best, start_ns), best.line.background)
        return Choice(best.lane, batch_of(best, riders, start_ns, self.max_batch_size))

    def _ready_ns(self, one: Contender, start_ns: int) -> int:
        """Return from when on a lane may run; `FOREVER_NS`: nobody in it could."""
        waiting = list(ordinary(one, start_ns))
        if not waiting:
            return FOREVER_NS
        since_ns = min(map(_waits_since_ns, waiting))
        enough = min(self.max_batch_size, one.most)
        if len(waiting) >= enough or one.line.first.requests:
            return since_ns
        begins_ns = start_ns + one.switch_ns
        needs_ns = one.switch_ns + one.times_ns[len(waiting)] + MARGIN_NS
        last_chances_ns = (
            due_ns - needs_ns
            for due_ns in one.line.timely.times_ns
            if due_ns >= begins_ns + one.times_ns[1]
        )
        return min([since_ns + int(self.batch_wait_ms * 1e6), *last_chances_ns])


def _waits_since_ns(request: Request) -> int:
    """Return since when its client waits: a newer observation inherits that with the deadline."""
    return request.arrived_ns - max(0, request.deadline_ns - request.rank_ns)
