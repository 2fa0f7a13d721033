"""How far a build is, from the phases that the builder reports. PURE.

Phases lie in phases. A step of one that holds others is as far as those are.
"""

from __future__ import annotations

from attrs import define, field


@define(eq=False)
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


@define(eq=False)
class BuildProgress:
    """What the builder has reported so far.

    Attributes:
        fraction: 0 to 1; never less than it was.
    """

    fraction: float = field(default=0.0, init=False)
    _phases: list[_Phase] = field(factory=list["_Phase"], init=False)

    @property
    def step(self) -> str:
        """What is being done, in the builder's words."""
        return self._phases[-1].name if self._phases else ""

    def started(self, name: str, parent: str | None, steps: int) -> None:
        """A phase has begun."""
        self._phases.append(_Phase(name, parent, max(1, steps)))

    def stepped(self, name: str, step: int) -> None:
        """A phase has done its step number `step`, the first of which is 0."""
        phase = self._find(name)
        if phase is not None:
            phase.done = max(phase.done, min(step + 1, phase.steps))
            self._add_up()

    def finished(self, name: str) -> None:
        """A phase is over."""
        phase = self._find(name)
        if phase is not None:
            phase.done = phase.steps
            self._add_up()
            self._phases.remove(phase)

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._phases) if phase.name == name), None)

    def _add_up(self) -> None:
        """Let a phase that goes on be as far as its steps, and the one in it as far as it is."""
        fraction = 0.0
        for phase in reversed(self._phases):
            fraction = min(1.0, (phase.done + fraction) / phase.steps)
        self.fraction = max(self.fraction, fraction)
