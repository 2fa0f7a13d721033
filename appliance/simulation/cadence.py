"""When a robot observes next: periodically, with drift and jitter, shifted by phase advice."""

from __future__ import annotations

from random import Random

from attrs import define, field

from appliance.simulation.fleet import RobotClass

NEVER_NS = -(1 << 62)
"""Between a capture and the plan of the next one, none is due."""


@define(eq=False, kw_only=True)
class Cadence:
    """The instants at which one robot observes.

    `plan` draws the next one, `captured` takes it; between the two, advice still moves it. In one
    cycle it moves by no more than the class's `slew`; the rest follows in the next cycles, until
    other advice comes.

    Attributes:
        due_ns: The next capture, or `NEVER_NS`.
    """

    kind: RobotClass
    period_ns: int
    next_ns: int
    due_ns: int = NEVER_NS
    _jitter_ns: int = field(default=0, init=False)
    _owed_ns: int = field(default=0, init=False)
    _slewed_ns: int = field(default=0, init=False)

    @classmethod
    def begin(cls, kind: RobotClass, random: Random) -> Cadence:
        """Draw a phase and the error of a clock."""
        phase = 0.0 if kind.in_phase else random.random()
        drift = random.uniform(-kind.drift, kind.drift)
        return cls(
            kind=kind,
            period_ns=round(kind.period_ns * (1 + drift)),
            next_ns=round(phase * kind.period_ns),
        )

    def plan(self, random: Random) -> None:
        """Draw the jitter of the next capture and set `due_ns`."""
        self._slewed_ns = 0
        self._slew()
        self._jitter_ns = round(random.gauss(0, self.kind.jitter_ns))
        self.due_ns = self.next_ns + self._jitter_ns

    def captured(self) -> None:
        """Take the capture that was due."""
        self.due_ns = NEVER_NS
        self.next_ns += self.period_ns

    def restart(self, now_ns: int) -> None:
        """Observe now, and periodically from here on."""
        self.next_ns = self.due_ns = now_ns
        self._owed_ns = 0

    def advised(self, advice_ns: int, now_ns: int) -> None:
        """Observe so much later from now on; earlier, if negative. Never before `now_ns`."""
        self._owed_ns = advice_ns
        if self.due_ns != NEVER_NS:
            self._slew()
            self.due_ns = max(now_ns, self.next_ns + self._jitter_ns)

    def _slew(self) -> None:
        limit_ns = int(self.kind.slew * self.period_ns)
        shift_ns = max(-limit_ns - self._slewed_ns, min(limit_ns - self._slewed_ns, self._owed_ns))
        self._slewed_ns += shift_ns
        self._owed_ns -= shift_ns
        self.next_ns += shift_ns
