"""Real processes: what they tell, and what becomes of those that end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from pool_harness import exists, fake_slot, house

from appliance.errors import LocalProtocolError
from appliance.scheduling.events import WorkerRef
from appliance.workers.arena import FAILED, FINISHED, STARTED, Arena
from appliance.workers.events import (
    BatchFinished,
    ModelFailed,
    ModelLoaded,
    WorkerDown,
    WorkerUp,
)
from appliance.workers.pool import WorkerPool


async def test_events_come_in_order_and_name_the_generation() -> None:
    async with house(fake_slot("echo", "fail", "echo")) as home:
        first = [await home.event() for _ in range(4)]
        worker = WorkerRef("cpu", 1)
        assert [type(event) for event in first] == [
            ModelLoaded,
            ModelFailed,
            ModelLoaded,
            WorkerUp,
        ]
        assert {event.worker for event in first} == {worker}
        assert [event.model for event in first[:3]] == [0, 1, 2]
        assert first[0].spec.model_id == "echo"
        assert first[0].times_ns == {1: 1000}
        assert first[1].message == "broken"
        os.kill(home.pid(), signal.SIGKILL)
        down, *second = [await home.event() for _ in range(5)]
        assert down == WorkerDown(worker, "killed by SIGKILL", ())
        assert {event.worker for event in second} == {WorkerRef("cpu", 2)}
        assert isinstance(second[-1], WorkerUp)


async def test_rows_go_in_and_come_out() -> None:
    async with house() as home:
        worker = await home.up()
        assert await home.run(worker, b"left", b"right") == [b"left", b"right"]
        (statistics,) = home.pool.statistics()
        assert statistics.batches == 1
        assert statistics.state == "ready"
        assert statistics.busy_since_ns is None
        assert home.arena.ledger(0)[0].tolist() == [2, 2, 0]


async def test_a_staged_batch_runs_on_go_and_not_when_revoked() -> None:
    async with house() as home:
        worker = await home.up()
        revoked, wanted = home.batch(b"a", go=False), home.batch(b"b", go=False)
        home.pool.stage(worker, revoked)
        home.pool.revoke(worker, revoked.batch_id)
        home.pool.stage(worker, wanted)
        assert home.pool.statistics()[0].busy_since_ns is None
        home.pool.go(worker, wanted.batch_id)
        assert home.pool.statistics()[0].busy_since_ns is not None
        assert (await home.next(BatchFinished)).done.batch_id == wanted.batch_id
        assert home.arena.ledger(0)[0, STARTED] == 1


async def test_the_ledger_goes_on_over_generations() -> None:
    async with house(fake_slot(), fake_slot(name="other")) as home:
        worker = await home.up("cpu")
        await home.run(worker, b"a")
        home.pool.stage(worker, home.batch(b"b", b"exit"))
        worker = await home.up("cpu")
        await home.run(worker, b"c")
        assert home.arena.ledger(0)[0, STARTED] == 4
        assert home.arena.ledger(0)[0, FINISHED] == 3
        assert home.arena.ledger(0)[0, FAILED] == 0
        assert not home.arena.ledger(1).any()


async def test_a_row_that_ends_its_process() -> None:
    async with house() as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(b"a", b"exit"))
        down = await home.next(WorkerDown)
        assert down.cause == "exited with status 7: a row said so"
        assert down.stderr == ("a row said so",)
        assert await home.run(await home.up(), b"again") == [b"again"]
        (statistics,) = home.pool.statistics()
        assert statistics.restarts == 1
        assert statistics.last_cause == down.cause
        assert statistics.last_stderr == down.stderr


async def test_the_last_words_of_a_process_are_heard_before_its_end() -> None:
    async with house() as home:
        worker = await home.up()
        last = 100  # more than the receiver takes in at a time
        for batch_id in range(1, last):
            home.pool.stage(worker, home.batch(b"a", batch_id=batch_id))
        home.pool.stage(worker, home.batch(b"last words", batch_id=last))
        # Unread when it exits: the kernel tells that as an error before the words.
        home.pool.stage(worker, home.batch(b"never", batch_id=last + 1))
        home.hold_until_exit()
        for batch_id in range(1, last + 1):
            finished = await home.event()
            assert isinstance(finished, BatchFinished)
            assert finished.done.batch_id == batch_id
        assert await home.event() == WorkerDown(worker, "exited with status 7", ())


async def test_a_batch_staged_to_a_process_that_has_just_gone() -> None:
    async with house() as home:
        worker = await home.up()
        os.kill(home.pid(), signal.SIGKILL)
        home.hold_until_exit()
        home.pool.stage(worker, home.batch(b"a"))
        assert await home.event() == WorkerDown(worker, "killed by SIGKILL", ())


async def test_ten_kills_in_a_row() -> None:
    async with house() as home:
        worker = await home.up()
        descriptors: set[int] = set()
        for generation in range(1, 11):
            assert worker == WorkerRef("cpu", generation)
            assert await home.run(worker, b"served") == [b"served"]
            pid = home.pid()
            os.kill(pid, signal.SIGKILL)
            await home.next(WorkerDown)
            assert not exists(pid)  # reaped before it is told
            worker = await home.up()
            descriptors.add(len(list(Path("/proc/self/fd").iterdir())))
        assert home.pool.statistics()[0].restarts == 10
        assert len(descriptors) == 1  # nothing leaks


async def test_an_older_generation_is_not_talked_to() -> None:
    async with house() as home:
        old = await home.up()
        os.kill(home.pid(), signal.SIGKILL)
        await home.next(WorkerDown)
        home.pool.stage(old, home.batch(b"between"))  # nobody is there
        new = await home.up()
        home.pool.stage(old, home.batch(b"old", batch_id=1))
        home.pool.go(old, 1)
        home.pool.revoke(old, 1)
        assert await home.run(new, b"new") == [b"new"]
        assert home.arena.ledger(0)[0, STARTED] == 1


async def test_what_the_caller_may_not_do() -> None:
    async with house() as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(b"a", go=False, batch_id=1))
        with pytest.raises(LocalProtocolError, match="held already"):
            home.pool.stage(worker, home.batch(b"a", batch_id=1))
        with pytest.raises(LocalProtocolError, match="not staged"):
            home.pool.go(worker, 2)
        home.pool.go(worker, 1)
        with pytest.raises(LocalProtocolError, match="not staged"):
            home.pool.revoke(worker, 1)
        stage = home.batch(b"a")
        stage.model = 1
        with pytest.raises(LocalProtocolError, match="no model 1"):
            home.pool.stage(worker, stage)
        assert (await home.next(BatchFinished)).done.batch_id == 1


async def test_nothing_is_staged_before_ready() -> None:
    async with house(fake_slot("echo", "stall")) as home:
        worker = (await home.next(ModelLoaded)).worker
        with pytest.raises(LocalProtocolError, match="nothing can be staged"):
            home.pool.stage(worker, home.batch(b"a"))


async def test_a_worker_that_reads_nothing_is_ended_when_its_socket_is_full() -> None:
    async with house() as home:
        worker = await home.up()
        os.kill(home.pid(), signal.SIGSTOP)
        stage = home.batch(b"a", go=False)
        for batch_id in range(5000):
            stage.batch_id = batch_id
            home.pool.stage(worker, stage)  # does not raise
        down = await home.next(WorkerDown)
        assert down.cause == "took no more messages: Resource temporarily unavailable"
        assert await home.run(await home.up(), b"again") == [b"again"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"garbage", "no message"),
        (b"huge", "a message of more than"),
        (b"stray", "is done but was not to be run"),
        (b"outside", "outside the block"),
    ],
)
async def test_breaking_the_protocol_ends_a_worker(row: bytes, why: str) -> None:
    async with house() as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(row))
        down = await home.event()
        assert isinstance(down, WorkerDown)
        assert down.cause.startswith("broke the protocol: ")
        assert why in down.cause
        assert await home.run(await home.up(), b"again") == [b"again"]


@pytest.mark.parametrize("row", [b"close", b"empty"])
async def test_closing_the_channel_ends_a_worker(row: bytes) -> None:
    async with house() as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(row))
        assert (await home.next(WorkerDown)).cause == "closed its channel and stayed"
        await home.up()


async def test_a_row_that_fails_alone_is_told() -> None:
    async with house() as home:
        worker = await home.up()
        home.pool.stage(worker, home.batch(b"good", b"bad"))
        (error,) = (await home.next(BatchFinished)).done.row_errors
        assert (error.row, error.message) == (1, "bad row")


async def test_what_a_worker_prints_is_told_and_bounded() -> None:
    async with house() as home:
        worker = await home.up()
        await home.run(worker, b"print")
        lines = {(await home.line())[1] for _ in range(3)}
        assert {"to stdout", "to stderr"} < lines
        assert max(map(len, lines)) == 2048


async def test_a_worker_that_prints_without_end_is_not_held_up() -> None:
    async with house() as home:
        worker = await home.up()
        assert await home.run(worker, b"flood") == [b"flood"]


def test_slots_have_names_and_ledgers_of_their_own() -> None:
    arena = Arena(1 << 16, ledger_slots=1)
    with pytest.raises(ValueError, match="two slots"):
        WorkerPool([fake_slot(), fake_slot()], arena, on_event=print)
    with pytest.raises(ValueError, match="no ledger 1"):
        WorkerPool([fake_slot(), fake_slot(name="b")], arena, on_event=print)
    arena.close()
