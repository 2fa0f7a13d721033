"""Who is late if a worker serves what waits in the order of deadlines. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from appliance.scheduling.choice import Contender

ENOUGH = 3
"""More lost than this need not be counted."""


def lost_in_order(
    waiting: Sequence[tuple[Contender, Sequence[int]]], running: Contender, free_ns: int
) -> int:
    """Return how many are late, at most `ENOUGH` + 1, if nobody else arrives.

    Each batch is of the lane with the earliest deadline, as large as that deadline allows.

    Args:
        waiting: Lanes and the deadlines in them, sorted; none is empty.
        running: What the worker does until it is free.
        free_ns: When that is.
    """
    lost = 0
    queues = [[deadlines_ns, 0, one] for one, deadlines_ns in waiting]
    last = running
    while queues:
        queue = queues[0]
        if len(queues) > 1:
            queue = min(queues, key=_head)
        deadlines_ns, position, one = queue
        switch_ns = 0 if one is last else one.usual_switch_ns
        left_ns = deadlines_ns[position] - free_ns - switch_ns
        fits = bisect_right(one.times_ns, left_ns) - 1 if left_ns > 0 else 0
        if fits == 0:
            lost += 1
            fits = 1
            if lost > ENOUGH:
                return lost
        else:
            fits = min(fits, len(deadlines_ns) - position)
            free_ns += one.times_ns[fits] + switch_ns
            last = one
        queue[1] = position + fits
        if position + fits >= len(deadlines_ns):
            queues.remove(queue)
    return lost


def _head(queue: list) -> int:
    return queue[0][queue[1]]
