"""The last seconds of batches, and of requests that ended without an answer. Always kept. Pure.

It is told of each batch when it is staged and when it is over, and of each request that ends other
than OK; an answered row costs two integers and a reference. What is over is kept as tuples of
strings, integers and bytes, at which Python's garbage collector stops looking.

Everything is bounded, and the oldest makes room: `SPAN_NS`, `MOST_BATCHES`, `MOST_ROWS`,
`MOST_ENDINGS`. In a flood of refusals, those of one client, model and outcome within one second are
kept one by one only as far as `EXACT`; the others are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from operator import attrgetter
from struct import pack, unpack_from
from typing import NamedTuple

from attrs import define, field, frozen

from appliance.dispatch.results import BatchResult
from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import Outcome
from appliance.scheduling.events import Batch, BatchDone, Request, WorkerRef
from appliance.values import value

SECOND_NS = 1_000_000_000
SPAN_NS = 30 * SECOND_NS

MOST_BATCHES = 32_768
MOST_ROWS = 131_072
"""About 350 bytes a batch and 24 a row: 15 MB at most."""

MOST_ENDINGS = 16_384
EXACT = 64
MOST_KINDS = 512
"""Clients, models and outcomes told apart within a second; what is more counts for no client."""

MESSAGE_CHARACTERS = 200
"""A longer message is cut."""

_CLIENT_GONE = int(Outcome.CLIENT_GONE)
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}  # a call of it is slow
_UNFINISHED: Outcome | None = None
_ANSWERED, _FAILED = Outcome.OK, Outcome.ENGINE_FAILED
_CLIENT: Callable[[Request], str] = attrgetter("client")
_ARRIVED_NS: Callable[[Request], int] = attrgetter("arrived_ns")
_DEADLINE_NS: Callable[[Request], int] = attrgetter("deadline_ns")


class End(IntEnum):
    """What became of a batch."""

    RUNNING = 0
    FINISHED = 1
    REVOKED = 2
    """Taken back before it was started; its rows were queued again."""
    LOST = 3
    """Its worker ended while it had it."""


_ENDS = tuple(End)
_FINISHED, _REVOKED, _LOST = int(End.FINISHED), int(End.REVOKED), int(End.LOST)
"""Plain numbers, for a record that the garbage collector need not look at."""


class TimelineRow(NamedTuple):
    """One row of a batch. `outcome` is what this batch came to for it; None: nothing (so far)."""

    client: str
    received_ns: int
    deadline_ns: int
    outcome: Outcome | None


class TimelineBatch(NamedTuple):
    """One batch. Times are monotonic nanoseconds; 0: it did not come to that.

    Attributes:
        number: The scheduler's, growing.
        started_ns: When its worker was told to begin.
        finished_ns: When the engine was done.
        ended_ns: When its rows were answered, or it came to nothing.
        batch_us: Gathering and preprocessing in the worker.
        execute_us: The engine.
        error: Why all of it failed.
    """

    number: int
    end: End
    model: str
    version: str
    worker: str
    generation: int
    staged_ns: int
    started_ns: int
    finished_ns: int
    ended_ns: int
    batch_us: int
    execute_us: int
    error: str
    rows: list[TimelineRow]


@value
class Ending:
    """Requests that ended other than OK: one, or `count` more of the same within a second.

    Attributes:
        client: Empty: of several.
        model: Empty: none that is served.
        received_ns: Of the last of them.
    """

    ended_ns: int
    received_ns: int
    client: str
    model: str
    outcome: Outcome
    message: str
    count: int


@frozen
class Position:
    """How far somebody has read: batches and endings."""

    batches: int = 0
    endings: int = 0


@frozen
class Excerpt:
    """A part of the timeline, oldest first.

    Attributes:
        position: Behind it.
        missed: Batches and endings before it that are not kept any more.
        more: Batches and endings behind it that are there by now.
    """

    batches: list[TimelineBatch]
    endings: list[Ending]
    position: Position
    missed: tuple[int, int]
    more: tuple[int, int]


_Batch = tuple[int, int, int, str, str, str, int, str, "tuple[str, ...]", bytes, "tuple[int, ...]"]
_Ending = tuple[int, int, str, str, int, str, int]
_Kind = tuple[str, str, int]


@define(eq=False)
class Timeline:
    """See the module's docstring. Times are monotonic nanoseconds."""

    _open: dict[int, tuple[Batch, int]] = field(factory=dict[int, "tuple[Batch, int]"], init=False)
    _gone: dict[int, list[int]] = field(factory=dict[int, "list[int]"], init=False)
    _batches: deque[_Batch] = field(factory=deque[_Batch], init=False)
    _rows: int = field(default=0, init=False)
    _batches_before: int = field(default=0, init=False)
    _endings: deque[_Ending] = field(factory=deque[_Ending], init=False)
    _endings_before: int = field(default=0, init=False)
    _second: int = field(default=0, init=False)
    _counts: dict[_Kind, list[int]] = field(factory=dict[_Kind, "list[int]"], init=False)

    # -------------------------------------------------------------------------------- batches

    def staged(self, batch: Batch, now_ns: int) -> None:
        """A batch was sent to its worker."""
        self._open[batch.id] = (batch, now_ns)

    def finished(self, done: BatchDone, result: BatchResult, now_ns: int) -> None:
        """A batch is over, and its rows have been answered."""
        gone = self._gone.pop(done.batch_id, ())
        failed: tuple[int, ...] = ()
        if done.failed_rows or gone:
            outcomes = dict.fromkeys(gone, _CLIENT_GONE)
            outcomes.update((row, int(outcome)) for row, (outcome, _) in done.failed_rows.items())
            failed = tuple(value for pair in outcomes.items() for value in pair)
        if done.skipped:
            self._close(done.batch_id, _REVOKED, now_ns)
        else:
            self._close(done.batch_id, _FINISHED, now_ns, result, failed, done.error)

    def revoked(self, batch: Batch, now_ns: int) -> None:
        """A batch was taken back."""
        self._close(batch.id, _REVOKED, now_ns)

    def lost(self, worker: WorkerRef, now_ns: int) -> None:
        """A worker has ended, with all that it had."""
        numbers = [number for number, (batch, _) in self._open.items() if batch.worker == worker]
        for number in numbers:
            self._close(number, _LOST, now_ns)

    def _close(
        self,
        number: int,
        end: int,
        now_ns: int,
        result: BatchResult | None = None,
        failed: tuple[int, ...] = (),
        error: str = "",
    ) -> None:
        batch, staged_ns = self._open.pop(number, (None, 0))
        if batch is None:
            return  # the appliance was told so twice: it stops
        requests = batch.requests
        finished_ns = batch_us = execute_us = 0
        if result is not None:
            finished_ns, batch_us, execute_us = (
                result.finished_ns,
                result.batch_us,
                result.execute_us,
            )
        numbers = [staged_ns, batch.started_ns, finished_ns, batch_us, execute_us]
        numbers.extend(map(_ARRIVED_NS, requests))
        numbers.extend(map(_DEADLINE_NS, requests))
        (name, version), (slot, generation) = batch.lane.model, batch.worker
        batches = self._batches
        batches.append(
            (
                now_ns,
                number,
                end,
                name,
                version,
                slot,
                generation,
                error[:MESSAGE_CHARACTERS],
                tuple(map(_CLIENT, requests)),
                pack(f"={len(numbers)}q", *numbers),
                failed,
            )
        )
        self._rows += len(requests)
        self._forget_batches(now_ns - SPAN_NS)

    # -------------------------------------------------------------------------------- endings

    def ended(
        self, ticket: Ticket, model: str, outcome: Outcome, reply: Reply, now_ns: int
    ) -> None:
        """A request has ended other than OK; `model` is empty if it is not served."""
        answer = reply.answer
        if answer is not None and answer.batch is not None:  # its client did not wait for it
            self._gone.setdefault(answer.batch.id, []).append(answer.row)
        if now_ns // SECOND_NS != self._second:
            self._close_second(now_ns)
        client, code = ticket.client, int(outcome)
        count = self._counts.get((client, model, code))
        if count is None:
            if len(self._counts) >= MOST_KINDS:
                client = model = ""
            count = self._counts.setdefault((client, model, code), [0, 0])
        count[0] += 1
        count[1] = ticket.received_ns
        if count[0] <= EXACT:
            message = reply.message[:MESSAGE_CHARACTERS]
            self._put((now_ns, ticket.received_ns, client, model, code, message, 1))

    def _close_second(self, now_ns: int) -> None:
        """Write down what was only counted."""
        ended_ns = (self._second + 1) * SECOND_NS - 1
        for (client, model, outcome), (count, received_ns) in self._counts.items():
            if count > EXACT:
                self._put((ended_ns, received_ns, client, model, outcome, "", count - EXACT))
        self._counts.clear()
        self._second = now_ns // SECOND_NS

    def _put(self, ending: _Ending) -> None:
        self._endings.append(ending)
        self._forget_endings(ending[0] - SPAN_NS)

    # ------------------------------------------------------------------------------- forgetting

    def _forget_batches(self, oldest_ns: int) -> None:
        batches = self._batches
        while batches and (
            batches[0][0] < oldest_ns or self._rows > MOST_ROWS or len(batches) > MOST_BATCHES
        ):
            self._rows -= len(batches.popleft()[8])
            self._batches_before += 1

    def _forget_endings(self, oldest_ns: int) -> None:
        endings = self._endings
        while endings and (endings[0][0] < oldest_ns or len(endings) > MOST_ENDINGS):
            endings.popleft()
            self._endings_before += 1

    # -------------------------------------------------------------------------------- reading

    @property
    def end(self) -> Position:
        """Behind all that is over."""
        return Position(
            self._batches_before + len(self._batches), self._endings_before + len(self._endings)
        )

    def read(
        self, since: Position, now_ns: int, *, batches: int, rows: int, endings: int
    ) -> Excerpt:
        """Return what is over since `since`, oldest first.

        Args:
            since: A position that was returned before; the first is `Position()`.
            batches: So many at most; at least 1.
            rows: So many at most, of all batches; one batch may have more.
            endings: So many at most.
        """
        if now_ns // SECOND_NS != self._second:
            self._close_second(now_ns)
        self._forget_batches(now_ns - SPAN_NS)
        self._forget_endings(now_ns - SPAN_NS)
        end = self.end
        first = min(max(since.batches, self._batches_before), end.batches)
        first_ending = min(max(since.endings, self._endings_before), end.endings)
        found: list[TimelineBatch] = []
        for index in range(first - self._batches_before, len(self._batches)):
            record = self._batches[index]  # near either end this is quick
            rows -= len(record[8])
            if len(found) == batches or (rows < 0 and found):
                break
            found.append(_batch(record))
        start = first_ending - self._endings_before
        stop = min(start + endings, len(self._endings))
        ended = [_ending(self._endings[index]) for index in range(start, stop)]
        position = Position(first + len(found), first_ending + len(ended))
        return Excerpt(
            found,
            ended,
            position,
            (max(0, first - since.batches), max(0, first_ending - since.endings)),
            (end.batches - position.batches, end.endings - position.endings),
        )

    def running(self) -> list[TimelineBatch]:
        """Return what workers have and have not finished."""
        return [
            TimelineBatch(
                batch.id,
                End.RUNNING,
                *batch.lane.model,
                *batch.worker,
                staged_ns,
                batch.started_ns,
                0,
                0,
                0,
                0,
                "",
                [
                    TimelineRow(each.client, each.arrived_ns, each.deadline_ns, None)
                    for each in batch.requests
                ],
            )
            for batch, staged_ns in self._open.values()
        ]


def _batch(record: _Batch) -> TimelineBatch:
    ended_ns, number, end, name, version, slot, generation, error, clients, packed, failed = record
    size = len(clients)
    times = unpack_from(f"={5 + 2 * size}q", packed)
    staged_ns, started_ns, finished_ns, batch_us, execute_us = times[:5]
    outcomes = [_UNFINISHED if end != _FINISHED else _FAILED if error else _ANSWERED] * size
    for row, outcome in zip(failed[::2], failed[1::2], strict=True):
        outcomes[row] = _OUTCOMES[outcome]
    return TimelineBatch(
        number,
        _ENDS[end],
        name,
        version,
        slot,
        generation,
        staged_ns,
        started_ns,
        finished_ns,
        ended_ns,
        batch_us,
        execute_us,
        error,
        list(map(TimelineRow, clients, times[5 : 5 + size], times[5 + size :], outcomes)),
    )


def _ending(record: _Ending) -> Ending:
    ended_ns, received_ns, client, model, outcome, message, count = record
    return Ending(ended_ns, received_ns, client, model, Outcome(outcome), message, count)
