"""Strict tiers: nobody runs before anybody of a better tier; within a tier, by deadline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from attrs import define, field
from attrs.validators import ge

from appliance.scheduling.choice import Choice, Contender, Decided
from appliance.scheduling.events import Rank, Request
from appliance.scheduling.strategies.batches import background_of, batch_of, ordinary
from appliance.scheduling.strategies.registry import register_scheduler

MOST_TIERS = 10
"""The configuration knows 0 to 9."""


@register_scheduler("priority_tiered")
@define(eq=False)
class PriorityTiered:
    """See the module's docstring.

    A batch begins with the best of all. Others of its lane ride with it, of a worse tier only while
    nobody of a better one than theirs waits for another lane. Within a tier a robot that has run
    dry goes first if it is its turn, and last if not.

    Attributes:
        num_tiers: Tiers told apart; those from the last one on count as one.
    """

    num_tiers: int = field(default=MOST_TIERS, validator=ge(1))

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        bests = [
            (min(map(self._rank, waiting)), one, waiting)
            for one in contenders
            if (waiting := list(ordinary(one, start_ns)))
        ]
        if not bests:
            alone = background_of(contenders, start_ns)
            return None if alone is None else Choice(alone[0].lane, [alone[1]])
        _, one, waiting = min(bests, key=lambda best: best[0])
        others = min((rank[0] for rank, other, _ in bests if other is not one), default=None)
        riders = [request for request in waiting if others is None or self._tier(request) <= others]
        riders.sort(key=self._rank)
        spare = one.line.background if others is None else ()
        return Choice(one.lane, batch_of(one, chain(riders, spare), start_ns))

    def _tier(self, request: Request) -> int:
        return min(request.tier, self.num_tiers - 1)

    def _rank(self, request: Request) -> tuple[int, int, Rank]:
        part = 1 if not request.dry else 2 if request.yields else 0
        return self._tier(request), part, request.rank
