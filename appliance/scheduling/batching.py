"""The choice of the next batch for one worker: which lane, how many rows. A pure function.

Earliest deadline first (within tiers) picks the lane, by its best request. Then the batch grows,
in rank order, while that makes no member late that would be in time alone, and takes no firm
request of another lane its last chance. A soft request that is late anyway steps back behind a
firm one that can still be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from attrs import frozen

from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.queues import Line

Time = Callable[[ModelRef, int], int]
"""Planned execution time, nanoseconds, of a batch: (model, batch size)."""


@frozen
class Choice:
    """Run the best `size` requests of `lane`."""

    lane: Lane
    size: int


def choose(
    lines: Sequence[tuple[Lane, Line]],
    max_batch: Mapping[ModelRef, int],
    time_ns: Time,
    start_ns: int,
) -> Choice | None:
    """Return what a worker that is free at `start_ns` should run, or None if nothing waits.

    Args:
        lines: The non-empty lines this worker may serve.
        max_batch: Largest batch of each model.
        time_ns: Planned execution times.
        start_ns: Monotonic nanoseconds.
    """
    if not lines:
        return None
    lane, line = min(lines, key=lambda pair: pair[1].head[0])
    if len(lines) > 1 and _is_late(lane, line.head[1], time_ns, start_ns):
        lane, line = _saved_first(lines, lane, line, time_ns, start_ns)
    latest_finish_ns = _latest_finish_ns(lines, lane, time_ns, start_ns)
    size = _size(line, lane.model, max_batch, time_ns, start_ns, latest_finish_ns)
    return Choice(lane, size) if size else None


def _is_late(lane: Lane, request: Request, time_ns: Time, start_ns: int) -> bool:
    finish_ns = start_ns + time_ns(lane.model, 1)
    return not request.firm and not request.dry and finish_ns > request.deadline_ns


def _saved_first(
    lines: Sequence[tuple[Lane, Line]], lane: Lane, line: Line, time_ns: Time, start_ns: int
) -> tuple[Lane, Line]:
    """Return a lane whose firm head would be lost if the late `lane` went first, else `lane`."""
    busy_until_ns = start_ns + time_ns(lane.model, 1)
    for other_lane, other in sorted(lines, key=lambda pair: pair[1].head[0]):
        head = other.head[1]
        time = time_ns(other_lane.model, 1)
        in_time_now = head.firm and start_ns + time <= head.deadline_ns
        if in_time_now and busy_until_ns + time > head.deadline_ns:
            return other_lane, other
    return lane, line


def _latest_finish_ns(
    lines: Sequence[tuple[Lane, Line]], chosen: Lane, time_ns: Time, start_ns: int
) -> int | None:
    """Return when the worker must be free again for the firm heads of the other lanes."""
    latest: int | None = None
    alone_ns = start_ns + time_ns(chosen.model, 1)
    for lane, line in lines:
        head = line.head[1]
        if lane is chosen or not head.firm:
            continue
        last_start_ns = head.deadline_ns - time_ns(lane.model, 1)
        if last_start_ns >= alone_ns and (latest is None or last_start_ns < latest):
            latest = last_start_ns
    return latest


def _size(
    line: Line,
    model: ModelRef,
    max_batch: Mapping[ModelRef, int],
    time_ns: Time,
    start_ns: int,
    latest_finish_ns: int | None,
) -> int:
    """Grow the batch in rank order while nobody is made late by it."""
    alone_ns = start_ns + time_ns(model, 1)
    size = 0
    for request in islice(line, max_batch[model]):
        if request.firm and request.deadline_ns < alone_ns:
            break  # never started to be late
        finish_ns = start_ns + time_ns(model, size + 1)
        if request.firm or request.deadline_ns >= alone_ns:
            limit = request.deadline_ns
            latest_finish_ns = limit if latest_finish_ns is None else min(latest_finish_ns, limit)
        if size and latest_finish_ns is not None and finish_ns > latest_finish_ns:
            break
        size += 1
    return size
