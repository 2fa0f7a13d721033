"""The control loop's rhythm: absolute instants, so that nothing drifts. PURE."""

from __future__ import annotations

from attrs import define, field, frozen
from attrs.validators import and_, gt, le

SECOND_NS = 1_000_000_000


@frozen
class Tick:
    """One turn of a control loop.

    Attributes:
        time_ns: When it was to begin (`time.monotonic_ns`): what observations and actions are
            aligned to.
        number: Counted from the loop's start; skipped ones count.
        late_ns: How much later it did begin.
        missed: Ticks skipped just before it, because the loop took too long.
    """

    time_ns: int
    number: int
    late_ns: int = 0
    missed: int = 0


Instant = Tick | int
"""A tick, or `time.monotonic_ns()`."""


def instant_ns(instant: Instant) -> int:
    """Return the time of an instant."""
    return instant if isinstance(instant, int) else instant.time_ns


@define(eq=False)
class Ticker:
    """Instants `start_ns + number / hz`.

    Raises:
        ValueError: `hz` is not above 0, or above a million.
    """

    start_ns: int
    hz: float = field(validator=and_(gt(0), le(1e6)))
    _number: int = 0

    @property
    def next_ns(self) -> int:
        """When the next tick is to begin."""
        return self._at(self._number)

    def tick(self, now_ns: int) -> Tick:
        """Begin the next tick; if it is over already, the one that `now_ns` lies in.

        Args:
            now_ns: Not before `next_ns`.
        """
        wanted = self._number
        number = max(wanted, int((now_ns - self.start_ns) * self.hz / SECOND_NS))
        while number > wanted and self._at(number) > now_ns:  # the division was rounded
            number -= 1
        self._number = number + 1
        time_ns = self._at(number)
        return Tick(time_ns, number, max(0, now_ns - time_ns), number - wanted)

    def _at(self, number: int) -> int:
        return self.start_ns + round(number * SECOND_NS / self.hz)
