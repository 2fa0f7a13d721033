"""How long an engine takes for a batch: by a formula or a table, with noise, or as recorded."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from attrs import Factory, field, frozen

from appliance.errors import ConfigError
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
        return _noisy_ns(self, rows, random)


@frozen(kw_only=True)
class MeasuredEngine:
    """Takes what was measured for some batch sizes, with the noise of `LinearEngine`.

    Means of other sizes lie on the line between the two beside them; below the smallest they are
    as large as there.

    Attributes:
        times_ns: Batch size to time; the largest is the largest there is.
    """

    name: str
    times_ns: Mapping[int, int]
    sigma: float = 0.03
    spike_share: float = 0.003
    spike_factor: float = 1.5

    @property
    def max_batch(self) -> int:
        """Most rows of a batch."""
        return max(self.times_ns)

    def mean_ns(self, rows: int) -> int:
        """Return the time of a batch without noise."""
        sizes = sorted(self.times_ns)
        return _between_ns(sizes, [self.times_ns[size] for size in sizes], rows)

    def sample_ns(self, rows: int, random: Random) -> int:
        """Return the time that one batch takes."""
        return _noisy_ns(self, rows, random)


def _noisy_ns(engine: LinearEngine | MeasuredEngine, rows: int, random: Random) -> int:
    time_ns = engine.mean_ns(rows) * math.exp(random.gauss(0, engine.sigma))
    if random.random() < engine.spike_share:
        time_ns *= engine.spike_factor
    return round(time_ns)


@frozen(kw_only=True)
class RecordedEngine:
    """Takes what it took: one of the times recorded for a batch size, drawn evenly.

    Means of sizes that were not recorded lie on the line between those that were, or go on along
    the last of them; below the smallest they are as large as there. Such a size takes a time of the
    next larger one that was recorded, scaled by the means.

    Attributes:
        samples_ns: Batch size to the times seen.

    Raises:
        ConfigError: Nothing was recorded.
    """

    name: str
    max_batch: int
    samples_ns: Mapping[int, Sequence[int]]
    _sizes: list[int] = field(
        default=Factory(lambda self: _recorded(self.name, self.samples_ns), takes_self=True),
        init=False,
        repr=False,
        eq=False,
    )
    _means_ns: list[int] = field(
        default=Factory(
            lambda self: [_mean_ns(self.samples_ns[size]) for size in self._sizes], takes_self=True
        ),
        init=False,
        repr=False,
        eq=False,
    )

    def mean_ns(self, rows: int) -> int:
        """Return the mean of a size."""
        return _between_ns(self._sizes, self._means_ns, rows)

    def sample_ns(self, rows: int, random: Random) -> int:
        """Return the time that one batch takes."""
        index = min(bisect_left(self._sizes, rows), len(self._sizes) - 1)
        sampled_ns = random.choice(self.samples_ns[self._sizes[index]])
        return sampled_ns * self.mean_ns(rows) // self._means_ns[index]


def _recorded(name: str, samples_ns: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the sizes that there are times of."""
    sizes = sorted(size for size, times_ns in samples_ns.items() if times_ns)
    if not sizes:
        raise ConfigError(f"no batch of model {name!r} was recorded; record one at least")
    return sizes


def _mean_ns(times_ns: Sequence[int]) -> int:
    return max(1, sum(times_ns) // len(times_ns))


def _between_ns(sizes: Sequence[int], means_ns: Sequence[int], rows: int) -> int:
    """Return the mean of a size on the line between the sizes beside it, or along the last one."""
    if len(sizes) == 1 or rows <= sizes[0]:
        return means_ns[0]
    right = min(bisect_left(sizes, rows), len(sizes) - 1)
    left = right - 1
    rise_ns = (means_ns[right] - means_ns[left]) * (rows - sizes[left])
    return means_ns[left] + rise_ns // (sizes[right] - sizes[left])


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
