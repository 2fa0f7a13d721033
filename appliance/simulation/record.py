"""What is kept of a simulation: every observation and what became of it."""

from __future__ import annotations

from attrs import define, field

from appliance.errors import Outcome
from appliance.simulation.fleet import Fleet
from appliance.simulation.robots import Arrival, Robot


@define(eq=False)
class Asked:
    """An observation and what became of it.

    Attributes:
        outcome: None: it was never answered, and its scheduler has broken its promise.
        answered_ns: When its answer left the box.
    """

    arrival: Arrival
    robot: Robot | None
    outcome: Outcome | None = None
    answered_ns: int = 0

    @property
    def hit(self) -> bool:
        """Whether its robot got the action in time; who was dry already, at all."""
        return self.outcome is Outcome.OK and (
            self.arrival.dry or self.answered_ns <= self.arrival.deadline_ns
        )


@define(eq=False)
class Record:
    """What came of a simulation.

    Attributes:
        asked: In the order of their arrivals.
        horizon_ns: Until then robots observed.
        decision_ns: How long each decision took, where that was measured.
        busy_ns: When each batch was begun and over.
        batched_rows: How many were executed.
        loads: How often a model was loaded for a batch.
    """

    fleet: Fleet
    horizon_ns: int
    robots: list[Robot] = field(factory=list["Robot"])
    asked: list[Asked] = field(factory=list[Asked])
    decision_ns: list[int] = field(factory=list[int])
    busy_ns: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    batched_rows: int = 0
    loads: int = 0
