"""How long a worker does nothing between two batches while somebody waits. Pure, but for a file.

A gap counts if a request of the later batch was there when the earlier one ended. Where the
scheduler waits on purpose, for a critical request or for company, that is in it, recorded and
simulated alike.
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
from appliance.simulation import Record
from appliance.simulation.score import quantile
from appliance.wire.pb import recording_pb2

MICROSECOND_NS = 1_000


@frozen(order=True)
class Executed:
    """A batch: when its worker began and was done, and when its first request came."""

    began_ns: int
    finished_ns: int
    first_ns: int


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


def recorded_batches(path: Path) -> list[Executed]:
    """Return the batches of a recording that ran to their end."""
    first_ns: dict[int, int] = {}
    times_ns: dict[int, tuple[int, int]] = {}
    for entry in RecordingReader(path).entries():
        if entry.topic is Topic.OUTCOMES:
            outcome = entry.read(recording_pb2.Outcome)
            known_ns = first_ns.get(outcome.batch_id, outcome.received_ns)
            first_ns[outcome.batch_id] = min(known_ns, outcome.received_ns)
        elif entry.topic is Topic.BATCHES:
            batch = entry.read(recording_pb2.Batch)
            if batch.end == recording_pb2.Batch.FINISHED:
                busy_ns = (batch.batch_us + batch.execute_us) * MICROSECOND_NS
                times_ns[batch.id] = (batch.finished_ns - busy_ns, batch.finished_ns)
    return [
        Executed(*times_ns[number], first_ns[number])
        for number in times_ns.keys() & first_ns.keys()
    ]


def simulated_batches(record: Record) -> list[Executed]:
    """Return the batches of a simulation with one worker."""
    arrived_ns: dict[int, list[int]] = defaultdict(list)
    for asked in record.asked:
        if asked.outcome is Outcome.OK:
            arrived_ns[asked.answered_ns].append(asked.arrival.arrived_ns)
    return [
        Executed(from_ns, to_ns, min(arrived_ns[to_ns]))
        for from_ns, to_ns in record.busy_ns
        if to_ns in arrived_ns
    ]
