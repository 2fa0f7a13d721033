"""Who is late if a worker serves what waits in the order of deadlines. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from attrs import define

from appliance.scheduling.choice import Contender

ENOUGH = 3
"""More lost than this need not be counted."""


@define(eq=False)
class _Queue:
    """What waits in one lane: deadlines, sorted; `next_ns` is that of the first not served yet."""

    one: Contender
    deadlines_ns: Sequence[int]
    next_ns: int
    position: int = 0


def lost_in_order(
    waiting: Iterable[tuple[Contender, Sequence[int]]], running: Contender, free_ns: int
) -> int:
    """Return how many are late, at most `ENOUGH` + 1, if nobody else arrives.

    Each batch is of the lane with the earliest deadline, as large as that deadline allows.

    Args:
        waiting: Lanes and the deadlines in them, sorted; none is empty.
        running: What the worker does until it is free.
        free_ns: When that is.
    """
    lost = 0
    queues = [_Queue(one, deadlines_ns, deadlines_ns[0]) for one, deadlines_ns in waiting]
    last = running
    while queues:
        queue = queues[0] if len(queues) == 1 else min(queues, key=_next_ns)
        one = queue.one
        switch_ns = 0 if one is last else one.usual_switch_ns
        count = bisect_right(one.times_ns, queue.next_ns - free_ns - switch_ns) - 1
        if count <= 0:
            lost += 1
            if lost > ENOUGH:
                return lost
            queue.position += 1
        else:
            count = min(count, len(queue.deadlines_ns) - queue.position)
            free_ns += one.times_ns[count] + switch_ns
            last = one
            queue.position += count
        if queue.position == len(queue.deadlines_ns):
            queues.remove(queue)
        else:
            queue.next_ns = queue.deadlines_ns[queue.position]
    return lost


def _next_ns(queue: _Queue) -> int:
    return queue.next_ns
