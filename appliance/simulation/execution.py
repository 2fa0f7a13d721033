"""How long an engine takes for a batch: by a formula with noise, or as it was recorded."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from attrs import frozen

from appliance.scheduling.events import ModelRef

MEASURED_SIZES = (1, 2, 4, 8, 16)
"""Batch sizes that a worker measures before it is ready; its largest one as well."""


class Engine(Protocol):
    """The execution of one model's batches."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def max_batch(self) -> int:
        """Most rows of a batch."""
        ...

    def mean_ns(self, rows: int) -> int:
        """Return the expected time of a batch."""
        ...

    def sample_ns(self, rows: int, random: Random) -> int:
        """Return the time that one batch takes."""
        ...


@frozen(kw_only=True)
class LinearEngine:
    """Takes `base_ns + row_ns * rows`, times lognormal noise, now and then a spike.

    Attributes:
        sigma: Standard deviation of the logarithm of the noise.
        spike_share: Share of batches that take `spike_factor` times as long.
    """

    name: str
    base_ns: int
    row_ns: int
    max_batch: int
    sigma: float = 0.03
    spike_share: float = 0.003
    spike_factor: float = 1.5

    def mean_ns(self, rows: int) -> int:
        """Return the time of a batch without noise."""
        return self.base_ns + self.row_ns * rows

    def sample_ns(self, rows: int, random: Random) -> int:
        """Return the time that one batch takes."""
        time_ns = self.mean_ns(rows) * math.exp(random.gauss(0, self.sigma))
        if random.random() < self.spike_share:
            time_ns *= self.spike_factor
        return round(time_ns)


@frozen(kw_only=True)
class RecordedEngine:
    """Takes what it took: one of the times recorded for a batch size, drawn evenly.

    A size that was not recorded takes the time of the next one that was, scaled by the means.

    Attributes:
        samples_ns: Batch size to the times seen; at least one size with one time.
    """

    name: str
    max_batch: int
    samples_ns: Mapping[int, Sequence[int]]

    def mean_ns(self, rows: int) -> int:
        """Return the mean of a size, interpolated between those recorded; constant beyond."""
        sizes = sorted(self.samples_ns)
        index = bisect_left(sizes, rows)
        if index == len(sizes):
            return self._recorded_mean_ns(sizes[-1])
        right = sizes[index]
        if right == rows or index == 0:
            return self._recorded_mean_ns(right)
        left = sizes[index - 1]
        left_ns, right_ns = self._recorded_mean_ns(left), self._recorded_mean_ns(right)
        return left_ns + (right_ns - left_ns) * (rows - left) // (right - left)

    def sample_ns(self, rows: int, random: Random) -> int:
        """Return the time that one batch takes."""
        sizes = sorted(self.samples_ns)
        size = sizes[min(bisect_left(sizes, rows), len(sizes) - 1)]
        sampled_ns = random.choice(self.samples_ns[size])
        return sampled_ns * self.mean_ns(rows) // self._recorded_mean_ns(size)

    def _recorded_mean_ns(self, size: int) -> int:
        samples_ns = self.samples_ns[size]
        return max(1, sum(samples_ns) // len(samples_ns))


def reference_of(name: str) -> ModelRef:
    """Return the scheduler's name of a simulated model: there is one version of each."""
    return ModelRef(name, "1")


def measured_ns(engine: Engine) -> dict[int, int]:
    """Return what a worker measures before it is ready: batch size to nanoseconds."""
    sizes = {size for size in MEASURED_SIZES if size <= engine.max_batch} | {engine.max_batch}
    return {size: engine.mean_ns(size) for size in sorted(sizes)}


def least_row_ns(engine: Engine) -> float:
    """Return the least that a row can cost: its share of a full batch."""
    return engine.mean_ns(engine.max_batch) / engine.max_batch
