"""What one robot writes down: how long answers took, and how often there was none in time."""

from __future__ import annotations

from attrs import define, field, frozen
from hdrh.histogram import HdrHistogram

from appliance.errors import Outcome

MAX_LATENCY_US = 60_000_000
SIGNIFICANT_DIGITS = 3


@frozen
class Pending:
    """An observation that waits for its answer.

    Attributes:
        captured_ns: When it was due, by the robot's clock.
        deadline_ns: When its answer is too late for the robot.
        tick: The robot's period it belongs to.
    """

    captured_ns: int
    deadline_ns: int
    tick: int


def new_histogram() -> HdrHistogram:
    """Return an empty histogram of latencies in microseconds."""
    return HdrHistogram(1, MAX_LATENCY_US, SIGNIFICANT_DIGITS)


@define(eq=False)
class Book:
    """One robot's record. Bounded: the SDK's window limits what can be pending.

    Latency runs from the moment the observation was due, not from the moment it was sent, so a
    stall that delays the asking is not hidden. A miss is an observation without an OK by its
    deadline: a refusal, a late answer, none at all, or not even asked.

    Attributes:
        keeps_all: Every answer will come; otherwise only the newest observation's.
        held_back: Observations that the SDK's window refused to ask.
    """

    keeps_all: bool
    histogram: HdrHistogram = field(factory=new_histogram, init=False)
    asked: int = field(default=0, init=False)
    held_back: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    in_time: int = field(default=0, init=False)
    _pending: dict[int, Pending] = field(factory=dict[int, Pending], init=False)

    @property
    def misses(self) -> int:
        """Observations without an answer in time; those still waiting are not in it."""
        return self.asked + self.held_back - self.in_time - len(self._pending)

    def ask(self, sequence: int, pending: Pending) -> None:
        """Write down an observation."""
        if not self.keeps_all:
            self._pending.clear()
        self._pending[sequence] = pending
        self.asked += 1

    def end(self, sequence: int, outcome: Outcome, now_ns: int) -> Pending | None:
        """Write down what became of an observation; return it if it was answered."""
        pending = self._pending.pop(sequence, None)
        if pending is None or outcome is not Outcome.OK:
            return None
        self.answered += 1
        self.in_time += now_ns <= pending.deadline_ns
        latency_us = (now_ns - pending.captured_ns) // 1000
        self.histogram.record_value(min(max(1, latency_us), MAX_LATENCY_US))
        return pending

    def percentile_ms(self, percentile: float) -> float:
        """Return a percentile of the latency in milliseconds; 0 before the first answer."""
        return self.histogram.get_value_at_percentile(percentile) / 1000
