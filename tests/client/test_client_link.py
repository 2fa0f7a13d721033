"""What a lost connection takes with it, and what it leaves: over real sockets."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from fake_appliance import PATIENCE_MS, FakeAppliance
from numpy.typing import NDArray

from appliance import AsyncConnection, Connection, Outcome
from appliance.client import link as link_module
from appliance.client.link import Link
from appliance.wire.types import Kind

State = NDArray[Any]
ANSWERS = 50


def await_end(link: Link) -> None:
    """Wait, without a call to the SDK, until the connection that was up is over for libzmq."""
    _, reports = link.descriptors
    assert select.select([reports], [], [], PATIENCE_MS / 1000)[0]


@pytest.fixture(params=["ipc", "tcp"])
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeAppliance]:
    """An appliance that is not up yet."""
    made = FakeAppliance(
        f"ipc://{tmp_path}/wire" if request.param == "ipc" else f"tcp://127.0.0.1:{free_port()}"
    )
    yield made
    made.close()


def as_named(address: str) -> str:
    """Return the same address as a user may write it."""
    return address.replace("127.0.0.1", "localhost")


def free_port() -> int:
    """Return a port that stays free: one that nobody gets who does not ask for it."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def ask_and_lose(fake: FakeAppliance, connection: Connection | AsyncConnection) -> list[int]:
    """Have everything answered, and the appliance gone, before the client makes another call."""
    model = connection.model("p", keep="all")
    asked = []
    for number in range(ANSWERS):
        asked.append(model.observe_at({"state": np.full(1000, number, np.float32)}))
        fake.reply(fake.receive(), tensors={"action": np.full(1000, number, np.float32)})
    fake.stop(linger_ms=PATIENCE_MS)
    await_end(connection._link)
    return asked


def test_what_was_answered_before_the_end_is_read_after_it(fake: FakeAppliance) -> None:
    fake.start()
    with Connection(as_named(fake.address), reconnect_ivl_ms=10) as connection:
        connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
        asked = ask_and_lose(fake, connection)
        results = list(connection.model("p").results(0))
        assert [result.sequence for result in results] == asked
        assert [result["action"][0] for result in results] == list(range(ANSWERS))
        assert connection.statistics().answers == {Outcome.OK: ANSWERS}


def test_what_was_answered_before_the_end_is_read_after_it_by_a_task(fake: FakeAppliance) -> None:
    fake.start()

    async def main() -> None:
        async with AsyncConnection(as_named(fake.address), reconnect_ivl_ms=10) as connection:
            connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
            asked = ask_and_lose(fake, connection)  # keeps the event loop from running meanwhile
            results = connection.model("p").results(PATIENCE_MS)
            assert [result.sequence async for result in results] == asked

    asyncio.run(main())


def test_a_client_is_back_after_any_number_of_losses(fake: FakeAppliance, state: State) -> None:
    identities = set()
    with Connection(as_named(fake.address), reconnect_ivl_ms=1, reconnect_max_ms=10) as connection:
        model = connection.model("p")
        for _ in range(5):
            fake.start()
            sequence = model.observe(state=state)
            while not fake.has_message():
                connection.wait_settled(10)
            received = fake.receive()
            assert received.observation.sequence == sequence
            identities.add(received.identity)
            fake.reply(received)
            assert model.get_result(PATIENCE_MS) is not None
            fake.stop()
            await_end(connection._link)
        statistics = connection.statistics()
        assert (statistics.asked, statistics.sent) == (5, 5)
        assert statistics.answers == {Outcome.OK: 5}
    # Each time by another name: an appliance that still has the old connection hears no second
    # one of its name.
    assert len(identities) == 5


DEAF = """
import sys, time, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.setsockopt(zmq.RCVHWM, 1)
socket.bind(sys.argv[1])
print("ready", flush=True)
time.sleep(3600)
"""


def test_what_the_lost_connection_had_not_sent_is_never_sent(fake: FakeAppliance) -> None:
    command = [sys.executable, "-c", DEAF, fake.address]
    deaf = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    image = np.zeros((1000, 1000), np.uint8)
    try:
        deaf.stdout.readline()
        with Connection(as_named(fake.address), reconnect_ivl_ms=10) as connection:
            link, model = connection._link, connection.model("p", keep="all")
            link.wait(lambda: link.up, PATIENCE_MS)
            stale = [model.observe(image=image)]
            while link._socket.poll(0, zmq.POLLOUT):  # until ZeroMQ takes no more
                stale.append(model.observe(image=image))
            taken = connection.statistics().sent
            assert taken >= link_module.SEND_MARK
            connection.model("q").observe()
            deaf.kill()
            deaf.wait()  # until the address is free
            await_end(link)
            fake.start()
            assert not fake.socket.poll(200)  # twenty pauses: nothing comes by itself
            waiting = [*stale[taken:], stale[-1] + 1]
            arrived = []
            while len(arrived) < len(waiting):
                connection.wait_settled(1)
                if fake.has_message():
                    arrived.append(fake.receive().observation.sequence)
            assert arrived == waiting
            connection.model("q").observe()
            assert fake.receive().observation.sequence == waiting[-1] + 1
    finally:
        deaf.kill()
        deaf.wait()
        deaf.stdout.close()


def test_what_does_not_speak_zeromq_is_tried_again(state: State) -> None:
    fake = FakeAppliance(f"tcp://127.0.0.1:{free_port()}")
    name, port = fake.address.removeprefix("tcp://").split(":")
    with Connection(fake.address, reconnect_ivl_ms=1, reconnect_max_ms=2) as connection:
        with socket.create_server((name, int(port))) as listener:
            for _ in range(3):
                while not select.select([listener], [], [], 0)[0]:
                    connection.wait_settled(0)
                stranger, _ = listener.accept()
                with stranger:
                    stranger.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        fake.start()
        connection.model("p").observe(state=state)
        while not fake.has_message():
            connection.wait_settled(1)
    fake.close()


def test_pauses_double_up_to_the_longest_and_begin_again(tmp_path: Path) -> None:
    fake = FakeAppliance(f"ipc://{tmp_path}/late")
    with Connection(fake.address, reconnect_ivl_ms=1, reconnect_max_ms=6) as connection:
        link, pauses = connection._link, set()

        def longest() -> bool:
            pauses.add(link._pause_ns)
            return link._pause_ns == 6_000_000

        link.wait(longest, PATIENCE_MS)
        assert pauses <= {1_000_000, 2_000_000, 4_000_000, 6_000_000}
        fake.start()
        link.wait(lambda: link.up, PATIENCE_MS)
        assert (link.up, link._pause_ns) == (True, 1_000_000)
    fake.close()


def test_an_event_loop_that_runs_keeps_the_session(appliance: FakeAppliance) -> None:
    async def main() -> None:
        async with AsyncConnection(appliance.address, heartbeat_ms=5) as connection:
            connection.model("p").cancel()  # any call: from here on nobody waits for anything
            for _ in range(5):
                received = await appliance.arrival(heartbeat=True)
                assert received.observation.kind is Kind.HEARTBEAT

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_MS / 1000))
