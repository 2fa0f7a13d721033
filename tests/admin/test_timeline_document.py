"""The timeline as a document: what it says, its cursor, its size."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from support.timelines import MS, SECOND_NS, end, request, run

from appliance.admin.http import HttpRequest
from appliance.admin.routes import Route, Router
from appliance.admin.timeline import BATCHES, DROPS, PARTS, ROWS, TimelineDocuments
from appliance.dispatch.timeline import SPAN_NS, Timeline
from appliance.errors import AdminError, Outcome

INSTANCE = "00000000000000ab"
START_NS = SECOND_NS


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture
def documents(timeline: Timeline) -> TimelineDocuments:
    return TimelineDocuments(timeline, INSTANCE, START_NS)


def test_what_it_says(timeline: Timeline, documents: TimelineDocuments) -> None:
    run(timeline, 7, START_NS + 50 * MS, [request("a", START_NS + MS, START_NS + 45 * MS)])
    end(timeline, "b", START_NS + 60 * MS, Outcome.EXPIRED)
    end(timeline, "b", START_NS + 61 * MS, Outcome.RATE_LIMITED)
    document = documents.read({}, START_NS + 70 * MS, 1234.5)
    json.dumps(document)
    assert document["batches"] == [
        {
            "id": 7,
            "end": "finished",
            "model": "arm",
            "version": "3",
            "worker": "cpu-0",
            "generation": 2,
            "staged_us": 48_000,
            "started_us": 48_000,
            "finished_us": 49_000,
            "ended_us": 50_000,
            "batch_us": 100,
            "execute_us": 700,
            "error": "",
            "rows": [("a", 1000, -5000, "OK")],
        }
    ]
    miss, refusal = document["drops"]
    assert (miss["at_us"], miss["waited_us"], miss["client"]) == (60_000, 1000, "b")
    assert (miss["outcome"], miss["count"], miss["miss"]) == ("EXPIRED", 1, True)
    assert (refusal["outcome"], refusal["miss"]) == ("RATE_LIMITED", False)
    assert (document["now_us"], document["unix_s"], document["span_s"]) == (70_000, 1234.5, 30)


def test_who_comes_again_hears_what_is_new(
    timeline: Timeline, documents: TimelineDocuments
) -> None:
    def ask(cursor: str) -> tuple[list[int], str]:
        document = documents.read({"since": cursor}, 2 * SECOND_NS, 0)
        return [batch["id"] for batch in document["batches"]], document["cursor"]

    run(timeline, 1, 2 * SECOND_NS, [request()])
    found, cursor = ask("")
    assert found == [1]
    assert ask(cursor) == ([], cursor)
    run(timeline, 2, 2 * SECOND_NS, [request()])
    assert ask(cursor)[0] == [2]
    assert ask("newest") == ([], ask(cursor)[1])
    beyond = f"{INSTANCE}.{10**17}.0"
    assert ask(beyond) == ([], ask("newest")[1])
    assert ask(cursor.replace("ab", "cd"))[0] == [1, 2]  # of another life of the appliance


@pytest.mark.parametrize(
    "cursor", ["x", "0", f"{INSTANCE}.1", f"{INSTANCE}.1.-1", f"{INSTANCE}.1.{'9' * 30}", "\n"]
)
def test_what_is_no_cursor(documents: TimelineDocuments, cursor: str) -> None:
    with pytest.raises(AdminError, match=r"since: found .* allowed: the `cursor` of an earlier"):
        documents.read({"since": cursor}, SECOND_NS, 0)


def test_a_document_is_bounded_and_says_so(
    timeline: Timeline, documents: TimelineDocuments
) -> None:
    for number in range(2 * BATCHES):
        run(timeline, number, 2 * SECOND_NS, [request("x" * 255) for _ in range(8)])
    for number in range(2 * DROPS):
        end(timeline, f"{number % 32:255}", 2 * SECOND_NS)
    document = documents.read({}, 2 * SECOND_NS, 0)
    assert sum(len(batch["rows"]) for batch in document["batches"]) <= ROWS
    assert len(json.dumps(document)) < 150_000
    assert document["more"] == {
        "batches": 2 * BATCHES - len(document["batches"]),
        "drops": DROPS,
    }


async def test_a_document_is_of_several_parts_and_others_have_their_turn(
    timeline: Timeline, documents: TimelineDocuments
) -> None:
    for number in range((PARTS + 1) * BATCHES):
        run(timeline, number, 2 * SECOND_NS, [request()])
    end(timeline, "a", 2 * SECOND_NS)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    def clock() -> int:
        return 2 * SECOND_NS + MS * turns

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        document = json.loads(await documents.document({}, clock, lambda: 0.0))
        nursery.cancel_scope.cancel()
    assert [batch["id"] for batch in document["batches"]] == list(range(PARTS * BATCHES))
    assert len(document["drops"]) == 1
    assert document["more"] == {"batches": BATCHES, "drops": 0}
    assert turns
    assert document["now_us"] > 1_000_000, "of the last part"
    rest = documents.read({"since": document["cursor"]}, clock(), 0)
    assert rest["batches"][0]["id"] == PARTS * BATCHES
    later = 2 * SECOND_NS + SPAN_NS + 1
    since = {"since": f"{document['instance']}.1.0"}
    late = json.loads(await documents.document(since, lambda: later, lambda: 0.0))
    assert late["missed"] == {"batches": (PARTS + 1) * BATCHES - 1, "drops": 1}
    fresh = json.loads(await documents.document({}, lambda: later, lambda: 0.0))
    assert fresh["missed"] == {"batches": 0, "drops": 0}, "it has read nothing before"


@pytest.mark.parametrize("batches", [0, 1, BATCHES, PARTS * BATCHES])
async def test_as_text_it_says_the_same(
    timeline: Timeline, documents: TimelineDocuments, batches: int
) -> None:
    for number in range(batches):
        run(timeline, number, 2 * SECOND_NS, [request('"é\n'), request("b")])
    end(timeline, "\\", 2 * SECOND_NS)
    now_ns = 2 * SECOND_NS
    found = json.loads(await documents.document({}, lambda: now_ns, lambda: 5.0))
    whole: dict[str, Any] = {"more": {"batches": 1}, "cursor": "", "batches": [], "drops": []}
    while any(whole["more"].values()):
        part = json.loads(json.dumps(documents.read({"since": whole["cursor"]}, now_ns, 5.0)))
        part["batches"][:0], part["drops"][:0] = whole["batches"], whole["drops"]
        whole = part
    assert found == whole


async def test_the_query_reaches_it(timeline: Timeline, documents: TimelineDocuments) -> None:
    router = Router()
    router.add(Route("GET", "/v1/timeline", action=lambda query: documents.read(query, 0, 0)))

    async def ask(query: str) -> tuple[int, Any]:
        request = HttpRequest(method="GET", path="/v1/timeline", query=query)
        response = await router.handle(request)
        return response.status, json.loads(response.body)

    run(timeline, 1, 0, [request()])
    status, document = await ask(f"since={INSTANCE}.0.0")
    assert (status, len(document["batches"])) == (200, 1)
    assert (await ask(f"since={INSTANCE}.1.0"))[1]["batches"] == []
    assert (await ask("since=nonsense"))[0] == 400
    status, document = await ask("&".join(f"a{n}=1" for n in range(99)))
    assert (status, document["error"]["code"]) == (400, "ADMIN")
