"""A histogram in the layout of HdrHistogram with two significant digits, made for the hot path.

Bucket for bucket what the `hdrh` package keeps (the tests hold the two side by side), but a
record costs a quarter and the percentiles a twentieth: the counts lie in one flat array that
numpy sums. Values up to 255 have a bucket each; above, each power of two has 128, so a value is
known to better than 1%.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from appliance.metrics.status import Latency

MAX_LATENCY_US = 60_000_000
PERCENTILES = (50, 90, 99, 99.9)


@frozen
class Summary:
    """A histogram, read: how many values, their sum, and the values at `PERCENTILES`."""

    count: int
    total: int
    percentiles: tuple[int, ...]
    max: int

    def document(self) -> Latency:
        """Return it as it stands in the status document."""
        p50, p90, p99, p99_9 = self.percentiles
        return Latency(count=self.count, p50=p50, p90=p90, p99=p99, p99_9=p99_9, max=self.max)


@define(eq=False)
class Histogram:
    """Integers from 0 to `highest`; one outside is clamped to the nearer end, and counted.

    Attributes:
        highest: Largest value told apart.
        counts: Values seen, by bucket; an `array`, as it counts faster than numpy does.
        view: The same memory, as numpy sums it.
        total: Sum of the values, after clamping.
        max: Largest value, after clamping.
        clamped: How many values lay outside.
    """

    highest: int = MAX_LATENCY_US
    counts: array[int] = field(init=False)
    view: NDArray[np.uint64] = field(init=False)
    total: int = field(default=0, init=False)
    max: int = field(default=0, init=False)
    clamped: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = array("Q", bytes(8 * (_bucket(self.highest) + 1)))
        self.view = np.frombuffer(self.counts, dtype=np.uint64)

    def record(self, value: int) -> None:
        """Count one value."""
        if not 0 <= value <= self.highest:
            self.clamped += 1
            value = 0 if value < 0 else self.highest
        exponent = (value | 255).bit_length() - 8
        self.counts[(exponent << 7) + (value >> exponent)] += 1
        self.total += value
        if value > self.max:  # noqa: PLR1730  a call costs more than the comparison
            self.max = value

    def read(self) -> Summary:
        """Return what was recorded so far."""
        return merged((self,))


def merged(histograms: Iterable[Histogram]) -> Summary:
    """Read histograms of one `highest` as if everything had been recorded into a single one."""
    parts = tuple(histograms)
    counts = parts[0].view
    for part in parts[1:]:
        counts = counts + part.view
    cumulative = counts.cumsum()
    count = int(cumulative[-1])
    highest = max(part.max for part in parts)
    if not count:
        return Summary(0, 0, (0,) * len(PERCENTILES), 0)
    ranks = [max(1, int(percentile * count / 100 + 0.5)) for percentile in PERCENTILES]
    buckets = cumulative.searchsorted(np.array(ranks, dtype=np.uint64))
    percentiles = tuple(min(_upper_end(int(bucket)), highest) for bucket in buckets)
    return Summary(count, sum(part.total for part in parts), percentiles, highest)


def _bucket(value: int) -> int:
    exponent = (value | 255).bit_length() - 8
    return (exponent << 7) + (value >> exponent)


def _upper_end(bucket: int) -> int:
    """Return the largest value that falls into `bucket`."""
    exponent = max(0, (bucket >> 7) - 1)
    mantissa = bucket - (exponent << 7)
    return ((mantissa + 1) << exponent) - 1
