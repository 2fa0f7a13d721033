"""The appliance stops before everything is done: told, counted, and nothing runs unnoticed."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve
from support.core import MS, WORKER, Core
from support.pair import BARE, SPEC, payload_of

from appliance.dispatch.fleet import ABANDONED
from appliance.errors import Outcome
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import Keep
from appliance.workers.arena import FINISHED
from appliance.workers.events import STOPPED, WorkerDown

ROBOT = b"arm-3"


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC, row_ns=10 * MS)) as core:
        yield core


def send(core: Core, number: int) -> None:
    observation = evolve(BARE, sequence=number, keep=Keep.ALL)
    core.robot(ROBOT).send_multipart((b"", encode_observation(observation), payload_of(BARE)))


def take(core: Core) -> None:
    assert core.door._raw.poll(5000)
    core.door._take_burst()


def engine_finished(core: Core, rows: int) -> None:
    """Let the engine have counted so many rows."""
    struct.pack_into("<Q", core.arena.memory, 8 * FINISHED, rows)


def running(core: Core) -> None:
    """Let a worker have the first of two requests, and the engine finish its row."""
    for number in (1, 2):
        send(core, number)
        take(core)
    engine_finished(core, 1)


def ledger(core: Core) -> tuple[int, dict[str, int], bool]:
    fleet = core.dispatcher.fleet
    document = core.ledger.document(fleet.rows_finished(), fleet.rows_abandoned())
    return document["in_flight"], document["wasted"], document["balanced"]


async def test_a_row_that_is_finished_after_all_is_wasted(core: Core) -> None:
    running(core)
    core.dispatcher.abandon()
    assert [answer.outcome for answer, _ in core.heard(ROBOT)[:-1]] == [Outcome.DRAINING] * 2
    assert ledger(core) == (0, {}, True), "finished, and not reported yet"
    assert core.finish()
    assert ledger(core) == (0, {ABANDONED: 1}, True)
    engine_finished(core, 2)
    assert ledger(core) == (0, {ABANDONED: 1}, False), "one too many shows"


async def test_a_row_that_is_finished_and_never_reported_is_wasted(core: Core) -> None:
    running(core)
    core.dispatcher.abandon()
    core.dispatcher.on_pool_event(WorkerDown(WORKER, STOPPED, ()))
    assert ledger(core) == (0, {ABANDONED: 1}, True)


async def test_what_has_come_when_the_door_closes_is_told_so(core: Core) -> None:
    send(core, 1)
    take(core)
    core.finish()
    core.admission.draining = True
    send(core, 2)
    assert core.door._raw.poll(5000)
    core.door.refuse_rest()
    core.door.close()
    heard = [core.robot(ROBOT).recv_multipart()[1:] for _ in range(2)]
    outcomes = [decode_response(envelope, len(payload)).outcome for envelope, payload in heard]
    assert outcomes == [Outcome.OK, Outcome.DRAINING]
    assert core.ledger.overall.outcomes() == {"OK": 1, "DRAINING": 1}
