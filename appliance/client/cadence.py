"""When to observe: once a period, at the phase that the appliance advises. PURE.

Advice says how much later than the observation it answers the next ones had better come (earlier,
if negative), so that they find the appliance free. It is taken up by the next instant, and those
after it follow; control ticks know nothing of it. What is smaller than a control tick adds up,
until the observation falls on another one.
"""

from __future__ import annotations

from numbers import Real

from attrs import define, field

from appliance.client.ticks import SECOND_NS, Tick

MICROSECOND_NS = 1000
LEAST_HZ, MOST_HZ = 1 / 86_400, 1e6


def period_ns_of(name: str, hz: float) -> int:
    """Return the time between two observations.

    Args:
        name: Of the option, for who reads the error.

    Raises:
        ValueError: `hz` is no number, or less than once a day, or more than a million.
    """
    if not isinstance(hz, Real) or not LEAST_HZ <= hz <= MOST_HZ:
        raise ValueError(
            f"{name} {hz!r}: observations a second are expected, from {LEAST_HZ:.3g} (one a day) "
            f"to {MOST_HZ:.0f}"
        )
    return round(SECOND_NS / float(hz))


@define(eq=False)
class Cadence:
    """The instants of a model's observations.

    Attributes:
        period_ns: Between two of them.
        latest: Sequence of the model's newest observation; 0 is none.
    """

    period_ns: int
    latest: int = 0
    _next_ns: int | None = field(default=None, init=False)
    _shift_ns: int = field(default=0, init=False)  # of the next instant
    _moved_ns: int = field(default=0, init=False)  # all shifts before
    _heard: int = field(init=False)
    _number: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._heard = self.latest

    # ------------------------------------------------------------------------------ instants

    def due_ns(self, now_ns: int) -> int:
        """Return the next instant; the first one is now."""
        return now_ns if self._next_ns is None else self._next_ns + self._shift_ns

    def observed(self, at_ns: int) -> None:
        """Go on to the next instant, for who observes at control ticks.

        The grid is that of the first one, whatever the jitter of this one. Whoever is off by a
        period or more has paused, and begins a new grid.
        """
        due_ns = self.due_ns(at_ns)
        if not -self.period_ns < at_ns - due_ns < self.period_ns:
            self.forget_advice()
            due_ns = at_ns
        self._go_on(due_ns)

    def begin(self, now_ns: int) -> Tick:
        """Return the instant that is due; if it is over already, the one that `now_ns` lies in.

        Args:
            now_ns: Not before `due_ns`.
        """
        due_ns = self.due_ns(now_ns)
        missed = max(0, now_ns - due_ns) // self.period_ns
        if missed:
            self.forget_advice()  # it was for the first of them
            due_ns = self.due_ns(now_ns)
            missed = (now_ns - due_ns) // self.period_ns
        time_ns = due_ns + missed * self.period_ns
        number = self._number + missed
        self._number = number + 1
        self._go_on(time_ns)
        return Tick(time_ns, number, now_ns - time_ns, missed)

    def _go_on(self, due_ns: int) -> None:
        self._moved_ns += self._shift_ns
        self._shift_ns = 0
        self._next_ns = due_ns + self.period_ns

    # -------------------------------------------------------------------------------- advice

    def asked(self, sequence: int) -> int:
        """Note an observation; return by how much its instant had been moved, for `answered`."""
        self.latest = sequence
        return self._moved_ns

    def answered(self, sequence: int, moved_ns: int, advice_us: int) -> None:
        """Move the next instant as the answer to an observation says, by half a period at most.

        What it was moved by since that observation is part of the advice. 0 says nothing, and so
        does the answer to an observation older than one that was answered.
        """
        if sequence <= self._heard:
            return
        self._heard = sequence
        if advice_us:
            most_ns = self.period_ns // 2
            shift_ns = advice_us * MICROSECOND_NS - (self._moved_ns - moved_ns)
            self._shift_ns = max(-most_ns, min(most_ns, shift_ns))

    def forget_advice(self) -> None:
        """Drop advice that was not taken up, and that on what was observed so far."""
        self._shift_ns = 0
        self._heard = self.latest
