"""The asyncio face over real sockets."""

from __future__ import annotations

import asyncio
import random
import select
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from fake_appliance import PATIENCE_MS, FakeAppliance
from numpy.typing import NDArray

from appliance import AsyncConnection, Outcome, WindowFull
from appliance.errors import LocalProtocolError
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Kind

State = NDArray[Any]
pytestmark = pytest.mark.usefixtures("no_second_look")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 2 * PATIENCE_MS / 1000))


@asynccontextmanager
async def connected(appliance: FakeAppliance) -> AsyncIterator[AsyncConnection]:
    async with AsyncConnection(appliance.address, "r1", reconnect_ivl_ms=10) as connection:
        greeting = asyncio.ensure_future(connection.wait_reachable(PATIENCE_MS))
        appliance.reply(await appliance.arrival(heartbeat=True))
        assert await greeting
        yield connection


def test_an_answer(appliance: FakeAppliance, state: State) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            model = connection.model("p")
            sequence = await model.observe(state=state, prompt="pick")
            appliance.reply(appliance.receive(), tensors={"action": np.ones(2)})
            result = await model.get_result(PATIENCE_MS)
            assert result is not None
            assert (result.sequence, result.status) == (sequence, Outcome.OK)
            assert result["action"].tolist() == [1, 1]
            assert await model.get_result(0) is None
            assert await model.get_result(5) is None

    run(main())


def test_refusals_and_older_answers(appliance: FakeAppliance, state: State) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            model = connection.model("p")
            await model.observe(state=state)
            older = appliance.receive()
            await model.observe(state=state)
            newer = appliance.receive()
            appliance.reply(older)
            while connection.statistics().outstanding == 2:
                assert await model.get_result(5) is None
            appliance.reply(newer, Outcome.EXPIRED, message="too late")
            result = await model.wait(PATIENCE_MS)
            assert result is not None
            assert (result.status, result.message) == (Outcome.EXPIRED, "too late")
            assert connection.statistics().stale_dropped == 1

    run(main())


def test_what_waits_is_sent_without_another_call(tmp_path: Path, state: State) -> None:
    async def main() -> None:
        fake = FakeAppliance(f"ipc://{tmp_path}/late")
        async with AsyncConnection(fake.address, reconnect_ivl_ms=10) as connection:
            model = connection.model("p")
            for _ in range(100):
                await model.observe(state=state)
            assert connection.statistics().superseded_locally == 99
            fake.start()
            assert (await fake.arrival()).observation.sequence == 100
        fake.close()

    run(main())


def test_tasks_wait_for_their_own_models(appliance: FakeAppliance, state: State) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            p, q = connection.model("p"), connection.model("q")
            await p.observe(state=state)
            await q.observe(state=state)
            waiting = asyncio.gather(p.get_result(PATIENCE_MS), q.get_result(PATIENCE_MS))
            first, second = appliance.receive(), appliance.receive()
            appliance.reply(second)
            appliance.reply(first)
            assert [result and result["model_id"] for result in await waiting] == ["p", "q"]

    run(main())


def test_an_arrival_is_not_lost_to_another_tasks_sending(
    appliance: FakeAppliance, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            quiet, busy = connection.model("quiet"), connection.model("busy")
            await quiet.observe(state=state)
            waiting = asyncio.ensure_future(quiet.wait(PATIENCE_MS))
            await asyncio.sleep(0)
            asked = appliance.receive()
            link = connection._link
            send = link._send

            def send_while_the_answer_arrives() -> None:
                send()
                appliance.reply(asked)
                assert select.select(link.descriptors[:1], [], [], PATIENCE_MS / 1000)[0]
                link._socket.getsockopt(zmq.EVENTS)  # as any call may, it swallows the edge

            monkeypatch.setattr(link, "_send", send_while_the_answer_arrives)
            await busy.observe(state=state)
            assert await waiting is not None

    run(main())


def test_cancelled_waiting_loses_nothing(appliance: FakeAppliance, state: State) -> None:
    chance = random.Random(7)

    async def main() -> None:
        async with connected(appliance) as connection:
            model = connection.model("p", keep="all", window=300)
            asked = []
            for _ in range(300):
                asked.append(await model.observe(state=state))
                appliance.reply(appliance.receive())
            got: list[int] = []
            while len(got) < len(asked):
                waiting = asyncio.ensure_future(model.wait_for(asked[len(got)], PATIENCE_MS))
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.5:
                    waiting.cancel()
                try:
                    result = await waiting
                except asyncio.CancelledError:
                    continue
                assert result is not None
                got.append(result.sequence)
            assert got == asked
            assert not connection._link._waiters

    run(main())


def test_results(appliance: FakeAppliance, state: State) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            model = connection.model("p", keep="all", window=3)
            asked = [await model.observe(state=state) for _ in range(3)]
            with pytest.raises(WindowFull):
                await model.observe(state=state)
            for _ in asked:
                appliance.reply(appliance.receive())
            assert [result.sequence async for result in model.results(PATIENCE_MS)] == asked
            assert await connection.wait_settled(0)

    run(main())


def test_describe_and_the_calls_that_never_wait(appliance: FakeAppliance, state: State) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            model = connection.model("p")
            describing = asyncio.ensure_future(model.describe(PATIENCE_MS))
            await asyncio.sleep(0)
            appliance.reply(appliance.receive(), spec=ModelSpec("p", "1", (), ()))
            spec = await describing
            assert spec is not None
            assert spec.version == "1"
            model.observe_at({"state": state}, episode=2)
            model.cancel()
            model.end_episode()
            kinds = [appliance.receive().observation.kind for _ in range(3)]
            assert kinds == [Kind.OBSERVE, Kind.CANCEL, Kind.END_EPISODE]

    run(main())


def test_one_connection_can_outlive_its_event_loop(appliance: FakeAppliance, state: State) -> None:
    connection = AsyncConnection(appliance.address, reconnect_ivl_ms=10)
    model = connection.model("p")

    async def main() -> None:
        await model.observe(state=state)
        appliance.reply(await appliance.arrival())
        assert await model.get_result(PATIENCE_MS) is not None

    run(main())
    run(main())
    connection.close()
    assert connection.statistics().answers == {Outcome.OK: 2}


def test_closing_wakes_who_waits(appliance: FakeAppliance) -> None:
    async def main() -> None:
        async with connected(appliance) as connection:
            waiting = asyncio.ensure_future(connection.model("p").wait(PATIENCE_MS))
            await asyncio.sleep(0)
            connection.close()
            with pytest.raises(LocalProtocolError, match="closed"):
                await waiting

    run(main())
