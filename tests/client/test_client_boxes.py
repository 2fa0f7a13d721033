"""Several appliances: the first that answers is used, and nothing of another is heard."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_appliance import PATIENCE_MS, FakeAppliance
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance import AsyncConnection, Connection, Outcome
from appliance.client.boxes import SIGNS, Boxes

HEARTBEAT = 10
HEARTBEAT_MS = 30

State = NDArray[Any]


# ------------------------------------------------------------------------------- which one, pure


def boxes(count: int = 3) -> Boxes:
    return Boxes(tuple("abcdef"[:count]), HEARTBEAT, 0)


def test_silence_is_two_heartbeats_since_it_was_joined_or_asked() -> None:
    two = boxes(2)
    assert not two.is_silent(None, 19, up=False)
    assert two.is_silent(None, 20, up=False)
    assert not two.is_silent(None, 1000, up=True), "nobody has asked"
    assert not two.is_silent(5, 24, up=True)
    assert two.is_silent(5, 25, up=True)
    two.leave(25)
    assert not two.is_silent(None, 44, up=False)
    assert two.is_silent(None, 45, up=False)


def test_the_next_is_the_first_that_does_not_rest() -> None:
    three = boxes()
    three.leave(0)
    assert three.address == "b"
    three.leave(5)
    assert three.address == "c"
    three.leave(100)  # the rest of the first is over
    assert three.address == "a"


def test_rests_grow_and_are_short_again_after_a_proof() -> None:
    one = boxes(1)
    rests = []
    for _ in range(8):
        one.leave(0)
        rests.append(one._boxes[0].rests_until_ns)
    assert rests == [30, 60, 120, 240, 240, 240, 240, 240]
    one.proved()
    one.leave(0)
    assert one._boxes[0].rests_until_ns == 30


def test_a_better_one_is_used_after_signs_in_a_row() -> None:
    two = boxes(2)
    two.leave(0)
    assert two.better == ("a",)
    assert not two.sign("a", 10, alive=True)
    assert not two.sign("a", 20, alive=False)
    assert not two.sign("a", 30, alive=True)
    assert two.sign("a", 40, alive=True)
    assert (two.address, two.better) == ("a", ())
    assert SIGNS == 2


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from(["leave", "a", "b", "-a"]))),
)
def test_one_of_them_is_always_in_use(count: int, events: list[tuple[int, str]]) -> None:
    some = boxes(count)
    now = 0
    for wait, event in events:
        now += wait
        if event == "leave":
            left = some.current
            some.leave(now)
            assert count == 1 or some.current != left
        elif event.strip("-") in some.better:
            some.sign(event.strip("-"), now, alive="-" not in event)
        assert some.address in some.addresses
        assert not some.is_silent(None, some._joined_ns, up=False)


def test_each_is_tried_before_one_is_tried_again() -> None:
    some = boxes(4)
    tried = []
    for now in range(0, 4 * 2 * HEARTBEAT, 2 * HEARTBEAT):  # none of them says anything
        tried.append(some.address)
        some.leave(now + 2 * HEARTBEAT)
    assert tried == list("abcd")


# ---------------------------------------------------------------------------------- real sockets


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[FakeAppliance, FakeAppliance]]:
    made = FakeAppliance(f"ipc://{tmp_path}/a"), FakeAppliance(f"ipc://{tmp_path}/b")
    for fake in made:
        fake.start()
    yield made
    for fake in made:
        fake.close()


def connect(pair: tuple[FakeAppliance, FakeAppliance]) -> Connection:
    connection = Connection(
        [fake.address for fake in pair],
        "r1",
        reconnect_ivl_ms=5,
        reconnect_max_ms=10,
        heartbeat_ms=HEARTBEAT_MS,
    )
    connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
    return connection


def wait_for_arrival(connection: Connection, fake: FakeAppliance) -> None:
    """Let the connection work until the appliance was sent something."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not fake.has_message():
        assert time.monotonic() < deadline
        connection._link.wait(lambda: False, 1)


def test_silence_moves_on_and_old_answers_are_not_heard(
    pair: tuple[FakeAppliance, FakeAppliance], state: State
) -> None:
    first, second = pair
    with connect(pair) as connection:
        model = connection.model("p")
        model.observe(state=state)
        unanswered = first.receive()
        began = time.monotonic()
        wait_for_arrival(connection, second)  # its first heartbeat
        assert time.monotonic() - began >= 2 * HEARTBEAT_MS / 1000 - 0.01
        assert connection.statistics().unanswered == 1
        # The first one is there again, and answers what was given up.
        first.socket.setsockopt(33, 0)  # ROUTER_MANDATORY: the connection is gone
        first.reply(unanswered)
        asked = model.observe(state=state)
        received = second.receive()
        assert received.observation.sequence == asked
        second.reply(received, tensors={"action": state})
        result = model.get_result(PATIENCE_MS)
        assert result is not None
        assert result.sequence == asked
        statistics = connection.statistics()
        assert statistics.answers == {Outcome.OK: 1}
        assert (statistics.asked, statistics.ended, statistics.unmatched) == (2, 2, 0)


def test_what_was_not_sent_goes_to_the_other(
    tmp_path: Path, pair: tuple[FakeAppliance, FakeAppliance], state: State
) -> None:
    pair[0].stop()
    with Connection([fake.address for fake in pair], "r1", reconnect_ivl_ms=5) as connection:
        model = connection.model("p")
        model.observe(state=state)
        wait_for_arrival(connection, pair[1])
        pair[1].reply(pair[1].receive())
        assert model.get_result(PATIENCE_MS) is not None


def test_a_lost_connection_moves_on_at_once(
    pair: tuple[FakeAppliance, FakeAppliance], state: State
) -> None:
    first, second = pair
    with Connection([fake.address for fake in pair], "r1", heartbeat_ms=60_000) as connection:
        connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
        first.stop()
        connection.model("p").observe(state=state)
        wait_for_arrival(connection, second)
        assert second.receive().observation.model_id == "p"


def test_draining_moves_on(pair: tuple[FakeAppliance, FakeAppliance], state: State) -> None:
    first, second = pair
    with Connection([fake.address for fake in pair], "r1", heartbeat_ms=60_000) as connection:
        connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
        model = connection.model("p")
        model.observe(state=state)
        first.reply(first.receive(), Outcome.DRAINING)
        refused = model.wait(PATIENCE_MS)
        assert refused is not None
        assert refused.status is Outcome.DRAINING
        model.observe(state=state)
        wait_for_arrival(connection, second)
        assert second.receive().observation.model_id == "p"


def test_back_to_the_better_one_when_it_answers_again(
    pair: tuple[FakeAppliance, FakeAppliance], state: State
) -> None:
    first, _ = pair
    with connect(pair) as connection:
        first.stop()
        connection._link.wait(lambda: connection._link._boxes.current == 1, PATIENCE_MS)
        first.start()
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while connection._link._boxes.current == 1:
            assert time.monotonic() < deadline
            for fake in pair:
                if fake.has_message():
                    fake.reply(fake.receive(heartbeat=True))
            connection._link.wait(lambda: False, 1)
        model = connection.model("p")
        model.observe(state=state)
        wait_for_arrival(connection, first)


def test_an_event_loop_follows(pair: tuple[FakeAppliance, FakeAppliance], state: State) -> None:
    first, second = pair

    async def main() -> None:
        servers = [fake.address for fake in pair]
        async with AsyncConnection(servers, "r1", heartbeat_ms=HEARTBEAT_MS) as connection:
            model = connection.model("p")
            await model.observe(state=state)
            await first.arrival()
            first.stop()
            await second.arrival(heartbeat=True)
            await model.observe(state=state)
            second.reply(await second.arrival(), tensors={"action": np.ones(1, np.float32)})
            assert await model.get_result(PATIENCE_MS) is not None

    asyncio.run(asyncio.wait_for(main(), PATIENCE_MS / 1000))


def test_a_descriptor_for_other_loops(
    pair: tuple[FakeAppliance, FakeAppliance], state: State
) -> None:
    with connect(pair) as connection:
        fd = connection.fileno()
        model = connection.model("p")
        for fake in pair:
            model.observe(state=state)
            received = fake.receive()
            while select.select([fd], [], [], 0)[0]:
                connection.pump()
            fake.reply(received, tensors={"action": state})
            while model.get_result(0) is None:
                assert select.select([fd], [], [], PATIENCE_MS / 1000)[0], "it never told"
            fake.stop()
            connection._link.wait(lambda: connection._link._boxes.current == 1, PATIENCE_MS)
            connection._link.wait(lambda: connection._link.up, 100)
            assert connection.fileno() == fd


def test_no_server_at_all() -> None:
    with pytest.raises(ValueError, match="no server"):
        Connection([])


def test_a_pause_of_the_program_is_no_silence(
    pair: tuple[FakeAppliance, FakeAppliance], state: State
) -> None:
    first, _ = pair
    with connect(pair) as connection:
        model = connection.model("p")
        for _ in range(3):
            asked = model.observe(state=state)
            first.reply(first.receive(), tensors={"action": state})
            time.sleep(3 * HEARTBEAT_MS / 1000)  # it does something else
            result = model.get_result(PATIENCE_MS)
            assert result is not None
            assert result.sequence == asked
        assert connection._link._boxes.current == 0


def test_an_address_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="box-b"):
        Connection([f"ipc://{tmp_path}/a", "box-b"])
