"""The choice of the next batch for one worker: which lane, which requests. Pure functions.

Earliest deadline first (within tiers) picks the lane, by its best request. Then the batch grows,
in rank order, while that makes no member late that would be in time alone, and takes no firm
request of another lane its last chance. A soft request that is late anyway steps back behind a
firm one that can still be saved, in its own lane too. A firm request that this worker could only
answer late is passed over: another worker may be in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from appliance.scheduling.events import Lane, ModelRef, Rank, Request
from appliance.scheduling.room import Line
from appliance.values import value

Time = Callable[[ModelRef, int], int]
"""Planned execution time, nanoseconds, of a batch: (model, batch size)."""

FOREVER_NS = 1 << 63

_Candidate = tuple[Request, Lane, Line]


@value
class Choice:
    """Run these requests of `lane`; at least one."""

    lane: Lane
    requests: list[Request]


def choose(
    lines: Sequence[tuple[Lane, Line]],
    max_batch: Mapping[ModelRef, int],
    time_ns: Time,
    start_ns: int,
) -> Choice | None:
    """Return what a worker that is free at `start_ns` should run, or None if there is nothing.

    Args:
        lines: The non-empty lines this worker may serve.
        max_batch: Largest batch of each model.
        time_ns: Planned execution times.
        start_ns: Monotonic nanoseconds.
    """
    if len(lines) == 1 and len(lines[0][1]) == 1:
        return _only(*lines[0], time_ns, start_ns)
    candidates = [best for lane, line in lines if (best := _best(lane, line, time_ns, start_ns))]
    if not candidates:
        return None
    lead, lane, line = min(candidates, key=_rank)
    if is_late(lead, start_ns + time_ns(lane.model, 1)):
        lead, lane, line = _saved_first(lines, lead, lane, line, time_ns, start_ns)
    limit_ns = _latest_finish_ns(lines, lane, time_ns, start_ns)
    requests = _grow(line, lead, lane.model, max_batch, time_ns, start_ns, limit_ns)
    return Choice(lane, requests)


def _only(lane: Lane, line: Line, time_ns: Time, start_ns: int) -> Choice | None:
    """Return what there is to choose where one request waits."""
    best = _best(lane, line, time_ns, start_ns)
    return Choice(lane, [best[0]]) if best else None


def is_late(request: Request, finish_ns: int) -> bool:
    """Return whether `request` is soft and, finished at `finish_ns`, late; a dry one never is."""
    return not request.firm and not request.dry and finish_ns > request.deadline_ns


def endangered(line: Line, time_ns: int, start_ns: int, busy_until_ns: int) -> Request | None:
    """Return the best firm request that is in time now, but not if it starts at `busy_until_ns`.

    Args:
        time_ns: Planned time of one request of this line.
    """
    if line.firm:
        for request in line:
            left_ns = request.deadline_ns - time_ns
            if request.firm and start_ns <= left_ns < busy_until_ns:
                return request
    return None


def _best(lane: Lane, line: Line, time_ns: Time, start_ns: int) -> _Candidate | None:
    """Return the best request of a line that is not a firm one out of time."""
    finish_ns = start_ns + time_ns(lane.model, 1)
    for request in line:
        if not request.firm or finish_ns <= request.deadline_ns:
            return request, lane, line
    return None


def _rank(candidate: _Candidate) -> Rank:
    return candidate[0].rank


def _saved_first(
    lines: Sequence[tuple[Lane, Line]],
    late: Request,
    late_lane: Lane,
    late_line: Line,
    time_ns: Time,
    start_ns: int,
) -> tuple[Request, Lane, Line]:
    """Return the best firm request that would be lost if `late` went first, else `late`."""
    busy_until_ns = start_ns + time_ns(late_lane.model, 1)
    saved: list[_Candidate] = []
    for lane, line in lines:
        found = endangered(line, time_ns(lane.model, 1), start_ns, busy_until_ns)
        if found is not None:
            saved.append((found, lane, line))
    if not saved:
        return late, late_lane, late_line
    return min(saved, key=_rank)


def _latest_finish_ns(
    lines: Sequence[tuple[Lane, Line]], chosen: Lane, time_ns: Time, start_ns: int
) -> int:
    """Return when the worker must be free again for the first firm request of each other lane."""
    latest_ns = FOREVER_NS
    alone_ns = start_ns + time_ns(chosen.model, 1)
    for lane, line in lines:
        if lane is chosen or not line.firm:
            continue
        first = next(request for request in line if request.firm)
        last_start_ns = first.deadline_ns - time_ns(lane.model, 1)
        if last_start_ns >= alone_ns:
            latest_ns = min(latest_ns, last_start_ns)
    return latest_ns


def _grow(
    line: Line,
    lead: Request,
    model: ModelRef,
    max_batch: Mapping[ModelRef, int],
    time_ns: Time,
    start_ns: int,
    limit_ns: int,
) -> list[Request]:
    """Add to `lead` in rank order while nobody is made late by it, up to `limit_ns`."""
    alone_ns = start_ns + time_ns(model, 1)
    if lead.deadline_ns >= alone_ns:
        limit_ns = min(limit_ns, lead.deadline_ns)
    members = [lead]
    for request in _companions(line, lead, alone_ns, max_batch[model] - 1):
        if request.deadline_ns >= alone_ns:
            limit_ns = min(limit_ns, request.deadline_ns)
        if start_ns + time_ns(model, len(members) + 1) > limit_ns:
            break
        members.append(request)
    return members


def _companions(line: Line, lead: Request, alone_ns: int, count: int) -> list[Request]:
    """Return who may ride with `lead`, best first: nobody firm whom that would answer late.

    Where firm requests wait, soft ones that are late anyway come last.
    """
    companions: list[Request] = []
    late: list[Request] = []
    for request in line:
        if len(companions) == count:
            break
        if request is lead or (request.firm and request.deadline_ns < alone_ns):
            continue
        if line.firm and is_late(request, alone_ns):
            late.append(request)
        else:
            companions.append(request)
    return companions + late[: count - len(companions)]
