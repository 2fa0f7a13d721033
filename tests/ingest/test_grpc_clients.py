"""Clients of the gRPC door, as operators see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.box import Box, box
from support.fleet_models import add_sleeper
from support.grpc import OVERRIDE, channel, method, refusal, request, stream

from appliance.cli import main
from appliance.errors import Outcome, Rejected
from appliance.ingest.clients import HERE_NS, MOST, REMEMBERED_NS, CallerTable

MS = 1_000_000
ROW = np.zeros((1, 4), np.float32)


def shown(table: CallerTable, now_ns: int) -> dict[str, Any]:
    return {each["id"]: each for each in table.documents(lambda _: 1, now_ns)}


# -------------------------------------------------------------------------------- the table


def test_a_client_has_the_cadence_of_its_calls() -> None:
    table = CallerTable()
    table.called("site", 0)
    assert shown(table, 0)["site"]["cadence_hz"] is None
    for number in range(1, 20):
        caller = table.called("site", number * 20 * MS)
    assert shown(table, 400 * MS)["site"]["cadence_hz"] == 50
    assert shown(table, 400 * MS)["site"]["jitter_ms"] == 0
    # A pause is no part of it.
    assert table.called("site", 400 * MS + HERE_NS) is caller
    assert shown(table, 400 * MS + HERE_NS)["site"]["cadence_hz"] == 50


def test_a_client_is_here_while_it_asks_or_waits() -> None:
    table = CallerTable()
    caller = table.called("site", 0)
    assert shown(table, HERE_NS)["site"]["connected"]
    assert not shown(table, HERE_NS + 1)["site"]["connected"]
    caller.asked += 1
    found = shown(table, HERE_NS + 1)["site"]
    assert (found["connected"], found["queued"], found["silent_s"]) == (True, 1, 10.0)
    caller.ended(Outcome.OK, late=True, slack_us=-2500)
    found = shown(table, HERE_NS + 1)["site"]
    assert (found["connected"], found["queued"]) == (False, 0)
    assert (found["answered"], found["late"], found["slack_ms"]) == (1, 1, -2.5)
    caller.ended(Outcome.EXPIRED, late=False, slack_us=0)
    found = shown(table, HERE_NS + 1)["site"]
    assert (found["misses"], found["last_outcome"], found["slack_ms"]) == (1, "EXPIRED", -2.5)


def test_who_has_been_silent_for_long_is_forgotten() -> None:
    table = CallerTable()
    table.called("first", 0)
    table.called("second", 1)
    table.called("first", 2)
    table.expire(REMEMBERED_NS + 1)
    assert list(shown(table, 0)) == ["first", "second"]
    table.expire(REMEMBERED_NS + 2)
    assert list(shown(table, 0)) == ["first"]
    table.expire(REMEMBERED_NS + 3)
    assert not shown(table, 0)


def test_who_may_not_come_is_shown_and_nobody_is_not() -> None:
    def tier_of(_: str) -> int:
        raise Rejected(Outcome.FORBIDDEN, "not known")

    table = CallerTable()
    table.called("stranger", 0)
    table.called("", 0)
    (document,) = table.documents(tier_of, 0)
    assert (document["id"], document["tier"]) == ("stranger", -1)


@given(st.lists(st.integers(0, 2 * MOST), min_size=1, max_size=50), st.integers(0, 2 * MOST))
def test_only_so_many_are_remembered_those_that_asked_last(names: list[int], many: int) -> None:
    table = CallerTable()
    calls = [*range(many), *names]
    for now_ns, number in enumerate(calls):
        table.called(str(number), now_ns)
    latest = list(dict.fromkeys(map(str, reversed(calls))))
    assert list(shown(table, len(calls))) == latest[:MOST]


# ------------------------------------------------------------------------------- an appliance


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Box]:
    add_sleeper(tmp_path, ms=1, max_batch=8)
    known = 'clients.known=[{id="site-2", tier=0}]'
    with box(tmp_path, overrides=(OVERRIDE, known)) as running:
        running.wait_settled()
        yield running


def named(client: str) -> tuple[tuple[str, str], ...]:
    return (("client-id", client),)


def test_clients_of_both_doors_are_shown(
    running: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running.clients() == []
    with closing(running.connect("arm-1")) as robot, channel(running) as asked:
        policy = robot.model("sleeper")
        assert policy.wait_for(policy.observe(state=ROW[0]), 10_000) is not None
        infer = method(asked, "ModelInfer")
        for _ in range(3):
            infer(request("sleeper", ROW), metadata=named("site-2"), timeout=10)
        infer(request("sleeper", np.zeros((4, 4), np.float32)), metadata=named("batches"))
        wrong = refusal(lambda: infer(request("nothing", ROW), metadata=named("lost")))
        assert wrong.code() is grpc.StatusCode.NOT_FOUND
        (answer,) = stream(asked)(iter([request("sleeper", ROW)]), metadata=named("streams"))
        assert not answer.error_message
        infer(request("sleeper", ROW))
    status = running.wait_settled()
    clients = {each["id"]: each for each in running.clients()}
    assert clients["arm-1"]["door"] == "robots"
    site = clients["site-2"]
    assert (site["door"], site["type"], site["connected"], site["tier"]) == (
        *("grpc", "grpc"),
        *(True, 0),
    )
    assert (site["observations"], site["answered"], site["queued"]) == (3, 3, 0)
    assert (site["last_outcome"], site["misses"]) == ("OK", 0)
    assert site["cadence_hz"] > 0
    assert (site["runs_dry_in_ms"], site["overdue_ms"]) == (None, None)
    assert clients["batches"]["observations"] == clients["batches"]["answered"] == 4
    lost = clients["lost"]
    assert (lost["observations"], lost["answered"]) == (1, 0)
    assert (lost["last_outcome"], lost["cadence_hz"]) == ("UNKNOWN_MODEL", None)
    assert clients["streams"]["answered"] == 1
    assert clients["ipv4:127.0.0.1"]["answered"] == 1  # without a name: where it comes from
    assert status["requests"]["asked"] == sum(each["observations"] for each in clients.values())
    sessions = [each["session"] for each in clients.values()]
    assert len(set(sessions)) == len(sessions)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["clients", "--socket", running.socket]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("arm-1", "site-2", "batches", "grpc"))


def test_a_call_that_is_given_up_has_its_outcome_too(running: Box) -> None:
    with channel(running) as asked:
        infer = method(asked, "ModelInfer")
        for _ in range(20):
            infer.future(request("sleeper", ROW), metadata=named("hasty")).cancel()
        infer(request("sleeper", ROW), metadata=named("hasty"))
    status = running.wait_settled()
    (hasty,) = running.clients()
    assert hasty["queued"] == 0
    assert hasty["observations"] == status["requests"]["asked"]
    assert hasty["answered"] == status["outcomes"]["OK"]
