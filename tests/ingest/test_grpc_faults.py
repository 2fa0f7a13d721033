"""A fault of ours in one call costs that call alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.core import Core
from support.grpc import request
from support.pair import SPEC

from appliance.errors import Outcome
from appliance.ingest.calls import Call, GivenUp, Question
from appliance.ingest.door import GrpcDoor
from appliance.wire.pb import inference_pb2 as pb

ROW = np.zeros((1, 4), np.float32)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC)) as core:
        yield core


@pytest.fixture
def ended() -> list[Any]:
    return []


@pytest.fixture
async def door(core: Core, ended: list[Any]) -> GrpcDoor:
    intake = core.door.intake
    intake.dispatcher = core.dispatcher
    models: Any = None
    return GrpcDoor(intake, ended.extend, lambda: core.now_ns, models)


def call(core: Core, asked: pb.ModelInferRequest | None = None) -> Call:
    response: Any = None
    return Call(
        request=asked or request(SPEC.model_id, ROW),
        client="tester",
        trace_id="",
        received_ns=core.now_ns,
        timeout_ns=None,
        response=response,
        contents=[ROW.tobytes()],
    )


async def test_a_fault_in_reading_a_call_is_its_own(
    core: Core, door: GrpcDoor, ended: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("Exceeds the limit (4300 digits) for integer string conversion")

    with monkeypatch.context() as patched:
        patched.setattr("appliance.ingest.door.read_rows", broken)
        bad = call(core)
        door.take([bad])
    assert ended == [bad]
    assert bad.refusal is not None
    assert bad.refusal.outcome is Outcome.ENGINE_FAILED
    assert "4300 digits" in bad.refusal.message
    door.take([GivenUp(bad)])  # which nobody minds
    good = call(core)
    door.take([good])
    assert core.finish()
    assert ended == [bad, good]
    assert good.refusal is None
    assert core.ledger.overall.outcomes() == {"OK": 1, "ENGINE_FAILED": 1}


async def test_a_fault_behind_the_first_row_takes_the_others_back(
    core: Core, door: GrpcDoor, ended: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, rows = door.intake.offer, []

    def breaks(*arguments: Any, **more: Any) -> Any:
        rows.append(more["route"])
        if len(rows) == 2:
            raise RuntimeError("no second one")
        return offer(*arguments, **more)

    monkeypatch.setattr(type(door.intake), "offer", lambda _, *args, **more: breaks(*args, **more))
    asked = request(SPEC.model_id, np.zeros((3, 4), np.float32))
    bad = call(core, asked)
    bad.contents = [bytes(48)]
    door.take([bad])
    assert ended == [bad]
    assert bad.refusal is not None
    assert bad.refusal.outcome is Outcome.ENGINE_FAILED
    while core.finish():
        pass
    assert core.ledger.overall.in_flight == 0


async def test_a_fault_in_a_question_is_its_own(door: GrpcDoor, ended: list[Any]) -> None:
    def broken() -> None:
        raise KeyError("nothing")

    response: Any = None
    question = Question(broken, response)
    door.take([question])
    assert ended == [question]
    assert question.refusal is not None
    assert question.refusal.outcome is Outcome.ENGINE_FAILED


async def test_answers_that_a_client_does_not_read_are_dropped(
    core: Core, door: GrpcDoor, ended: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.ingest.held_answers.CLIENT_BYTES", 20)
    for number in range(3):
        door.take([call(core)])
        assert core.finish()
        assert len(ended) == number + 1
    first, *others = ended
    assert first.held_bytes == 16 == first.caller.held_bytes
    assert [each.refusal.outcome for each in others] == [Outcome.RATE_LIMITED] * 2
    assert "'tester' has 16 bytes of answers to read first" in others[0].refusal.message
    assert core.ledger.overall.outcomes() == {"OK": 3}
    assert core.ledger.replies_lost == {"slow_reader": 2}
    door.held.let_go(first)
    door.take([call(core)])
    assert core.finish()
    assert ended[-1].refusal is None
