"""What a worker does while its device computes: how it waits, and whether it gathers. PURE.

Spinning sees the end of a batch some microseconds after it came, and takes a core; sleeping takes
none, and some tens of microseconds. So batches of less than a millisecond are spun for. Of a longer
one the control socket is listened to until the end is near; then the device is waited for, asleep.

Gathering the next batch meanwhile is what keeps a device busy. But the answers of the batch that
runs wait for it: so it is done where it is likely to be over first.
"""

from __future__ import annotations

from attrs import define, field

SPIN_BELOW_NS = 1_000_000
SPIN_AT_MOST_NS = 20_000_000
"""A batch that takes that much longer than it should is waited for asleep: it may never end."""
NEAR_NS = 250_000
"""Before its end: from then on only the device is waited for."""
LISTEN_AT_LEAST_NS, LISTEN_PART = 50_000, 8
GATHER_WEIGHT = 0.25


def spins(expected_ns: int, elapsed_ns: int) -> bool:
    """Return whether to ask again and again, instead of sleeping."""
    return expected_ns < SPIN_BELOW_NS and elapsed_ns < SPIN_AT_MOST_NS


def listen_ns(expected_ns: int, elapsed_ns: int) -> int:
    """Return how long to sleep at the control socket, before the device is asked again; 0: not.

    What is expected was measured with all that the CPU does for a batch, so the device may be done
    much sooner: that is noticed when an eighth more of its time has gone.
    """
    slice_ns = LISTEN_AT_LEAST_NS + elapsed_ns // LISTEN_PART
    return min(max(0, expected_ns - NEAR_NS - elapsed_ns), slice_ns)


@define(eq=False)
class GatherPace:
    """How long gathering takes, by model, as seen lately."""

    _row_ns: dict[int, float] = field(factory=dict[int, float], init=False)

    def saw(self, model: int, rows: int, took_ns: int) -> None:
        """Learn of one batch."""
        seen = took_ns / max(rows, 1)
        before = self._row_ns.get(model, seen)
        self._row_ns[model] = before + GATHER_WEIGHT * (seen - before)

    def fits(self, model: int, rows: int, remaining_ns: int) -> bool:
        """Return whether gathering is likely to be over before a batch is that runs.

        Args:
            remaining_ns: Of the batch that runs. Of a model not seen yet, gathering takes no time.
        """
        return self._row_ns.get(model, 0.0) * rows <= max(remaining_ns, 0)
