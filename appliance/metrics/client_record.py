"""What is counted of one client, whichever door it comes through. Pure; time is passed in."""

from __future__ import annotations

from typing import TypedDict

from attrs import define, field

from appliance.errors import MISSES, Outcome

GAIN = 0.1
"""Weight of a new interval in the cadence's moving averages."""

_OK = Outcome.OK  # members are slow to find before Python 3.12


class Counted(TypedDict):
    """The part of a `status.Client` that a record gives."""

    cadence_hz: float | None
    jitter_ms: float | None
    answered: int
    late: int
    misses: int
    last_outcome: str | None
    slack_ms: float | None


@define(eq=False)
class ClientRecord:
    """See the module's docstring.

    Attributes:
        period_ns: Moving average of the time between its observations; 0 until there are two.
        jitter_ns: Moving average of the deviation from it.
        ended_count: Its requests that have an outcome.
        slack_us: Time that was left to the deadline at its last answer, negative if that was late;
            None: none yet.
    """

    period_ns: float = field(default=0.0, init=False)
    jitter_ns: float = field(default=0.0, init=False)
    ended_count: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    late: int = field(default=0, init=False)
    misses: int = field(default=0, init=False)
    last_outcome: Outcome | None = field(default=None, init=False)
    slack_us: int | None = field(default=None, init=False)

    def paced(self, interval_ns: int) -> None:
        """Take in the time between two of its observations."""
        if not self.period_ns:
            self.period_ns = interval_ns
            return
        deviation_ns = interval_ns - self.period_ns
        self.period_ns += GAIN * deviation_ns
        self.jitter_ns += GAIN * (abs(deviation_ns) - self.jitter_ns)

    def ended(self, outcome: Outcome, *, late: bool, slack_us: int = 0) -> None:
        """Take in how one of its requests ended; `late` and `slack_us` are of an answer."""
        self.ended_count += 1
        self.last_outcome = outcome
        if outcome is _OK:
            self.answered += 1
            self.late += late
            self.slack_us = slack_us
        elif outcome in MISSES:
            self.misses += 1

    def counted(self) -> Counted:
        """Return it as `GET /v1/clients` shows it."""
        return Counted(
            cadence_hz=round(1e9 / self.period_ns, 2) if self.period_ns else None,
            jitter_ms=round(self.jitter_ns / 1e6, 2) if self.period_ns else None,
            answered=self.answered,
            late=self.late,
            misses=self.misses,
            last_outcome=self.last_outcome.name if self.last_outcome else None,
            slack_ms=None if self.slack_us is None else round(self.slack_us / 1e3, 2),
        )
