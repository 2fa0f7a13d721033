"""What strategies share: who could run, who may ride in a batch. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from appliance.scheduling.choice import FOREVER_NS, Contender
from appliance.scheduling.events import Request


def can_run(request: Request, one: Contender, start_ns: int) -> bool:
    """Return whether a request of a lane may be started, alone: a firm one only in time."""
    return not request.firm or start_ns + one.switch_ns + one.times_ns[1] <= request.deadline_ns


def ordinary(one: Contender, start_ns: int) -> Iterator[Request]:
    """Return who could run, but for those that exceed what their clients said they would send.

    Those of `line.background` run where nobody else would.
    """
    line = one.line
    for request in chain(line.first, line.timely, line.yielding):
        if can_run(request, one, start_ns):
            yield request


def batch_of(
    one: Contender, riders: Iterable[Request], start_ns: int, most: int | None = None
) -> list[Request]:
    """Return a batch out of `riders`, best first, that makes nobody in it late.

    Who is late anyway, or has run dry, rides where there is room; a firm one only in time.

    Args:
        riders: Of one lane.
        most: Fewer than the lane's largest batch.
    """
    begins_ns = start_ns + one.switch_ns
    alone_ns = begins_ns + one.times_ns[1]
    most = one.most if most is None else min(most, one.most)
    limit_ns = FOREVER_NS
    members: list[Request] = []
    for request in riders:
        if len(members) == most:
            break
        finish_ns = begins_ns + one.times_ns[len(members) + 1]
        if finish_ns > limit_ns:
            break
        if request.firm or (not request.dry and request.deadline_ns >= alone_ns):
            if finish_ns > request.deadline_ns:
                continue
            limit_ns = min(limit_ns, request.deadline_ns)
        members.append(request)
    return members


def background_of(
    contenders: Iterable[Contender], start_ns: int
) -> tuple[Contender, Request] | None:
    """Return whom to run when nobody else waits: who came first."""
    waiting = [
        (request.arrived_ns, request.id, one, request)
        for one in contenders
        for request in one.line.background
        if can_run(request, one, start_ns)
    ]
    return min(waiting, key=lambda each: each[:2])[2:] if waiting else None
