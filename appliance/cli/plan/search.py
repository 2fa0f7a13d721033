"""Which fleet sizes are simulated, and the largest that is served well enough. Pure.

More robots are not served better, so the largest fleet is found by bisection below the smallest
that was not served well enough. Where luck decides, at the edge, that errs on the safe side: a
larger fleet that happened to do well does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Of the fleets around the described one."""

FINENESS = 100
"""The largest fleet is found to a robot, or to a hundredth of itself."""


@frozen
class Largest:
    """The largest fleet that is served well enough.

    Attributes:
        robots: 0: not even one robot is.
        is_bound: Larger ones were not looked at; they may do as well.
    """

    robots: int
    is_bound: bool = False


def sizes_around(size: int) -> list[int]:
    """Return the sizes of the fleets around one of `size` robots, and its own, ascending."""
    return sorted({max(1, round(scale * size)) for scale in SCALES})


def find_largest(
    known: Mapping[int, bool], is_enough: Callable[[int], bool], limit: int
) -> Largest:
    """Find the largest fleet that is served well enough.

    Args:
        known: Sizes that were looked at already, and whether they are.
        is_enough: Looks at another one.
        limit: The largest that may be looked at.
    """
    good, bad = 0, None
    for size in sorted(known):
        if not known[size]:
            bad = size
            break
        good = size
    while bad is None:
        if good >= limit:
            return Largest(good, is_bound=True)
        size = min(2 * good, limit)
        if is_enough(size):
            good = size
        else:
            bad = size
    while bad - good > max(1, good // FINENESS):
        middle = (good + bad) // 2
        if is_enough(middle):
            good = middle
        else:
            bad = middle
    return Largest(good)
