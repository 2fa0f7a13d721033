"""What one decision looks at: the lanes a worker may serve, and whom of tier 0 it has to mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve

from appliance.scheduling.choice import Contender
from appliance.scheduling.critical import Critical
from appliance.scheduling.events import ModelRef
from appliance.scheduling.streams import Forecast
from appliance.scheduling.window import NOTHING, Window, best_window
from appliance.values import value

AHEAD_NS = 20_000_000
"""Tier 0 is looked for so far beyond the longest batch."""

DRY_PATIENCE, MOST_DRY_PATIENCE_NS = 6, 75_000_000
"""A dry robot goes first at the latest after so many times what a full batch takes longer than one
row, and until then in order, as if that were its deadline: mostly in a full batch. Led by it at
once, a batch is small, and others run dry for that, who would lead small ones next."""


@value
class Outlook:
    """See the module's docstring.

    Attributes:
        start_ns: When the worker is free.
        pairs: The lanes, and the most valuable batch of each that could start then.
        critical: Those of tier 0.
    """

    start_ns: int
    pairs: list[tuple[Contender, Window]]
    critical: Critical

    def alone_ns(self, one: Contender) -> int:
        """Return when a single request of a lane would be answered."""
        return self.start_ns + one.switch_ns + one.times_ns[1]


def dry_patience_ns(one: Contender) -> int:
    """Return how long a dry robot waits in order, at most, before it goes first."""
    return min(MOST_DRY_PATIENCE_NS, DRY_PATIENCE * (one.times_ns[-1] - one.times_ns[1]))


def look(
    contenders: Sequence[Contender], forecasts: Mapping[ModelRef, Forecast], start_ns: int
) -> Outlook:
    """Look at the lanes of a worker that is free at `start_ns`."""
    pairs: list[tuple[Contender, Window]] = []
    for contender in contenders:
        has_dry = contender.line.first.requests
        one = _with_patience(contender, start_ns) if has_dry else contender
        timely, window = one.line.timely, NOTHING
        if timely.times_ns:
            begins_ns = start_ns + one.switch_ns
            values = timely.values if timely.odd else None
            window = best_window(timely.times_ns, values, one.times_ns, begins_ns)
        pairs.append((one, window))
    return Outlook(start_ns, pairs, _look_for_critical(pairs, forecasts, start_ns))


def _with_patience(one: Contender, start_ns: int) -> Contender:
    """Return a lane in which those that are dry may have deadlines."""
    until_ns = start_ns + one.switch_ns + one.times_ns[1]
    line = one.line.with_patience(until_ns, dry_patience_ns(one))
    return evolve(one, line=line, unit=line.timely.usual * one.times_ns[-1] / one.most)


def _look_for_critical(
    pairs: Sequence[tuple[Contender, Window]],
    forecasts: Mapping[ModelRef, Forecast],
    start_ns: int,
) -> Critical:
    critical = Critical([])
    if not forecasts and not any(one.line.critical.requests for one, _ in pairs):
        return critical
    until_ns = start_ns + AHEAD_NS + max([one.times_ns[-1] for one, _ in pairs])
    seen: list[ModelRef] = []
    for one, _ in pairs:
        model = one.lane.model
        forecast = forecasts.get(model) if model not in seen else None
        if forecast is not None or one.line.critical.requests:
            seen.append(model)
            critical.add(one, forecast, until_ns=until_ns)
    return critical
