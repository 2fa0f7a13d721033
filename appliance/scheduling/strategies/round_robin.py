"""One after the other: who was served least recently is next, whatever its deadline or tier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import define

from appliance.scheduling.choice import Choice, Contender, Decided
from appliance.scheduling.events import Request
from appliance.scheduling.strategies.batches import background_of, batch_of, ordinary
from appliance.scheduling.strategies.registry import register_scheduler


@register_scheduler("round_robin")
@define(eq=False)
class RoundRobin:
    """See the module's docstring.

    A client's connection has one turn in a round, however much of it waits. With the one whose turn
    it is ride those of its lane among the next ones, as many as its batch holds.
    """

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        waiting = [
            (_last_turn_ns(request), request.id, one, request)
            for one in contenders
            for request in ordinary(one, start_ns)
        ]
        if not waiting:
            alone = background_of(contenders, start_ns)
            return None if alone is None else Choice(alone[0].lane, [alone[1]])
        waiting.sort(key=lambda each: each[:2])
        turns: Counter[str] = Counter()
        order: list[tuple[int, Contender, Request]] = []
        for _, _, one, request in waiting:
            order.append((turns[request.client], one, request))
            turns[request.client] += 1
        order.sort(key=lambda each: each[0])  # stable: within a round by the last turn
        lead = order[0][1]
        near = [request for _, one, request in order[: lead.most] if one is lead]
        return Choice(lead.lane, batch_of(lead, near, start_ns))


def _last_turn_ns(request: Request) -> int:
    """Return when its client had a turn; a new one waits since it came."""
    assert request.mailbox is not None, "it does not wait"
    client = request.mailbox.client
    return max(client.served_ns, client.came_ns)
