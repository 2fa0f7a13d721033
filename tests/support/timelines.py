"""A timeline that a test tells of batches and endings."""

from __future__ import annotations

from typing import Any, cast

from appliance.dispatch.results import BatchResult
from appliance.dispatch.ticket import Reply, Ticket
from appliance.dispatch.timeline import Timeline
from appliance.errors import Outcome
from appliance.scheduling.events import Batch, BatchDone, Lane, ModelRef, Request, WorkerRef
from appliance.wire.types import Observation

MS = 1_000_000
SECOND_NS = 1000 * MS
LANE = Lane(ModelRef("arm", "3"))
CPU = WorkerRef("cpu-0", 2)


def request(client: str = "a", arrived_ns: int = 1, deadline_ns: int = 100 * MS) -> Request:
    return Request(
        id=1,
        session=client,
        client=client,
        lane=LANE,
        arrived_ns=arrived_ns,
        deadline_ns=deadline_ns,
        expires_ns=SECOND_NS,
    )


def run(timeline: Timeline, number: int, now_ns: int, requests: list[Request]) -> None:
    """Let a batch take its way from 2 ms before `now_ns` to then."""
    batch = Batch(number, LANE, requests, CPU, 0, now_ns - 2 * MS)
    timeline.staged(batch, now_ns - 2 * MS)
    result = BatchResult(100, 700, now_ns - MS, None, [])
    timeline.finished(BatchDone(CPU, number, 0), result, now_ns)


def end(timeline: Timeline, client: str, now_ns: int, outcome: Outcome = Outcome.EXPIRED) -> None:
    observation = Observation(client_id=client, model_id="arm")
    ticket = Ticket(
        door=cast("Any", None),
        route=None,
        session=client,
        client=client,
        observation=observation,
        received_ns=now_ns - MS,
    )
    timeline.ended(ticket, "arm", outcome, Reply(outcome=outcome, message="x" * 500), now_ns)
