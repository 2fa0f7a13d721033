"""How often a robot observes, by its own word and by what the configuration allows it."""

from __future__ import annotations

from math import ceil

MICROSECOND_NS = 1000
SECOND_NS = 1_000_000_000
SHORTEST_US = 1_000
LONGEST_US = 60_000_000
"""A declared period that is shorter or longer is no robot's cadence, and says nothing."""


def shortest_period_ns(rate_hz: float) -> int:
    """Return what lies between two observations at least, at so many a second; 0: no limit."""
    return ceil(SECOND_NS / rate_hz) if rate_hz else 0


def period_of(declared_us: int | None, shortest_ns: int) -> int:
    """Return the period that the scheduler may count on, nanoseconds; 0: it is not known.

    `sessions.fastpath.form` has the same rule.

    Args:
        declared_us: What the client says; None or absurd is nothing.
        shortest_ns: What its rate limit leaves: who comes more often is refused.
    """
    if declared_us is None or not SHORTEST_US <= declared_us <= LONGEST_US:
        return 0
    return max(declared_us * MICROSECOND_NS, shortest_ns)
