"""The rhythm of one client's observations for one model: a phase-locked loop over arrivals.

A digital PLL (Gardner, *Phaselock Techniques*): the error of each predicted arrival corrects the
phase by a part, and the period by a small part, of it. What does not fit in (a burst, a pause)
moves nothing. Where the median of the latest intervals says that the rate is another one, the loop
starts anew from it.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field

PHASE_GAIN = 0.3
PERIOD_GAIN = 0.05
FIRST_PERIOD_GAIN = 0.3
JITTER_GAIN = 0.05

LOCK = 0.35
"""An arrival that is off by more than this part of the period does not belong to the rhythm."""

CONFIDENT = 4
"""So many arrivals in a row that fit, and the next one is predicted."""

MOST_CONFIDENT = 16
LATEST = 8
"""Intervals of which the median is looked at: what is lost or comes in between does not move it."""

OFF, OFF_IN_A_ROW = 0.2, 4
"""So often has the median to be off by this part of the period: then the rhythm is another."""

MISSED = 8
"""After a longer gap, in periods, the phase is not worth anything any more."""

LOST_PERIODS = 10
LOST_NS = 1_000_000_000
SHORTEST_NS = 100_000
"""No rhythm is faster: 10 kHz."""


@define(eq=False)
class Cadence:
    """See the module's docstring. An identity: it learns.

    Attributes:
        period_ns: Between two observations; 0 while unknown.
        next_ns: When the next one is expected to arrive.
        jitter_ns: Mean deviation of an arrival from when it was expected.
        last_ns: The latest arrival; -1: none.
        confidence: Arrivals in a row that fitted, at most `MOST_CONFIDENT`.
    """

    period_ns: int = 0
    next_ns: int = field(default=0, init=False)
    jitter_ns: int = field(default=0, init=False)
    last_ns: int = field(default=-1, init=False)
    confidence: int = field(default=0, init=False)
    _shift_ns: int = field(default=0, init=False)
    _off: int = field(default=0, init=False)
    _intervals_ns: deque[int] = field(factory=lambda: deque(maxlen=LATEST), init=False)

    @property
    def is_confident(self) -> bool:
        """Whether `next_ns` is worth something."""
        return self.confidence >= CONFIDENT

    def arrived(self, now_ns: int) -> int:
        """Take in an arrival.

        Returns:
            How much longer its interval was than the period; 0 if it does not fit in.
        """
        last_ns, self.last_ns = self.last_ns, now_ns
        if last_ns < 0:
            self.next_ns = now_ns + self.period_ns
            return 0
        elapsed_ns = now_ns - last_ns
        self._intervals_ns.append(elapsed_ns)
        period_ns = self.period_ns
        if not period_ns:
            self._start(now_ns, elapsed_ns)
            return 0
        error_ns = now_ns - self.next_ns
        missed = 0
        if error_ns > LOCK * period_ns:
            missed = (error_ns + period_ns // 2) // period_ns
            error_ns -= missed * period_ns
        if self._has_changed():
            self._start(now_ns, self._median_ns())
        elif missed > MISSED:
            self._resume(now_ns)
        elif abs(error_ns) > LOCK * period_ns:
            self._stranger(now_ns)
        else:
            deviation_ns = elapsed_ns - (missed + 1) * period_ns
            self._fits(now_ns, error_ns, deviation_ns // (missed + 1))
            return deviation_ns
        return 0

    def _median_ns(self) -> int:
        return sorted(self._intervals_ns)[len(self._intervals_ns) // 2]

    def _has_changed(self) -> bool:
        """Return whether the latest intervals say that the rate is another one."""
        is_off = (
            len(self._intervals_ns) == LATEST
            and abs(self._median_ns() - self.period_ns) > OFF * self.period_ns
        )
        self._off = self._off + 1 if is_off else 0
        return self._off >= OFF_IN_A_ROW

    def _fits(self, now_ns: int, error_ns: int, deviation_ns: int) -> None:
        known = self.confidence >= CONFIDENT
        gain = PERIOD_GAIN if self.confidence >= 2 * CONFIDENT else FIRST_PERIOD_GAIN
        self.period_ns += int(gain * (deviation_ns - self._shift_ns))
        self.period_ns = max(SHORTEST_NS, self.period_ns)
        # Of a rhythm that is not known well, the phase is that of the latest arrival.
        kept_ns = int((1 - PHASE_GAIN) * error_ns) if known else 0
        self.jitter_ns += int(JITTER_GAIN * (abs(error_ns) - self.jitter_ns))
        self.next_ns = now_ns - kept_ns + self.period_ns
        self._shift_ns = 0
        if self.confidence < MOST_CONFIDENT:
            self.confidence += 1

    def _stranger(self, now_ns: int) -> None:
        """Something came that is not of this rhythm: it stays."""
        self.confidence = max(0, self.confidence - 1)
        if self.next_ns < now_ns:
            self.next_ns += -((self.next_ns - now_ns) // self.period_ns) * self.period_ns

    def _resume(self, now_ns: int) -> None:
        """After a pause, the period is what it was and the phase another one."""
        self.confidence //= 2
        self.next_ns = now_ns + self.period_ns
        self._shift_ns = 0

    def _start(self, now_ns: int, period_ns: int) -> None:
        self.period_ns = max(SHORTEST_NS, period_ns)
        self.next_ns = now_ns + self.period_ns
        self.jitter_ns = self.period_ns // 16
        self.confidence = self._shift_ns = 0

    def shift(self, by_ns: int) -> None:
        """Expect the next arrival that much later, without taking that for its period."""
        self.next_ns += by_ns
        self._shift_ns += by_ns

    def expected(self) -> tuple[int, int]:
        """Return when the next arrival is expected, from and until."""
        wide_ns = 3 * self.jitter_ns
        return self.next_ns - wide_ns, self.next_ns + wide_ns

    def is_overdue(self, now_ns: int) -> bool:
        """Return whether an arrival that was expected has not come."""
        margin_ns = max(4 * self.jitter_ns, self.period_ns // 2)
        return self.is_confident and now_ns > self.next_ns + margin_ns

    def is_lost(self, now_ns: int) -> bool:
        """Return whether so much is missing that nothing is expected any more."""
        return now_ns - self.last_ns > max(LOST_PERIODS * self.period_ns, LOST_NS)
