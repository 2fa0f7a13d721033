"""What the network adds to an answer's time, as seen from here."""

from __future__ import annotations

from attrs import define, field

SMOOTHING = 8
"""Weight of the past, as in TCP's estimator; also how many bounds must agree to raise it."""


@define(eq=False)
class RoundTrip:
    """An estimate from exact samples and from upper bounds.

    A sample is exact if the caller was waiting when the answer came. A control loop that looks
    once a tick finds answers that have been lying there: such a sample is only an upper bound. It
    may lower the estimate at once, and raise it only when several in a row all say so.
    """

    estimate_ns: int | None = None
    _bounds: list[int] = field(factory=list[int])

    @property
    def estimate_us(self) -> int | None:
        """The estimate, microseconds."""
        return None if self.estimate_ns is None else self.estimate_ns // 1000

    def measured(self, sample_ns: int) -> None:
        """Take an exact sample."""
        self._bounds.clear()
        if self.estimate_ns is None:
            self.estimate_ns = sample_ns
        else:
            self.estimate_ns += (sample_ns - self.estimate_ns) // SMOOTHING

    def at_most(self, sample_ns: int) -> None:
        """Take an upper bound."""
        if self.estimate_ns is None or sample_ns <= self.estimate_ns:
            self.estimate_ns = sample_ns
            self._bounds.clear()
            return
        self._bounds.append(sample_ns)
        if len(self._bounds) == SMOOTHING:
            self.estimate_ns = min(self._bounds)
            self._bounds.clear()
