"""By how much each robot had better observe later or earlier, so that they do not come together.

Zero-sum: who waited longer than the mean is advised to come later, who waited less earlier, so
that nobody's rate changes in the long run, and all together drift towards arriving when they are
served. A leak lets no stream drift for ever. No source is known for advice of this kind.
"""

from __future__ import annotations

from attrs import define, field

from appliance.scheduling.streams import Stream

GAIN = 0.15
LEAK = 0.01
MEAN_GAIN = 0.005
LARGEST = 0.08
"""Of the period, at once."""

SMALLEST_NS = 300_000
CONFIDENCE = 6
FIRST_MEAN_NS = 3_000_000


@define(eq=False)
class PhaseAdvice:
    """See the module's docstring.

    Attributes:
        mean_wait_ns: Of all that is started, from arrival to start.
    """

    mean_wait_ns: float = field(default=FIRST_MEAN_NS, init=False)

    def started(self, stream: Stream, wait_ns: int) -> None:
        """Take in that an observation of a stream was started after `wait_ns`."""
        stream.wait_ns = wait_ns
        self.mean_wait_ns += MEAN_GAIN * (wait_ns - self.mean_wait_ns)

    def of(self, stream: Stream) -> int:
        """Return the advice for a stream that was just answered, nanoseconds; 0: none."""
        cadence = stream.cadence
        if cadence.confidence < CONFIDENCE or stream.wait_ns < 0:
            return 0
        early_ns = stream.wait_ns - self.mean_wait_ns - LEAK * stream.advised_ns
        if abs(early_ns) < SMALLEST_NS:
            return 0
        most_ns = LARGEST * cadence.period_ns
        return int(max(-most_ns, min(most_ns, GAIN * early_ns)))
