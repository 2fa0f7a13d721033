"""Which models a worker holds in memory, within a budget: the least recently used make room. PURE.

The worker keeps one of these, which decides, and the scheduler another, which foresees: they go by
the same batches in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

from attrs import define, field
from attrs.validators import gt

Model = TypeVar("Model", bound=Hashable)


@define(eq=False)
class Residency(Generic[Model]):
    """What is resident, the least recently used first.

    Attributes:
        budget_bytes: What is resident never takes more.
        memory_bytes: What each model takes.
    """

    budget_bytes: int = field(validator=gt(0))
    memory_bytes: dict[Model, int] = field(factory=dict["Model", int])
    _by_use: list[Model] = field(factory=list["Model"], init=False)

    def __contains__(self, model: Model) -> bool:
        return model in self._by_use

    @property
    def resident(self) -> tuple[Model, ...]:
        """The models, the least recently used first."""
        return tuple(self._by_use)

    @property
    def resident_bytes(self) -> int:
        """What they take."""
        return sum(self.memory_bytes[model] for model in self._by_use)

    def must_leave(self, needed_bytes: int, kept: Collection[Model] = ()) -> list[Model]:
        """Return what has to be evicted for so much more to fit, in order.

        Args:
            kept: They stay, also if it does not fit then.
        """
        excess_bytes = self.resident_bytes + needed_bytes - self.budget_bytes
        leaving: list[Model] = []
        for model in self._by_use:
            if excess_bytes <= 0:
                break
            if model not in kept:
                leaving.append(model)
                excess_bytes -= self.memory_bytes[model]
        return leaving

    def fits(self, needed_bytes: int) -> bool:
        """Return whether so much more fits now."""
        return self.resident_bytes + needed_bytes <= self.budget_bytes

    def used(self, model: Model) -> None:
        """Note that a model that is resident was used last."""
        self._by_use.remove(model)
        self._by_use.append(model)

    def loaded(self, model: Model, memory_bytes: int) -> None:
        """Note that a model was loaded, and is used last."""
        self.memory_bytes[model] = memory_bytes
        self._by_use.append(model)

    def evicted(self, model: Model) -> None:
        """Note that a model is not resident any more."""
        self._by_use.remove(model)

    def foresee(self, model: Model) -> None:
        """Note that a model is run next: it is loaded if it has to be, and others leave for it."""
        if model in self._by_use:
            self.used(model)
            return
        for other in self.must_leave(self.memory_bytes[model]):
            self.evicted(other)
        self._by_use.append(model)

    def correct(self, resident: Iterable[Model]) -> None:
        """Take over what is resident, the least recently used first."""
        self._by_use = [model for model in resident if model in self.memory_bytes]
