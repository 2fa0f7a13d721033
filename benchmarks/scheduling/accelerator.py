"""The stand-in for an accelerator: busy for so long, to the microsecond. Standard library only.

Its text becomes a part of each model (`real.py`), and the peer's server imports it, so that what
both wait for is the same.
"""

from __future__ import annotations

import time

SPIN_NS = 200_000
"""The last of it is spun: a sleep may take so much longer."""


def occupy(busy_ns: int) -> None:
    """Return after `busy_ns`."""
    end_ns = time.monotonic_ns() + busy_ns
    if busy_ns > SPIN_NS:
        time.sleep((busy_ns - SPIN_NS) / 1e9)
    while time.monotonic_ns() < end_ns:
        pass
