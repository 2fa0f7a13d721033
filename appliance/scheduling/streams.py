"""What is known of each client's observations for each model: rhythm, allowance, phase.

A *stream* is the observations of one client for one model, whatever connections they come by.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from attrs import define, field

from appliance.scheduling.cadence import Cadence
from appliance.scheduling.events import ModelRef, Request

EXCESS = 1.25
"""A stream may be so much faster than it says."""

DEPTH = 3.0
"""Observations that may come at once."""

SPEED_UP_S = 5.0
"""A stream that does not say its rate may grow faster by a factor e in this time."""

MOST_STREAMS = 16_384
SWEPT = 2
"""Streams looked at with each new one, whether they are lost."""

LEAD_GAIN = 0.2
OBEDIENCE_GAIN = 0.05
LOSING_GAIN = 0.1
LATELY = 0.8
GOLDEN = 0.618034
"""Spreads where streams begin to be shed, so that they are not shed all at once."""


@define(eq=False)
class Stream:
    """See the module's docstring.

    Attributes:
        number: Unique, growing: it breaks ties.
        cadence: Its rhythm.
        lead_ns: From an arrival to its deadline, as it was lately.
        predicted_ns: Where it stands in its model's `Forecast`; None: it does not.
        credit: What of it may pass while some are shed, 0 to 1 (see `shedding`).
        losing: Share of its firm requests that did not make their deadline, lately.
        wait_ns: How long its latest one waited, from arrival to start; -1: none did.
        advised_ns: By how much it was advised to be later, in all.
        obedience: How far it follows advice, 0 to 1: `followed` over `advised_square`.
        last_advice_ns: Since its latest arrival.
        moved_ns, asked_ns: How far it moved lately, and was to move.
        followed, advised_square: Moving averages of both, times `asked_ns`.
    """

    number: int
    model: ModelRef
    cadence: Cadence
    credit: float
    lead_ns: int = 0
    predicted_ns: int | None = field(default=None, init=False)
    losing: float = field(default=0.0, init=False)
    wait_ns: int = field(default=-1, init=False)
    advised_ns: int = field(default=0, init=False)
    obedience: float = field(default=0.0, init=False)
    last_advice_ns: int = field(default=0, init=False)
    moved_ns: float = field(default=0.0, init=False)
    asked_ns: float = field(default=0.0, init=False)
    followed: float = field(default=0.0, init=False)
    advised_square: float = field(default=0.0, init=False)
    _tokens: float = field(default=DEPTH, init=False)
    _allowed_ns: int = field(default=0, init=False)
    _counted_ns: int = field(default=0, init=False)

    def may_come(self, request: Request, now_ns: int) -> bool:
        """Take a token for a request, if it is not more than this stream said it would send."""
        elapsed_ns = now_ns - self._counted_ns if self._counted_ns else 0
        self._counted_ns = now_ns
        period_ns = request.period_ns or self._learnt_ns(elapsed_ns)
        if not period_ns:
            return True
        self._tokens = min(DEPTH, self._tokens + elapsed_ns * EXCESS / period_ns)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def made_it(self) -> None:
        """Note that a firm request was answered in time."""
        self.losing -= LOSING_GAIN * self.losing

    def missed(self) -> None:
        """Note that a firm request did not make its deadline."""
        self.losing += LOSING_GAIN * (1 - self.losing)

    def _learnt_ns(self, elapsed_ns: int) -> int:
        """Return the period it is held to that says none: a flood is not a rate."""
        cadence, allowed_ns = self.cadence, self._allowed_ns
        if not cadence.is_confident:
            return allowed_ns
        if not allowed_ns or cadence.period_ns > allowed_ns:
            self._allowed_ns = cadence.period_ns
        else:
            shrunk_ns = int(allowed_ns * (1 - min(0.5, elapsed_ns / (SPEED_UP_S * 1e9))))
            self._allowed_ns = max(cadence.period_ns, shrunk_ns)
        return self._allowed_ns


class Expected(NamedTuple):
    """One arrival that is expected. No two are equal up to `number`.

    Attributes:
        due_ns: Its deadline, as it was lately, and a little earlier.
        obedience: That of its stream.
    """

    at_ns: int
    number: int
    due_ns: int
    obedience: float
    stream: Stream


@define(eq=False)
class Forecast:
    """The next arrivals of one model's tier 0, in order of time.

    Attributes:
        obedience: The sum of theirs.
    """

    arrivals: list[Expected] = field(factory=list[Expected], init=False)
    obedience: float = field(default=0.0, init=False)

    def move(self, stream: Stream, to_ns: int | None) -> None:
        """Let a stream stand at `to_ns`, or nowhere."""
        if stream.predicted_ns is not None:
            index = bisect_left(self.arrivals, (stream.predicted_ns, stream.number))
            self.obedience -= self.arrivals.pop(index).obedience
        stream.predicted_ns = to_ns
        if to_ns is not None:
            due_ns = to_ns + stream.lead_ns - stream.cadence.jitter_ns
            obedience = stream.obedience
            insort(self.arrivals, Expected(to_ns, stream.number, due_ns, obedience, stream))
            self.obedience += obedience

    def forget_missing(self, now_ns: int) -> None:
        """Drop those that come too late to be answered in time, if they come."""
        while self.arrivals:
            first = self.arrivals[0]
            if first.at_ns + first.stream.lead_ns > now_ns:
                return
            self.move(first.stream, None)


@define(eq=False)
class Streams:
    """All of them, least recently heard of first; those that are lost are forgotten.

    Attributes:
        forecasts: By model, where tier 0 is expected.
    """

    forecasts: dict[ModelRef, Forecast] = field(factory=dict[ModelRef, Forecast], init=False)
    _streams: dict[tuple[str, ModelRef], Stream] = field(
        factory=dict[tuple[str, ModelRef], Stream], init=False
    )
    _number: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._streams)

    def find(self, request: Request) -> Stream | None:
        """Return the stream of a request, if it is still known."""
        return self._streams.get((request.client, request.lane.model))

    def arrived(self, request: Request, now_ns: int) -> Stream:
        """Take in an arrival."""
        key = (request.client, request.lane.model)
        stream = self._streams.pop(key, None) or self._new(request, now_ns)
        self._streams[key] = stream
        cadence = stream.cadence
        deviation_ns = cadence.arrived(now_ns)
        if stream.advised_square or stream.last_advice_ns:
            _learn_obedience(stream, deviation_ns)
        lead_ns = request.deadline_ns - now_ns
        stream.lead_ns += int(LEAD_GAIN * (lead_ns - stream.lead_ns)) if stream.lead_ns else lead_ns
        if request.tier == 0:
            forecast = self.forecasts.get(stream.model)
            if forecast is None:
                forecast = self.forecasts[stream.model] = Forecast()
            forecast.move(stream, cadence.next_ns if cadence.is_confident else None)
        elif stream.predicted_ns is not None:  # it is not of tier 0 any more
            self.forecasts[stream.model].move(stream, None)
        return stream

    def advised(self, stream: Stream, advice_ns: int) -> None:
        """Note that a stream was advised to come later, by what it is believed to do."""
        stream.last_advice_ns += advice_ns
        stream.advised_ns += advice_ns
        by_ns = int(advice_ns * stream.obedience)
        if by_ns:
            stream.cadence.shift(by_ns)
            if stream.predicted_ns is not None:
                self.forecasts[stream.model].move(stream, stream.cadence.next_ns)

    def overdue_ns(self, now_ns: int) -> dict[str, int]:
        """Return how overdue clients are, by name: who should have observed by now.

        Of a client with several models, the most overdue. Whoever is lost has stopped.
        """
        overdue_ns: dict[str, int] = {}
        for (client, _), stream in self._streams.items():
            cadence = stream.cadence
            if cadence.is_overdue(now_ns) and not cadence.is_lost(now_ns):
                overdue_ns[client] = max(overdue_ns.get(client, 0), now_ns - cadence.next_ns)
        return overdue_ns

    def _new(self, request: Request, now_ns: int) -> Stream:
        self._number += 1
        for key in list(self._oldest()):
            stream = self._streams[key]
            if stream.cadence.is_lost(now_ns) or len(self._streams) > MOST_STREAMS:
                if stream.predicted_ns is not None:
                    self.forecasts[stream.model].move(stream, None)
                del self._streams[key]
        return Stream(
            self._number,
            request.lane.model,
            Cadence(request.period_ns),
            self._number * GOLDEN % 1.0,
        )

    def _oldest(self) -> list[tuple[str, ModelRef]]:
        return [key for key, _ in zip(self._streams, range(SWEPT), strict=False)]


def _learn_obedience(stream: Stream, deviation_ns: int) -> None:
    """Compare how far a stream moved lately with how far it was advised to.

    The part it follows is the slope of the one over the other (least squares through 0). Sums over
    a few arrivals, because an observation may be under way already when its advice comes.
    """
    stream.moved_ns = LATELY * stream.moved_ns + deviation_ns
    stream.asked_ns = LATELY * stream.asked_ns + stream.last_advice_ns
    stream.last_advice_ns = 0
    product, square = stream.moved_ns * stream.asked_ns, stream.asked_ns**2
    stream.followed += OBEDIENCE_GAIN * (product - stream.followed)
    stream.advised_square += OBEDIENCE_GAIN * (square - stream.advised_square)
    stream.obedience = min(1.0, max(0.0, stream.followed / stream.advised_square))
