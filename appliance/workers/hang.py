"""How long a batch may run before its worker is called hung. PURE; one for each slot.

The bound follows what each model has been seen to take, at warm-up and since, so it needs no
tuning and survives restarts. The slowest time fades, so that one outlier does not blunt the
bound for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field
from attrs.validators import ge, gt

_FADING_BITS = 8
"""The slowest time loses 1/256 with each faster batch: half of it in 177 batches."""


@define(eq=False, kw_only=True)
class HangBound:
    """The bound for each model of a slot.

    Attributes:
        floor_ns: No batch is called hung before this.
        factor: Times the slowest batch seen, or load.
    """

    floor_ns: int = field(validator=gt(0))
    factor: float = field(validator=ge(1))
    _slowest: dict[int, int] = field(factory=dict[int, int], init=False)
    _slowest_load: dict[int, int] = field(factory=dict[int, int], init=False)

    def warmed_up(self, model: int, times_ns: Iterable[int]) -> None:
        """Learn what batches of a model took at warm-up."""
        self._slowest[model] = max(self._slowest.get(model, 0), *times_ns, 0)

    def finished(self, model: int, took_ns: int) -> None:
        """Learn what a batch took, from its start to its Done as seen by the core."""
        slowest = self._slowest.get(model, 0)
        self._slowest[model] = max(took_ns, slowest - (slowest >> _FADING_BITS))

    def loaded(self, model: int, took_ns: int) -> None:
        """Learn what loading a model took."""
        slowest = self._slowest_load.get(model, 0)
        self._slowest_load[model] = max(took_ns, slowest - (slowest >> _FADING_BITS))

    def bound_ns(self, model: int, *, loads: bool = False) -> int:
        """Return how long a batch of `model` may run.

        Args:
            loads: The model has to be loaded for it.
        """
        bound_ns = max(self.floor_ns, int(self.factor * self._slowest.get(model, 0)))
        if loads:
            bound_ns += max(self.floor_ns, int(self.factor * self._slowest_load.get(model, 0)))
        return bound_ns
