"""What robots do: observe, send, and execute what they are answered.

A robot is asked to `plan` its next observation as soon as the one before has arrived (a connection
keeps their order), `capture`s when its cadence says so, and `hears` its answers. Robots share one
source of random numbers, in the order of their arrivals, so that fleets that are not advised meet
every scheduler with the same observations.
"""

from __future__ import annotations

from random import Random
from typing import Protocol

from attrs import define, field

from appliance.errors import Outcome
from appliance.simulation.cadence import Cadence
from appliance.simulation.fleet import SECOND_NS, Network, RobotClass
from appliance.values import value


@value
class Arrival:
    """One observation, as it reaches the box.

    Attributes:
        client: Who asks.
        period_ns: What it declares; 0: nothing.
        dry: Its robot has no actions, or will have none before any answer could come.
        runs_out: Its deadline is when its robot has none left.
        counted: Whether the score looks at it.
    """

    client: str
    model: str
    captured_ns: int
    arrived_ns: int
    deadline_ns: int
    tier: int = 1
    priority: int = 1
    firm: bool = True
    dry: bool = False
    runs_out: bool = False
    keep_latest: bool = True
    period_ns: int = 0
    counted: bool = True


class Robot(Protocol):
    """What the world asks of a robot."""

    @property
    def kind(self) -> RobotClass:
        """Its class."""
        ...

    @property
    def obeys(self) -> bool:
        """Whether it follows phase advice."""
        ...

    @property
    def due_ns(self) -> int:
        """Its next capture."""
        ...

    def plan(self, random: Random) -> None:
        """Draw the next observation."""
        ...

    def capture(self, now_ns: int) -> Arrival:
        """Observe."""
        ...

    def advised(self, advice_ns: int, now_ns: int) -> None:
        """Take phase advice."""
        ...

    def hears(self, arrival: Arrival, outcome: Outcome, now_ns: int) -> None:
        """Get the answer to an observation."""
        ...


@define(eq=False, kw_only=True)
class PeriodicRobot:
    """Observes at a rate, and needs each answer within its latency budget."""

    client: str
    kind: RobotClass
    obeys: bool
    cadence: Cadence
    _uplink_ns: int = field(default=0, init=False)

    @property
    def due_ns(self) -> int:
        """Its next capture."""
        return self.cadence.due_ns

    def plan(self, random: Random) -> None:
        """Draw the next observation, and how long it will be on its way."""
        self.cadence.plan(random)
        self._uplink_ns = uplink_ns(self.kind.network, random)

    def capture(self, now_ns: int) -> Arrival:  # noqa: ARG002  its cadence knows
        """Observe."""
        captured_ns = self.cadence.due_ns
        self.cadence.captured()
        return arrival_of(self.client, self.kind, captured_ns, self._uplink_ns)

    def advised(self, advice_ns: int, now_ns: int) -> None:
        """Observe so much later from now on."""
        self.cadence.advised(advice_ns, now_ns)

    def hears(self, arrival: Arrival, outcome: Outcome, now_ns: int) -> None:
        """Nothing changes by it."""


@define(eq=False, kw_only=True)
class FloodingRobot:
    """Declares the rate of its class and sends random observations at another, in bursts."""

    client: str
    kind: RobotClass
    obeys: bool = False
    due_ns: int = 0
    _uplink_ns: int = field(default=0, init=False)

    def plan(self, random: Random) -> None:
        """Draw the next observation: in this burst, or early in the next one."""
        burst = self.kind.burst
        assert burst is not None
        mean_ns = SECOND_NS / burst.rate_hz
        due_ns = self.due_ns + random.expovariate(1.0) * mean_ns
        if due_ns % burst.cycle_ns >= burst.on_ns:
            start_ns = (due_ns // burst.cycle_ns + 1) * burst.cycle_ns
            due_ns = start_ns + random.expovariate(1.0) * mean_ns
        self.due_ns = round(due_ns)
        self._uplink_ns = uplink_ns(self.kind.network, random)

    def capture(self, now_ns: int) -> Arrival:  # noqa: ARG002  it has planned it
        """Observe."""
        return arrival_of(self.client, self.kind, self.due_ns, self._uplink_ns)

    def advised(self, advice_ns: int, now_ns: int) -> None:
        """It does as it likes."""

    def hears(self, arrival: Arrival, outcome: Outcome, now_ns: int) -> None:
        """Nothing changes by it."""


def uplink_ns(network: Network, random: Random) -> int:
    """Draw how long an observation is on its way."""
    time_ns = network.least_ns + random.expovariate(1.0) * network.spread_ns
    if random.random() < network.straggler_share:
        time_ns += random.expovariate(1.0) * network.straggler_ns
    return round(time_ns)


def arrival_of(client: str, kind: RobotClass, captured_ns: int, up_ns: int) -> Arrival:
    """Return an observation that has to be answered within the latency budget of its class."""
    return_ns = kind.network.return_ns
    return Arrival(
        client=client,
        model=kind.model,
        captured_ns=captured_ns,
        arrived_ns=captured_ns + up_ns,
        deadline_ns=captured_ns + (kind.budget_ns or 0) - return_ns,
        tier=kind.tier,
        firm=kind.firm,
        period_ns=kind.period_ns if kind.declares_period else 0,
        counted=kind.counted,
    )
