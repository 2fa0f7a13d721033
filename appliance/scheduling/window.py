"""The best batch of one lane that starts at a given time: a window of its line. Pure functions.

A line is sorted by deadline. A batch is some of it side by side, and must be over by the deadline
of the first: so a tight head keeps the batch small, and where the head costs more than it is worth,
leaving it out pays (Symphony, 2023, calls that a window drop).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from appliance.values import value


@value
class Window:
    """Of a line, `count` requests after the first `skip`, and the first that are in time alone.

    Attributes:
        worth: The values of the requests in it.
        head: How many could run if none were skipped that is still in time.
        first: The first that is in time if it starts alone.
    """

    skip: int
    count: int
    worth: float
    head: int
    first: int


NOTHING = Window(0, 0, 0.0, 0, 0)


def best_window(
    deadlines_ns: Sequence[int],
    values: Sequence[float] | None,
    times_ns: Sequence[int],
    start_ns: int,
) -> Window:
    """Return the most valuable batch that starts at `start_ns` and makes nobody in it late.

    Args:
        deadlines_ns: Sorted.
        values: What answering each in time is worth; None: 1.
        times_ns: Planned time by batch size up to the largest, never decreasing; index 0 is 0.
    """
    skip, count, head, first = _find(deadlines_ns, values, times_ns, start_ns)
    if not count:
        return NOTHING
    return Window(skip, count, _worth(values, skip, count), head, first)


def best_worth(
    deadlines_ns: Sequence[int],
    values: Sequence[float] | None,
    times_ns: Sequence[int],
    start_ns: int,
) -> float:
    """Return what `best_window` would be worth."""
    skip, count, _, _ = _find(deadlines_ns, values, times_ns, start_ns)
    return count if values is None else _worth(values, skip, count)


def _worth(values: Sequence[float] | None, skip: int, count: int) -> float:
    return float(count) if values is None else sum(values[skip : skip + count])


def _find(
    deadlines_ns: Sequence[int],
    values: Sequence[float] | None,
    times_ns: Sequence[int],
    start_ns: int,
) -> tuple[int, int, int, int]:
    """Return `skip`, `count`, `head` and `first` of a `Window`; a count of 0: there is none."""
    waiting = len(deadlines_ns)
    first = bisect_left(deadlines_ns, start_ns + times_ns[1])
    if first == waiting:
        return 0, 0, 0, 0
    most = len(times_ns) - 1
    skip = first
    head = bisect_right(times_ns, deadlines_ns[first] - start_ns) - 1
    head = min(head, waiting - first)
    count = head
    index = first + 1
    if values is not None:
        before = list(accumulate(values, initial=0.0))  # what those before each are worth
        best = before[skip + count] - before[skip]
        for index in range(first + 1, waiting):
            fits = min(bisect_right(times_ns, deadlines_ns[index] - start_ns) - 1, waiting - index)
            worth = before[index + fits] - before[index]
            if worth > best:
                skip, count, best = index, fits, worth
        return skip, count, head, first
    while count < most and index + count < waiting:
        fits = bisect_right(times_ns, deadlines_ns[index] - start_ns) - 1
        if fits > count:
            skip, count = index, min(fits, waiting - index)
        index += 1
    return skip, count, head, first
