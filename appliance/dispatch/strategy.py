"""The strategy that the configuration names, told what clients say of their observations."""

from __future__ import annotations

from typing import cast

from attrs import define, field

from appliance.config import Scheduling
from appliance.dispatch.ticket import Ticket
from appliance.scheduling import Scheduler
from appliance.scheduling.events import Request
from appliance.scheduling.guard import StrategyMaker
from appliance.scheduling.strategies import Said, load_strategy


def strategy_of(scheduling: Scheduling) -> StrategyMaker | None:
    """Return the configured strategy; None: the default. It may import a user's code.

    Raises:
        ConfigError: It cannot be loaded, or its parameters cannot be used.
    """
    return load_strategy(scheduling.strategy, scheduling.parameters, _said)


def _said(request: Request) -> Said:
    observation = cast("Ticket", request.payload).observation
    return Said(observation.urgency, observation.steps_remaining)


@define(eq=False)
class ConfiguredStrategy:
    """Lets a scheduler use the configured strategy, and another one when that has changed."""

    _scheduler: Scheduler
    _current: Scheduling = field(factory=Scheduling, init=False)
    _loaded: StrategyMaker | None = field(default=None, init=False)

    @property
    def problem(self) -> str:
        """Why the default chooses instead; empty: it does not."""
        fault = self._scheduler.fault
        if fault is None:
            return ""
        return f"scheduling strategy {fault.strategy} is replaced by the default: {fault.message}"

    def load(self, scheduling: Scheduling) -> None:
        """Load what `apply` will use, if it is another one; not on the event loop while it runs.

        Raises:
            ConfigError: It cannot be loaded, or its parameters cannot be used.
        """
        if self._differs(scheduling):
            self._loaded = strategy_of(scheduling)

    def apply(self, scheduling: Scheduling) -> bool:
        """Let the scheduler use what was loaded, if it is another one; return whether it is."""
        if not self._differs(scheduling):
            return False
        self._current = scheduling
        self._scheduler.use_strategy(self._loaded)
        return True

    def _differs(self, scheduling: Scheduling) -> bool:
        current = self._current
        return (scheduling.strategy, scheduling.parameters) != (
            current.strategy,
            current.parameters,
        )
