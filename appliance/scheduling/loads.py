"""What a worker has to load before it can run a batch, and how long that takes.

Only of workers whose memory is smaller than their models. Which of them are in memory is foreseen
by the worker's own rule (`appliance.residency`), and put right by what it says after each load.
"""

from __future__ import annotations

from attrs import define

from appliance.residency import Residency
from appliance.scheduling.events import ModelRef, WorkerMemory

LATEST, DEVIATIONS = 4, 2
"""So many of the latest loads of a model count, about; mean deviations added to be careful."""


@define(eq=False)
class LoadTime:
    """How long loading one model takes.

    Attributes:
        likely_ns: On average.
    """

    likely_ns: int
    _deviation_ns: int = 0

    @property
    def planned_ns(self) -> int:
        """What it does not often take longer than."""
        return self.likely_ns + DEVIATIONS * self._deviation_ns

    def observe(self, took_ns: int) -> None:
        """Take in how long it took."""
        error_ns = took_ns - self.likely_ns
        self.likely_ns += error_ns // LATEST
        self._deviation_ns += (abs(error_ns) - self._deviation_ns) // LATEST


@define(eq=False)
class Loads:
    """Of one worker; see the module's docstring."""

    _residency: Residency[ModelRef]
    _times: dict[ModelRef, LoadTime]

    @classmethod
    def of(cls, memory: WorkerMemory) -> Loads:
        """Build from what a worker said when it came up."""
        residency = Residency[ModelRef](memory.budget_bytes, memory.memory_bytes)
        residency.correct(memory.resident)
        return cls(residency, {model: LoadTime(ns) for model, ns in memory.load_ns.items()})

    def planned_ns(self, model: ModelRef) -> int:
        """Return the time to plan with until a model is there; 0: it is."""
        return 0 if model in self._residency else self._times[model].planned_ns

    def likely_ns(self, model: ModelRef) -> int:
        """Return how long it will about take."""
        return 0 if model in self._residency else self._times[model].likely_ns

    def leaving(self, model: ModelRef) -> list[ModelRef]:
        """Return the models that have to leave for one that is not there."""
        return self._residency.must_leave(self._residency.memory_bytes[model])

    def start(self, model: ModelRef) -> None:
        """Note that a batch of a model is run next, and loaded for it if it has to be."""
        self._residency.foresee(model)

    def loaded(self, model: ModelRef, took_ns: int, resident: tuple[ModelRef, ...]) -> None:
        """Take in that a model was loaded, or was to be, and what is in memory after that."""
        self._times[model].observe(took_ns)
        self._residency.correct(resident)
