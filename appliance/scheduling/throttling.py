"""How much longer a worker's batches take while something holds its device's clocks down.

Planned time = the estimate's x the worker's pace. A device that throttles slows all of its models
at once, and may be idle when it begins: by its clocks that is known before the first batch of each
model has been late.

The pace goes with the clocks as far as the model's batches do: one that waits for memory most of
the time hardly notices them. How far is learnt for each model while the clocks are held down, and
remembered for the next time. The estimate itself learns nothing meanwhile, so that a measured time
counts once, and an end of throttling needs no learning.

A reading is a little late. What was learnt since the one before, which said otherwise, may be of
either state, and is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from appliance.scheduling.estimate import Estimate
from appliance.scheduling.events import ModelRef

GAIN = 0.125
"""Weight of one batch in what is learnt of a model."""

MOST_SHARE = 2.0
"""Times as much slower as the clocks are: what a model is thought to be at most."""

MOST_SLOWDOWN = 10.0
"""More is no reading, but an idle device."""


@define(eq=False)
class Throttling:
    """Of one worker slot. See the module's docstring. An identity: it learns.

    Attributes:
        slowdown: How much slower than usual the clocks are, by the latest reading.
    """

    slowdown: float = field(default=1.0, init=False)
    _shares: dict[ModelRef, float] = field(factory=dict[ModelRef, float], init=False)
    _known_shares: dict[ModelRef, float] = field(factory=dict[ModelRef, float], init=False)
    _known_ratios: dict[ModelRef, float] = field(factory=dict[ModelRef, float], init=False)

    @property
    def is_on(self) -> bool:
        """Whether the clocks are held down."""
        return self.slowdown > 1.0

    def pace(self, model: ModelRef) -> float:
        """Return how many times as long as usual a batch of a model takes now."""
        if self.slowdown == 1.0:
            return 1.0
        return 1.0 + self._shares.get(model, 1.0) * (self.slowdown - 1.0)

    def read(self, slowdown: float, hosted: Mapping[ModelRef, Estimate]) -> None:
        """Take in a reading of the clocks.

        Args:
            slowdown: How much slower than usual they are; 1.0 or less: they are not held down.
            hosted: The estimates of the models that the worker hosts.
        """
        was_on = self.is_on
        self.slowdown = max(1.0, min(slowdown, MOST_SLOWDOWN))
        if self.is_on and not was_on:
            for model, ratio in self._known_ratios.items():
                if model in hosted:
                    hosted[model].go_back(ratio)
        elif was_on and not self.is_on:
            self._shares = dict(self._known_shares)
        if self.is_on:
            self._known_shares = dict(self._shares)
        else:
            self._known_ratios = {model: each.ratio for model, each in hosted.items()}

    def observe(self, model: ModelRef, relative: float) -> None:
        """Learn from a batch that ran while the clocks were held down.

        Args:
            relative: How many times as long as usual it took.
        """
        seen = (relative - 1.0) / (self.slowdown - 1.0)
        share = self._shares.get(model, 1.0)
        self._shares[model] = share + GAIN * (max(0.0, min(seen, MOST_SHARE)) - share)

    def at_usual_clocks(self, times_ns: Mapping[int, int]) -> dict[int, int]:
        """Return what measured times would have been had nothing held the clocks down."""
        return {size: int(time_ns / self.slowdown) for size, time_ns in times_ns.items()}
