"""How long a batch will take, per (model, batch size).

Seeded by what the worker measured at warm-up, then scaled by what is observed since. Sizes that
were not measured are interpolated between those that were, and extrapolated along the last slope.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from attrs import define

GAIN = 0.05
"""Weight of one observation in the moving averages (RFC 6298 uses 1/8 for far fewer samples)."""

DEVIATIONS = 1.6
"""Mean deviations added for safety: about the 90th percentile of a normal distribution."""

SPIKE = 3.0
"""An observation beyond this multiple of the estimate moves it only that far."""


@define(eq=False)
class Estimate:
    """Execution time of one model. An identity: it learns.

    Attributes:
        curve_ns: Expected time by batch size, index 0 unused.
        ratio: Observed over expected, moving average.
        deviation: Mean absolute deviation of that ratio.
    """

    curve_ns: list[float]
    ratio: float = 1.0
    deviation: float = 0.05

    @classmethod
    def from_times(cls, times_ns: dict[int, int], max_batch: int) -> Estimate:
        """Build from warm-up measurements, batch size to nanoseconds; at least one is needed."""
        return cls(_curve(times_ns, max_batch))

    def of(self, batch_size: int) -> int:
        """Return the time to plan with, nanoseconds: likely enough not to be exceeded."""
        return int(self.curve_ns[batch_size] * (self.ratio + DEVIATIONS * self.deviation))

    def observe(self, batch_size: int, busy_ns: int) -> None:
        """Learn from a finished batch."""
        ratio = min(busy_ns / self.curve_ns[batch_size], SPIKE * self.ratio)
        error = ratio - self.ratio
        self.ratio += GAIN * error
        self.deviation += GAIN * (abs(error) - self.deviation)


def _curve(times_ns: dict[int, int], max_batch: int) -> list[float]:
    """Piecewise linear through the measurements, never decreasing, at least 1 µs."""
    sizes = sorted(times_ns)
    first = times_ns[sizes[0]]
    points = [(0, float(first) * 0.5), *((size, float(times_ns[size])) for size in sizes)]
    curve = [0.0]
    for size in range(1, max_batch + 1):
        index = min(max(bisect_left(points, (size, 0.0)), 1), len(points) - 1)
        (left, left_ns), (right, right_ns) = points[index - 1], points[index]
        slope = (right_ns - left_ns) / (right - left)
        curve.append(max(left_ns + slope * (size - left), curve[-1], 1000.0))
    assert all(later >= earlier for earlier, later in pairwise(curve))
    return curve
