"""The timeline: what is taken down, how it is read in parts, and that it does not grow."""

from __future__ import annotations

import gc
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.core import MS, SECOND_NS, WORKER, Core
from support.pair import BARE, SPEC, payload_of
from support.timelines import CPU, LANE, end, request, run

from appliance.dispatch.results import BatchResult
from appliance.dispatch.timeline import (
    EXACT,
    MOST_BATCHES,
    MOST_ENDINGS,
    MOST_KINDS,
    MOST_ROWS,
    SPAN_NS,
    End,
    Excerpt,
    Position,
    Timeline,
    TimelineRow,
)
from appliance.errors import Outcome
from appliance.scheduling.events import Batch, BatchDone, WorkerRef
from appliance.wire.session import encode_observation
from appliance.wire.types import Keep, Lateness
from appliance.workers.events import WorkerDown

ALL = 1_000_000


def read(timeline: Timeline, now_ns: int, since: Position | None = None) -> Excerpt:
    return timeline.read(since or Position(), now_ns, batches=ALL, rows=ALL, endings=ALL)


# ----------------------------------------------------------------------------- what is said


def test_a_batch_is_told_with_its_rows() -> None:
    timeline = Timeline()
    requests = [request("a", 5), request("é", 6, deadline_ns=40 * MS)]
    run(timeline, 7, 50 * MS, requests)
    (batch,) = read(timeline, 50 * MS).batches
    assert (batch.number, batch.end, batch.model, batch.version) == (7, End.FINISHED, "arm", "3")
    assert (batch.worker, batch.generation) == CPU
    assert (batch.staged_ns, batch.started_ns) == (48 * MS, 48 * MS)
    assert (batch.finished_ns, batch.ended_ns) == (49 * MS, 50 * MS)
    assert (batch.batch_us, batch.execute_us, batch.error) == (100, 700, "")
    assert batch.rows == [
        TimelineRow("a", 5, 100 * MS, Outcome.OK),
        TimelineRow("é", 6, 40 * MS, Outcome.OK),
    ]


def test_what_a_batch_came_to_for_each_row() -> None:
    timeline = Timeline()
    for number, done in enumerate(
        (
            BatchDone(CPU, 0, 0, {1: (Outcome.INVALID, "bad")}),
            BatchDone(CPU, 1, 0, error="it raised"),
        )
    ):
        timeline.staged(Batch(number, LANE, [request(), request()], CPU, 0), 0)
        timeline.finished(done, BatchResult(1, 1, 1, None, []), MS)
    one, all_of_it = read(timeline, MS).batches
    assert [row.outcome for row in one.rows] == [Outcome.OK, Outcome.INVALID]
    assert [row.outcome for row in all_of_it.rows] == [Outcome.ENGINE_FAILED] * 2
    assert all_of_it.error == "it raised"


def test_batches_that_come_to_nothing() -> None:
    timeline = Timeline()
    other = WorkerRef("cpu-1", 1)
    batches = [Batch(n, LANE, [request()], CPU if n < 2 else other, 0) for n in range(3)]
    for batch in batches:
        timeline.staged(batch, MS)
    assert [each.end for each in timeline.running()] == [End.RUNNING] * 3
    timeline.revoked(batches[0], 2 * MS)
    timeline.lost(CPU, 3 * MS)
    timeline.revoked(batches[1], 4 * MS)  # it is over already
    ended = read(timeline, 4 * MS).batches
    assert [(each.number, each.end) for each in ended] == [(0, End.REVOKED), (1, End.LOST)]
    assert [row.outcome for each in ended for row in each.rows] == [None, None]
    assert [each.number for each in timeline.running()] == [2]


# --------------------------------------------------------------------- through the whole core


async def test_the_core_tells_it_of_batches_and_of_who_went_without(tmp_path: Path) -> None:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC)) as core:
        for number in range(1, 5):
            asked = evolve(BARE, sequence=number, keep=Keep.ALL)
            core.ask(b"arm-3", b"", encode_observation(asked), payload_of(BARE))
        core.finish()
        core.finish(failed=[0])
        hurried = evolve(
            BARE,
            sequence=9,
            lateness=Lateness.FIRM,
            latency_budget_us=1,
            model_version="3",
        )
        core.ask(b"arm-3", b"", encode_observation(hurried), payload_of(BARE))
        unknown = evolve(BARE, model_id="<b>")
        core.ask(b"arm-3", b"", encode_observation(unknown), payload_of(BARE))
        found = core.timeline()
        outcomes = [[row.outcome for row in batch.rows] for batch in found.batches]
        assert outcomes[0] == [Outcome.OK]
        assert outcomes[1].count(Outcome.INVALID) == 1
        ended = [(each.outcome, each.model, each.client) for each in found.endings]
        assert (Outcome.INVALID, "policy", "arm-3") in ended
        assert (Outcome.UNKNOWN_MODEL, "", "arm-3") in ended
        rows = sum(outcome is Outcome.OK for each in outcomes for outcome in each)
        assert rows == core.ledger.overall.answered
        assert len(found.endings) == core.ledger.overall.ended - core.ledger.overall.answered


async def test_the_core_tells_it_of_a_lost_worker_and_of_a_client_that_left(tmp_path: Path) -> None:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC)) as core:
        core.ask(b"arm-3", b"", encode_observation(BARE), payload_of(BARE))
        core.leave(b"arm-3")
        core.finish()
        (batch,) = core.timeline().batches
        assert [row.outcome for row in batch.rows] == [Outcome.CLIENT_GONE]
        core.ask(b"arm-4", b"", encode_observation(BARE), payload_of(BARE))
        core.dispatcher.on_pool_event(WorkerDown(WORKER, "crashed"))
        assert [each.end for each in core.timeline().batches] == [End.FINISHED, End.LOST]
        assert core.dispatcher.endings.timeline.running() == []


# ----------------------------------------------------------------------------------- bounds


@given(
    st.lists(st.tuples(st.integers(0, SECOND_NS // 2), st.integers(0, 3)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 5),
)
def test_read_in_parts_it_is_what_it_is_as_a_whole(
    steps: list[tuple[int, int]], batches: int, rows: int, endings: int
) -> None:
    timeline, now_ns = Timeline(), SECOND_NS
    seen: list[Any] = []
    position = Position()
    for number, (step_ns, size) in enumerate(steps):
        now_ns += step_ns
        if size:
            run(timeline, number, now_ns, [request() for _ in range(size)])
        else:
            end(timeline, "a", now_ns)
        if number % 4 == 0:
            part = timeline.read(position, now_ns, batches=batches, rows=rows, endings=endings)
            assert len(part.batches) <= batches
            assert sum(len(each.rows) for each in part.batches[1:]) <= rows
            assert part.missed == (0, 0)
            seen += [*part.batches, *part.endings]
            position = part.position
    while True:
        part = timeline.read(position, now_ns, batches=batches, rows=rows, endings=endings)
        seen += [*part.batches, *part.endings]
        position = part.position
        if part.more == (0, 0):
            break
    kept = read(timeline, now_ns)
    known = {each.number for each in seen if not hasattr(each, "outcome")}
    assert known == {number for number, (_, size) in enumerate(steps) if size}
    assert position == timeline.end == kept.position
    assert all(each in seen for each in [*kept.batches, *kept.endings])
    assert sum(each.count for each in seen if hasattr(each, "outcome")) == sum(
        not size for _, size in steps
    )


def test_what_is_older_than_the_span_is_forgotten_even_if_nothing_comes() -> None:
    timeline = Timeline()
    run(timeline, 1, SECOND_NS, [request()])
    end(timeline, "a", SECOND_NS)
    first = read(timeline, SECOND_NS + SPAN_NS)
    assert (len(first.batches), len(first.endings)) == (1, 1)
    later = read(timeline, SECOND_NS + SPAN_NS + 1)
    assert (later.batches, later.endings, later.missed) == ([], [], (1, 1))
    assert read(timeline, SECOND_NS + SPAN_NS + 1, later.position).missed == (0, 0)


def test_batches_and_rows_are_bounded() -> None:
    timeline = Timeline()
    for number in range(MOST_BATCHES + 10):
        run(timeline, number, SECOND_NS + number, [request()])
    assert read(timeline, 2 * SECOND_NS).missed == (10, 0)
    for number in range(20):
        requests = [request() for _ in range(MOST_ROWS // 8)]
        run(timeline, number, 2 * SECOND_NS, requests)
    found = read(timeline, 2 * SECOND_NS)
    assert [len(batch.rows) for batch in found.batches] == [MOST_ROWS // 8] * 8


def test_a_flood_of_refusals_is_counted_and_not_kept() -> None:
    timeline = Timeline()
    for _ in range(5000):
        end(timeline, "flood", SECOND_NS)
    end(timeline, "robot", SECOND_NS)
    found = read(timeline, 2 * SECOND_NS).endings
    assert len(found) == EXACT + 2
    assert sum(each.count for each in found if each.client == "flood") == 5000
    assert sum(each.count for each in found if each.client == "robot") == 1
    assert all(len(each.message) <= 200 for each in found)


def test_a_flood_of_names_is_counted_for_nobody() -> None:
    timeline = Timeline()
    for number in range(4 * MOST_KINDS):
        end(timeline, f"name-{number}", SECOND_NS)
    found = read(timeline, 2 * SECOND_NS).endings
    assert sum(each.count for each in found) == 4 * MOST_KINDS
    assert len({each.client for each in found}) <= MOST_KINDS + 1
    for number in range(MOST_ENDINGS):
        end(timeline, f"name-{number % MOST_KINDS}", 3 * SECOND_NS + number * MS // 4)
    assert len(read(timeline, 7 * SECOND_NS).endings) <= MOST_ENDINGS


def test_the_garbage_collector_has_nothing_to_look_at() -> None:
    timeline = Timeline()
    run(timeline, 1, SECOND_NS, [request(), request()])
    end(timeline, "a", SECOND_NS)
    gc.collect()
    gc.collect()
    assert not any(map(gc.is_tracked, (*timeline._batches, *timeline._endings)))
