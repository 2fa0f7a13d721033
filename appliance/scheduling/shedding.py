"""What part of each model's traffic is let in when there is more than can be answered in time.

Refusing some evenly and at once serves everybody better than letting all of them wait until most
are late. A controller for each model looks at what was lost of what came, four times a second:
it lets in less while more is lost than `TARGET`, and more when little is (additive increase,
multiplicative decrease). Who is refused is decided by error diffusion for each stream, so that
refusals come at even distances, and never tier 0.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from appliance.scheduling.events import ModelRef, Request
from appliance.scheduling.streams import Stream

INTERVAL_NS = 250_000_000
TARGET = 0.03
"""Lost of what came; half of it is little."""

SMOOTHING = 0.3
LOWER, LEAST_LOWER, MOST_LOWER = 0.25, 0.002, 0.12
RAISE = 0.02
APART = 0.3
"""No model lets in more than this above the least of those that it shares workers with."""

IDLE = 0.03
"""A worker that is idle for more of the time is not short of time: what is lost comes in bursts,
and letting in less would not help."""

HOPELESS = 0.5
"""Share of a stream's requests that are lost, beyond which it does not count: its deadlines cannot
be met. Unless most of what comes is of such streams: then it is the load."""

LEAST = 0.05
CALM = 0.97
"""Letting in that much is not called shedding."""


@define(eq=False)
class Gate:
    """One model's controller.

    Attributes:
        asked: What it wants to let in, 0 to 1.
        passing: What it lets in.
        arrived, lost, idle_ns: In this interval.
        hopeless, hopeless_lost: So many of these arrived and were lost of streams that lose most.
    """

    asked: float = 1.0
    passing: float = 1.0
    arrived: int = 0
    lost: int = 0
    hopeless: int = 0
    hopeless_lost: int = 0
    idle_ns: int = 0
    _losing: float = field(default=0.0, init=False)
    _idling: float = field(default=0.0, init=False)

    def adjust(self) -> None:
        """Look at what became of the last interval."""
        self._idling += SMOOTHING * (min(1.0, self.idle_ns / INTERVAL_NS) - self._idling)
        arrived, lost = self.arrived, self.lost
        if self.hopeless < arrived / 2:
            arrived, lost = arrived - self.hopeless, lost - self.hopeless_lost
        self._losing += SMOOTHING * (lost / max(1, arrived) - self._losing)
        if self._losing > TARGET and self._idling < IDLE:
            lower = LOWER * (self._losing - TARGET) + LEAST_LOWER
            self.asked = max(LEAST, self.asked * (1 - min(MOST_LOWER, lower)))
        elif self._losing < TARGET / 2 or self._idling >= IDLE:
            self.asked = min(1.0, self.asked + RAISE)
        self.arrived = self.lost = self.hopeless = self.hopeless_lost = self.idle_ns = 0


@define(eq=False)
class Shedding:
    """All gates. Only firm requests count and are shed: a soft one is served late instead.

    Args:
        group_of: Says which group of models that share workers a model is in.
    """

    group_of: Callable[[ModelRef], int]
    _gates: dict[ModelRef, Gate] = field(factory=dict[ModelRef, Gate], init=False)
    _next_ns: int = field(default=0, init=False)
    _all_pass: bool = field(default=True, init=False)
    _calm: dict[int, bool] = field(factory=dict[int, bool], init=False)

    def passing(self, model: ModelRef) -> float:
        """Return what part of a model's traffic is let in."""
        if self._all_pass:
            return 1.0
        gate = self._gates.get(model)
        return gate.passing if gate else 1.0

    def refuses(self, request: Request, stream: Stream, now_ns: int) -> bool:
        """Return whether a firm request is to be refused on arrival."""
        model = request.lane.model
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = Gate()
        gate.arrived += 1
        gate.hopeless += stream.losing > HOPELESS
        if now_ns >= self._next_ns:
            self._adjust(now_ns)
        if request.tier == 0 or gate.passing >= 1:
            return False
        stream.credit += gate.passing
        if stream.credit >= 1:
            stream.credit -= 1
            return False
        return True

    def lost(self, model: ModelRef, stream: Stream) -> None:
        """Note that a firm request was let in and did not make its deadline."""
        stream.missed()
        gate = self._gates.get(model)
        if gate is not None:
            gate.lost += 1
            gate.hopeless_lost += stream.losing > HOPELESS

    def idled(self, model: ModelRef, idle_ns: int) -> None:
        """Note that a worker that hosts a model had nothing to do."""
        gate = self._gates.get(model)
        if gate is not None:
            gate.idle_ns += idle_ns

    def is_calm(self, model: ModelRef) -> bool:
        """Return whether hardly anybody is refused of the models that share workers with this."""
        return self._all_pass or self._calm.get(self.group_of(model), True)

    def _adjust(self, now_ns: int) -> None:
        self._next_ns = now_ns + INTERVAL_NS
        least: dict[int, float] = {}
        for model, gate in list(self._gates.items()):
            if not gate.arrived and gate.asked >= 1:
                del self._gates[model]
                continue
            gate.adjust()
            group = self.group_of(model)
            least[group] = min(gate.asked, least.get(group, 1.0))
        for model, gate in self._gates.items():
            gate.passing = min(gate.asked, least[self.group_of(model)] + APART)
        self._all_pass = all(gate.passing >= 1 for gate in self._gates.values())
        self._calm = {group: asked > CALM for group, asked in least.items()}
