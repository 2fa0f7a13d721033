"""How many calls may be under way, and how far a stream may be ahead of its reader."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.errors import Outcome, Rejected
from appliance.ingest.inference import AHEAD_BYTES, AHEAD_UNKNOWN, STREAM_AHEAD, StreamWindow
from appliance.ingest.open_calls import OpenCalls


def refusal(open_calls: OpenCalls, client: str) -> str:
    with pytest.raises(Rejected) as refused:
        open_calls.begin(client)
    assert refused.value.outcome is Outcome.RATE_LIMITED
    return refused.value.message


def test_one_client_may_have_half_of_all_calls() -> None:
    calls = OpenCalls(8)
    for _ in range(4):
        calls.begin("greedy")
    assert refusal(calls, "greedy") == (
        "client 'greedy' has 4 calls under way, as many as one may have"
    )
    calls.begin("other")
    calls.end("greedy")
    calls.begin("greedy")


def test_all_clients_together_have_as_many_as_there_may_be() -> None:
    calls = OpenCalls(4)
    for client in "aabb":
        calls.begin(client)
    assert refusal(calls, "c") == "there are 4 calls under way, as many as may be"
    calls.end("a")
    calls.begin("c")


def test_streams_leave_room_for_calls() -> None:
    calls = OpenCalls(8)
    for client in "aaabbb":
        calls.begin(client, stream=True)
    with pytest.raises(Rejected, match="there are 6 streams open"):
        calls.begin("c", stream=True)
    calls.begin("c")
    calls.end("a", stream=True)
    calls.begin("c", stream=True)


def test_what_is_refused_is_not_counted() -> None:
    calls = OpenCalls(2)
    calls.begin("a", stream=True)
    for _ in range(3):
        refusal(calls, "a")
    calls.end("a", stream=True)
    for client in "ab":
        calls.begin(client)


@pytest.mark.parametrize(
    ("answer_bytes", "most"),
    [
        (None, AHEAD_UNKNOWN),
        (100, STREAM_AHEAD),
        (AHEAD_BYTES // 10, 10),
        (10 * AHEAD_BYTES, 1),
    ],
)
def test_the_longer_its_answers_the_less_a_stream_is_ahead(
    answer_bytes: int | None, most: int
) -> None:
    window = StreamWindow()
    if answer_bytes is not None:
        window.answered(answer_bytes)
        window.answered(0)  # a refusal says nothing of answers
    call: Any = None
    while window.is_open:
        window.calls.append(call)
    assert len(window.calls) == most
