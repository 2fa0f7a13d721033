"""A slot gets other models: a process beside the one that serves, and its end."""

from __future__ import annotations

import os
import signal

import pytest
from pool_harness import exists, fake_slot, house

from appliance.errors import LocalProtocolError
from appliance.scheduling.events import WorkerRef
from appliance.workers.arena import FINISHED
from appliance.workers.events import STOPPED, ModelFailed, WorkerDown

FORMER, SUCCESSOR = WorkerRef("cpu", 1), WorkerRef("cpu", 2)


async def test_a_successor_comes_up_beside_the_one_that_serves_and_takes_over() -> None:
    async with house() as home:
        assert await home.up() == FORMER
        former = home.pid()
        assert home.pool.succeed(fake_slot("echo", "echo")) == 1
        assert await home.up() == SUCCESSOR
        assert home.pool.is_successor(SUCCESSOR)
        assert not home.pool.is_successor(FORMER)
        assert home.pid() == former
        assert await home.run(FORMER, b"before") == [b"before"]

        assert home.pool.take_over("cpu") == FORMER
        assert not home.pool.is_successor(SUCCESSOR)
        assert await home.run(SUCCESSOR, b"new") == [b"new"]
        assert await home.run(FORMER, b"old") == [b"old"]  # what it has still to do
        assert home.arena.ledger(0)[0, FINISHED] == 2
        assert home.arena.ledger(1)[0, FINISHED] == 1
        (statistics,) = home.pool.statistics()
        assert statistics.generation == 2
        assert statistics.models == ("echo", "echo")
        assert statistics.restarts == 0

        home.pool.dismiss(FORMER)
        assert await home.next(WorkerDown) == WorkerDown(FORMER, STOPPED, ())
        await home.pool.wait_left()
        assert not exists(former)
        assert home.pool.succeed(fake_slot()) == 0
        assert await home.up() == WorkerRef("cpu", 3)


async def test_a_successor_that_is_abandoned_ends_and_stays_unknown() -> None:
    async with house() as home:
        await home.up()
        home.pool.succeed(fake_slot("fail"))
        failed = await home.next(ModelFailed)
        assert home.pool.is_successor(failed.worker)
        home.pool.abandon("cpu")
        home.pool.abandon("cpu")
        down = await home.next(WorkerDown)
        assert down.worker == SUCCESSOR
        await home.pool.wait_left()
        assert home.pool.statistics()[0].generation == 1
        assert await home.run(FORMER, b"as before") == [b"as before"]


async def test_whoever_has_been_succeeded_is_not_started_again() -> None:
    async with house() as home:
        await home.up()
        home.pool.succeed(fake_slot())
        await home.up()
        former = home.pid()
        home.pool.take_over("cpu")
        os.kill(former, signal.SIGKILL)
        assert (await home.next(WorkerDown)).worker == FORMER
        await home.pool.wait_left()
        assert await home.run(SUCCESSOR, b"on") == [b"on"]


async def test_nobody_is_to_be_dismissed_where_nobody_serves() -> None:
    async with house(fake_slot("stall")) as home:
        home.pool.succeed(fake_slot())
        worker = await home.up()
        assert home.pool.take_over("cpu") is None
        await home.pool.wait_left()
        with pytest.raises(LocalProtocolError):
            home.pool.go(worker, 7)
