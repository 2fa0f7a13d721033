"""A user's policy: a function that scores each waiting request; a higher score runs first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from numbers import Real
from typing import NamedTuple

from attrs import define

from appliance.errors import StrategyError
from appliance.scheduling.choice import Choice, Contender, Decided
from appliance.scheduling.events import Request
from appliance.scheduling.line import Line
from appliance.scheduling.strategies.batches import batch_of, can_run
from appliance.scheduling.streams import Streams

MOST_SCORED = 256
"""Requests scored in one decision; of each lane the first by deadline."""

MILLISECOND_NS = 1_000_000


class Said(NamedTuple):
    """What a client says of an observation, beside what the scheduler goes by.

    Attributes:
        urgency: 0 to 1.
        steps_remaining: Actions it has left; None: it does not say.
    """

    urgency: float = 0.0
    steps_remaining: int | None = None


class PolicyRequest(NamedTuple):
    """What a policy sees of a waiting request. Times are as they will be when it would start.

    Attributes:
        client_id: Whose it is.
        model_id: The model it asks.
        tier: From the configuration; 0 is most important.
        priority: Rank within the tier, lower first.
        urgency: 0 to 1, as its client says; 0: it says none.
        steps_remaining: Actions its robot has left; None: it does not say.
        dry: Its robot has run out of actions.
        firm: It is refused rather than late.
        age_ms: Since it arrived.
        time_to_deadline_ms: Negative: it is late.
        time_until_next_ms: Until its client is expected to observe for this model again; negative:
            that is overdue; None: its rhythm is not known yet.
    """

    client_id: str
    model_id: str
    tier: int
    priority: int
    urgency: float
    steps_remaining: int | None
    dry: bool
    firm: bool
    age_ms: float
    time_to_deadline_ms: float
    time_until_next_ms: float | None


Policy = Callable[[PolicyRequest], float]


PARTS: Sequence[Callable[[Line], Iterable[Request]]] = (
    lambda line: chain(line.first, line.timely),
    lambda line: line.yielding,
    lambda line: line.background,
)
"""Of a line, the best first: each is looked at only if nobody of those before it could run."""


@define(eq=False)
class Scored:
    """See the module's docstring.

    Scored at each decision: what waits and could run. The best leads, others of its lane ride with
    it in the order of their scores. Who has run dry and yields, and who exceeds what its client
    said it would send, is scored only if nobody else waits, and else rides where there is room.

    Args:
        policy: Scores a request.
        streams: The rhythm of each client.
        said: What the client of a request says beside.
    """

    policy: Policy
    streams: Streams
    said: Callable[[Request], Said]

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        share = max(1, MOST_SCORED // len(contenders))
        scored: list[tuple[float, int, Contender, Request]] = []
        spare = list(PARTS)
        while spare and not scored:
            part = spare.pop(0)
            for one in contenders:
                for request in islice(part(one.line), share):
                    if can_run(request, one, start_ns):
                        score = self._score(request, start_ns)
                        scored.append((-score, request.id, one, request))
        if not scored:
            return None
        scored.sort(key=lambda each: each[:2])
        lead = scored[0][2]
        ranked = [request for _, _, one, request in scored if one is lead]
        riders = chain(ranked, *(part(lead.line) for part in spare))
        return Choice(lead.lane, batch_of(lead, riders, start_ns))

    def _score(self, request: Request, start_ns: int) -> float:
        score = self.policy(self._view(request, start_ns))
        if not isinstance(score, Real) or score != score:  # noqa: PLR0124  NaN
            raise StrategyError(
                "not_a_number",
                f"its score of a request of client {request.client!r} was {score!r}; "
                "expected a number",
            )
        return float(score)

    def _view(self, request: Request, start_ns: int) -> PolicyRequest:
        stream = self.streams.find(request)
        cadence = stream.cadence if stream is not None else None
        next_ns = cadence.next_ns - start_ns if cadence is not None and cadence.period_ns else None
        urgency, steps_remaining = self.said(request)
        return PolicyRequest(
            request.client,
            request.lane.model.name,
            request.tier,
            request.priority,
            urgency,
            steps_remaining,
            request.dry,
            request.firm,
            (start_ns - request.arrived_ns) / MILLISECOND_NS,
            (request.deadline_ns - start_ns) / MILLISECOND_NS,
            None if next_ns is None else next_ns / MILLISECOND_NS,
        )
