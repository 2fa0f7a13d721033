"""How long a batch of one model will take, by its size.

Planned time = what is usual for that size x how much slower or faster the engine is by now x a
quantile of how far batches of that size were off that. What is usual was measured at warm-up, and
follows what ran since. Sizes that were not measured are on a line a + b n fitted to what ran (least
squares, older batches forgotten); also those larger than any that ran lately, if that is shorter.
The second factor, `ratio`, is a moving average that jumps when several batches in a row agree that
the level is another one, as when a device throttles; single spikes do not move it. The quantile is
of an HDR histogram.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate

from attrs import define, field
from hdrh.histogram import HdrHistogram

GAIN = 0.05
"""Weight of one batch in the moving averages (RFC 6298 uses 1/8 for far fewer samples)."""

SLOW_GAIN, FIRST = 0.01, 20
"""Weight of one batch in what is usual for its size; at first more, as if so many were seen."""

LEAST_OF_MEASURED = 0.7
"""A size that did not run lately is thought to be no faster than that part of what was usual."""

TOLD_APART = 0.2
"""Share of batches behind others of their model from which on the cost of a change is learnt."""

MOST_SWITCH = 0.5
"""Of the time of a single row: what a change may cost."""

QUANTILE, CAREFUL_QUANTILE, SAFE_QUANTILE = 85.0, 95.0, 98.0
"""Of the times of a size: to plan with, to plan with for tier 0, and for tier 0 while little
waits."""

DEVIATIONS, CAREFUL_DEVIATIONS = 1.3, 2.0
"""Mean deviations added where a size has no quantile yet: about as much, if they are normal."""

MOST_MARGIN = 1.05
"""Times that vary more are planned shorter than that quantile: a few answers will be late, but more
would have been refused."""

MOST_SAFE_MARGIN = 1.08
"""Where the safe quantile is further off, such care would cost others more than it saves."""

SPIKE = 1.3
"""A batch beyond this multiple of its expected time is a spike, unless deviations are larger."""

SPIKE_DEVIATIONS = 6.0
OFTEN = 0.2
"""Share of batches from which on spikes are no spikes, but how the engine is."""

AGREEING, LOOKED_AT = 4, 5
"""So many of the latest batches beyond `SPIKE`, on one side, are a new level."""

ENOUGH = 32
"""Batches of a size before its own quantile counts."""

WINDOW = 256
"""Batches of a size after which a new histogram is begun."""

REFRESH = 16
"""Batches between two looks at what changes slowly, or takes time to find."""

YOUNG = 64
"""So many batches are looked at each."""

NOTICED, NOTICED_DEVIATION = 0.002, 0.1
"""Change of `ratio`, as a part of it, and of its deviation, for which planned times are computed
anew."""

FORGET = 0.98
"""Weight that is left of what the line was fitted to, with each batch."""

FLOOR_NS = 1000.0
HIGHEST = 20_000
"""Of a histogram, in thousandths of the expected time."""


@define(eq=False)
class Spread:
    """How far batches of one size were off what was expected of them, in thousandths of it.

    Attributes:
        factor, careful, safe: The quantiles, as factors; 0 while there are too few.
        total: So many were taken in.
        latest: Number of the latest one, among batches of all sizes.
    """

    factor: float = field(default=0.0, init=False)
    careful: float = field(default=0.0, init=False)
    safe: float = field(default=0.0, init=False)
    total: int = field(default=0, init=False)
    latest: int = field(default=0, init=False)
    _histogram: HdrHistogram = field(init=False)
    _count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._histogram = HdrHistogram(1, HIGHEST, 2)

    def record(self, relative: float) -> None:
        """Take in how long a batch took, as a part of what was expected."""
        self._histogram.record_value(min(HIGHEST, max(1, round(1000 * relative))))
        self.total += 1
        self._count += 1
        if self._count % REFRESH == 0 and self._count >= ENOUGH:
            quantiles = [QUANTILE, CAREFUL_QUANTILE, SAFE_QUANTILE]
            values = self._histogram.get_percentile_to_value_dict(quantiles)
            self.factor, self.careful, self.safe = (values[each] / 1000 for each in quantiles)
        if self._count >= WINDOW:
            self._histogram = HdrHistogram(1, HIGHEST, 2)
            self._count = 0


@define(eq=False)
class Fit:
    """a + b n through what was seen, the older the less."""

    _weight: float = field(default=0.0, init=False)
    _sizes: float = field(default=0.0, init=False)
    _squares: float = field(default=0.0, init=False)
    _times: float = field(default=0.0, init=False)
    _products: float = field(default=0.0, init=False)

    def add(self, size: int, time_ns: float) -> None:
        """Take in how long a batch took."""
        self._weight = FORGET * self._weight + 1
        self._sizes = FORGET * self._sizes + size
        self._squares = FORGET * self._squares + size * size
        self._times = FORGET * self._times + time_ns
        self._products = FORGET * self._products + size * time_ns

    def at(self, size: int) -> float | None:
        """Return the time at a size; None if what was seen says too little."""
        scatter = self._weight * self._squares - self._sizes**2
        if scatter < 1e-6 * self._squares * self._weight:
            return None
        slope = (self._weight * self._products - self._sizes * self._times) / scatter
        return (self._times - slope * self._sizes) / self._weight + slope * size


@define(eq=False)
class Estimate:
    """Execution time of one model. An identity: it learns.

    Attributes:
        largest: Batch size.
        planned_ns: Time to plan with by batch size, never decreasing: likely enough not to be
            exceeded. Index 0 is 0.
        careful_ns: The same for tier 0, which had better not be late.
        safe_ns: The same for tier 0 while little waits and nobody is refused.
        ratio: How much slower the engine is than at its warm-up.
        deviation: Mean absolute deviation of a batch from its expected time, as a part of it.
        ran_ns: When something of it was started last.
        switch_ns: What a batch takes longer behind a batch of another model.
    """

    _usual_ns: dict[int, float]
    largest: int
    planned_ns: list[int] = field(factory=list[int], init=False)
    careful_ns: list[int] = field(factory=list[int], init=False)
    safe_ns: list[int] = field(factory=list[int], init=False)
    ratio: float = field(default=1.0, init=False)
    deviation: float = field(default=0.03, init=False)
    switch_ns: int = field(default=0, init=False)
    ran_ns: int = field(default=0, init=False)
    _expected_ns: list[float] = field(factory=list[float], init=False)
    _spreads: dict[int, Spread] = field(factory=dict[int, Spread], init=False)
    _planned_ratio: float = field(default=0.0, init=False)
    _observed: int = field(default=0, init=False)
    _odd: float = field(default=0.0, init=False)
    _alone: float = field(default=0.0, init=False)
    _fit: Fit = field(factory=Fit, init=False)
    _latest: deque[float] = field(factory=lambda: deque(maxlen=LOOKED_AT), init=False)

    @classmethod
    def from_times(cls, times_ns: dict[int, int], max_batch: int) -> Estimate:
        """Build from warm-up measurements, batch size to nanoseconds; at least one is needed."""
        estimate = cls(
            {size: max(FLOOR_NS, float(time)) for size, time in times_ns.items()}, max_batch
        )
        for size, time_ns in estimate._usual_ns.items():
            estimate._fit.add(size, time_ns)
        estimate._expect()
        estimate._plan()
        return estimate

    def of(self, batch_size: int) -> int:
        """Return the time to plan a batch with, nanoseconds."""
        return self.planned_ns[batch_size]

    def likely_ns(self, batch_size: int) -> int:
        """Return the time that a batch will about take."""
        return int(self._expected_ns[batch_size] * self.ratio)

    def go_back(self, ratio: float) -> None:
        """Take back what was learnt since `ratio` was this, as it was another level's.

        What is usual for each size stays: it follows slowly.
        """
        self.ratio = ratio
        self._latest.clear()
        self._plan()

    def observe(self, batch_size: int, busy_ns: int, *, switched: bool = False) -> None:
        """Learn from a finished batch.

        Args:
            switched: It ran behind a batch of another model.
        """
        expected_ns = self._expected_ns[batch_size] * self.ratio
        own_ns = max(FLOOR_NS, busy_ns - self.switch_ns if switched else busy_ns)
        relative = own_ns / expected_ns
        self._latest.append(relative)
        limit = max(SPIKE, 1 + SPIKE_DEVIATIONS * self.deviation)
        is_usual = 1 / limit <= relative <= limit
        self._odd += GAIN * ((not is_usual) - self._odd)
        if is_usual or self._odd > OFTEN:
            self._learn(batch_size, own_ns, relative, switched=switched)
        elif not self._is_new_level(limit):
            return
        self._observed += 1
        noticed = max(NOTICED, NOTICED_DEVIATION * self.deviation)
        changed = abs(self.ratio / self._planned_ratio - 1) > noticed
        if changed or self._observed % REFRESH == 0:
            self._plan()

    def _learn(self, size: int, own_ns: float, relative: float, *, switched: bool) -> None:
        error = relative - 1
        self._alone += GAIN * ((not switched) - self._alone)
        # Where batches often run behind others of their model, those say how fast the engine is,
        # and the rest what a change costs. Else nobody could tell the two apart.
        told_apart = min(1.0, self._alone / TOLD_APART)
        if switched:
            switch_ns = self.switch_ns + GAIN * told_apart * error * own_ns
            self.switch_ns = int(max(0.0, min(switch_ns, MOST_SWITCH * self._expected_ns[1])))
        self.deviation += GAIN * (abs(error) - self.deviation)
        spread = self._spreads.get(size)
        if spread is None:
            spread = self._spreads[size] = Spread()
        spread.record(relative)
        spread.latest = self._observed
        own_ns /= self.ratio
        self._fit.add(size, own_ns)
        if size in self._usual_ns:
            gain = max(SLOW_GAIN, 1 / (FIRST + spread.total))
            self._usual_ns[size] += gain * (own_ns - self._usual_ns[size])
        if self._observed < YOUNG or self._observed % REFRESH == 0:
            self._expect()
        self.ratio *= 1 + GAIN * error * (1 - told_apart if switched else 1)

    def _is_new_level(self, limit: float) -> bool:
        """Jump to another level if the latest batches agree on it; return whether they do."""
        above = sorted(relative for relative in self._latest if relative > limit)
        below = sorted(relative for relative in self._latest if relative < 1 / limit)
        for agreeing in (above, below):
            if len(agreeing) >= AGREEING:
                self.ratio *= agreeing[len(agreeing) // 2]
                self._latest.clear()
                return True
        return False

    def _expect(self) -> None:
        """Set the expected time of each size: measured, or on the line."""
        self._expected_ns = [0.0]
        since = self._observed - WINDOW
        ran = max((size for size, one in self._spreads.items() if one.latest > since), default=0)
        for size in range(1, self.largest + 1):
            time_ns, fitted_ns = self._usual_ns.get(size), self._fit.at(size)
            if time_ns is None:
                time_ns = fitted_ns
            elif fitted_ns is not None and ran < size <= 2 * ran:
                # Else it might never be tried.
                time_ns = min(time_ns, max(fitted_ns, LEAST_OF_MEASURED * time_ns))
            if time_ns is None:  # one size was measured, and nothing else has run
                known, known_ns = next(iter(self._usual_ns.items()))
                time_ns = known_ns * (1 + size / known) / 2
            self._expected_ns.append(max(FLOOR_NS, time_ns))

    def _plan(self) -> None:
        self._planned_ratio = self.ratio
        common = 1 + DEVIATIONS * self.deviation
        common_careful = 1 + CAREFUL_DEVIATIONS * self.deviation
        planned, careful, safe = [0], [0], [0]
        for size in range(1, self.largest + 1):
            spread = self._spreads.get(size)
            time_ns = self._expected_ns[size] * self.ratio
            factor, careful_factor, safe_factor = common, common_careful, common_careful
            if spread is not None and spread.factor:
                factor, careful_factor, safe_factor = spread.factor, spread.careful, spread.safe
            planned.append(int(time_ns * min(factor, MOST_MARGIN)))
            careful.append(int(time_ns * min(careful_factor, MOST_MARGIN)))
            if safe_factor <= MOST_SAFE_MARGIN:
                safe.append(int(time_ns * safe_factor))
            else:
                safe.append(careful[-1])
        self.planned_ns = list(accumulate(planned, max))
        self.careful_ns = list(accumulate(careful, max))
        self.safe_ns = list(accumulate(safe, max))
