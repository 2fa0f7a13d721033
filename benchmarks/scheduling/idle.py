"""When batches ran, and how long a worker does nothing between two of them while somebody waits.

A gap counts if a request of the later batch was there when the earlier one ended. Where the
scheduler waits on purpose, for a critical request or for company, that is in it, recorded and
simulated alike. Pure, but that it reads a recording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from attrs import frozen

from appliance.errors import Outcome
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.simulation import Arrival, Record
from appliance.simulation.score import quantile
from appliance.wire.pb import recording_pb2

MICROSECOND_NS = 1_000


@frozen(order=True, kw_only=True)
class Executed:
    """A batch that ran to its end.

    Attributes:
        began_ns, finished_ns: When its engine began and was done.
        first_ns: When its first request came.
        told_ns: When the decision was made that started it.
    """

    began_ns: int
    finished_ns: int
    first_ns: int
    told_ns: int
    model: str
    rows: int


def gaps_us(batches: Iterable[Executed], from_ns: int, to_ns: int) -> list[float]:
    """Return the gaps before the batches of one worker that began in a span, ascending."""
    return sorted(
        max(0, later.began_ns - earlier.finished_ns) / MICROSECOND_NS
        for earlier, later in pairwise(sorted(batches))
        if later.first_ns <= earlier.finished_ns and from_ns <= later.began_ns < to_ns
    )


def quantiles(ascending: Sequence[float], share: float) -> tuple[float, ...]:
    """Return one quantile; nothing of nothing."""
    return (quantile(ascending, share),) if ascending else ()


def starts_us(batches: Iterable[Executed], from_ns: int, to_ns: int) -> list[float]:
    """Return how long after the decision the batches began that began in a span, ascending."""
    return sorted(
        (each.began_ns - each.told_ns) / MICROSECOND_NS
        for each in batches
        if from_ns <= each.began_ns < to_ns
    )


def samples_ns(batches: Iterable[Executed]) -> dict[str, dict[int, list[int]]]:
    """Return how long engines took, by model and rows.

    Unlike what `recorded` keeps, without what a batch waits for in the worker before it may go.
    """
    found: dict[str, dict[int, list[int]]] = {}
    for each in batches:
        busy_ns = max(MICROSECOND_NS, each.finished_ns - each.began_ns)
        found.setdefault(each.model, {}).setdefault(each.rows, []).append(busy_ns)
    return found


def recorded_batches(path: Path) -> list[Executed]:
    """Return the batches of a recording."""
    first_ns: dict[int, int] = {}
    batches: list[recording_pb2.Batch] = []
    for entry in RecordingReader(path).entries():
        if entry.topic is Topic.OUTCOMES:
            outcome = entry.read(recording_pb2.Outcome)
            known_ns = first_ns.get(outcome.batch_id, outcome.received_ns)
            first_ns[outcome.batch_id] = min(known_ns, outcome.received_ns)
        elif entry.topic is Topic.BATCHES:
            batch = entry.read(recording_pb2.Batch)
            if batch.end == recording_pb2.Batch.FINISHED:
                batches.append(batch)
    return [
        Executed(
            began_ns=each.finished_ns - each.execute_us * MICROSECOND_NS,
            finished_ns=each.finished_ns,
            first_ns=first_ns[each.id],
            told_ns=each.started_ns,
            model=each.model_id,
            rows=each.rows,
        )
        for each in batches
        if each.id in first_ns
    ]


def simulated_batches(record: Record) -> list[Executed]:
    """Return the batches of a simulation with one worker."""
    answered: dict[int, list[Arrival]] = defaultdict(list)
    for asked in record.asked:
        if asked.outcome is Outcome.OK:
            answered[asked.answered_ns].append(asked.arrival)
    return [
        Executed(
            began_ns=from_ns,
            finished_ns=to_ns,
            first_ns=min(each.arrived_ns for each in answered[to_ns]),
            told_ns=from_ns,
            model=answered[to_ns][0].model,
            rows=len(answered[to_ns]),
        )
        for from_ns, to_ns in record.busy_ns
        if to_ns in answered
    ]
