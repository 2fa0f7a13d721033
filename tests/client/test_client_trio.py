"""The Trio face over real sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio
from fake_appliance import PATIENCE_MS, FakeAppliance, Received
from numpy.typing import NDArray

from appliance import Outcome, TrioConnection
from appliance.errors import LocalProtocolError

State = NDArray[Any]


async def arrival(appliance: FakeAppliance, *, heartbeat: bool = False) -> Received:
    """Wait for a message while Trio runs, and receive it."""
    while not appliance.has_message():  # noqa: ASYNC110  the other end is no part of Trio
        await trio.sleep(0.001)
    return appliance.receive(heartbeat=heartbeat)


@asynccontextmanager
async def connected(appliance: FakeAppliance) -> AsyncIterator[TrioConnection]:
    with trio.fail_after(PATIENCE_MS / 1000):
        async with TrioConnection(appliance.address, "r1", reconnect_ivl_ms=10) as connection:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.wait_reachable, PATIENCE_MS)
                appliance.reply(await arrival(appliance, heartbeat=True))
            yield connection


async def test_an_answer_and_a_refusal(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        model = connection.model("p")
        sequence = await model.observe(state=state)
        appliance.reply(await arrival(appliance), tensors={"action": state})
        result = await model.get_result(PATIENCE_MS)
        assert result is not None
        assert result.sequence == sequence
        await model.observe(state=state)
        appliance.reply(await arrival(appliance), Outcome.SHED)
        assert await model.get_result(PATIENCE_MS) is None
        assert model.last_status is Outcome.SHED
        assert await connection.wait_settled(0)


async def test_tasks_wait_for_their_own_models(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        heard: list[str] = []

        async def robot(name: str) -> None:
            model = connection.model(name)
            await model.observe(state=state)
            assert await model.get_result(PATIENCE_MS) is not None
            heard.append(name)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(robot, name)
            received = [await arrival(appliance) for _ in range(3)]
            for each in reversed(received):
                appliance.reply(each, tensors={"action": state})
        assert sorted(heard) == list("abc")


async def test_cancelled_waiting_loses_nothing(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        model = connection.model("p")
        await model.observe(state=state)
        received = await arrival(appliance)
        with trio.move_on_after(0.01) as scope:
            await model.get_result(PATIENCE_MS)
        assert scope.cancelled_caught
        appliance.reply(received, tensors={"action": state})
        assert await model.get_result(PATIENCE_MS) is not None
        assert await model.get_result(0) is None


async def test_the_task_brings_it_back_after_a_loss(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        appliance.stop()
        model = connection.model("p")
        while connection._link.up:  # noqa: ASYNC110  nobody tells
            await trio.sleep(0.001)
        await model.observe(state=state)
        appliance.start()
        appliance.reply(await arrival(appliance), tensors={"action": state})
        assert await model.get_result(PATIENCE_MS) is not None


async def test_results_and_ticks(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        model = connection.model("p", keep="all")
        began_ns = time.monotonic_ns()
        async for tick in model.ticks(hz=200):
            assert tick.time_ns >= began_ns
            await model.observe(state=state)
            appliance.reply(await arrival(appliance), tensors={"action": state})
            if tick.number >= 3:
                break
        sequences = [result.sequence async for result in model.results(PATIENCE_MS)]
        assert sequences == sorted(sequences)
        assert len(sequences) >= 1


async def test_an_episode(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        model = connection.model("p", step_period_ms=20)
        with model.episode() as episode:
            now = time.monotonic_ns()
            episode.observe(now, state=state)
            appliance.reply(
                await arrival(appliance), tensors={"actions": np.zeros((4, 2))}, horizon=4
            )
            while not episode.action(now).ok:  # noqa: ASYNC110  it is asked at each instant
                await trio.sleep(0.001)


async def test_the_end(appliance: FakeAppliance, state: State) -> None:
    async with connected(appliance) as connection:
        model = connection.model("p")
        await model.observe(state=state)
    assert connection.statistics().unanswered == 1
    with pytest.raises(LocalProtocolError, match="closed"):
        await model.observe(state=state)
    with pytest.raises(KeyError):
        async with TrioConnection(appliance.address):
            raise KeyError
