"""A session belongs to a key, on the fast path as on the slow one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
import zmq
from attrs import evolve
from support.core import Core
from support.keys import KeyMaker
from support.pair import BARE, FORMS, SPEC, payload_of

from appliance.client.curve import use_keys
from appliance.client.watch import Watch
from appliance.errors import Outcome
from appliance.keys.directory import SETTLED_NS
from appliance.keys.files import ClientKeys
from appliance.sessions import fastpath
from appliance.sessions.binds import bind_all
from appliance.sessions.gate import Gate
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import Keep, Kind, Observation, Response

PATHS = [
    pytest.param(
        True,
        id="fast",
        marks=pytest.mark.skipif(bool(fastpath.missing), reason=fastpath.missing),
    ),
    pytest.param(False, id="slow"),
]


BEAT = Observation(kind=Kind.HEARTBEAT, protocol_version=1)


class KeyedCore:
    """A core at an address that asks for keys."""

    def __init__(self, directory: Path, *, fast_path: bool) -> None:
        self.keys = KeyMaker(directory / "keys")
        self.arm = self.keys.client("arm-3")
        self.other = self.keys.client("arm-4")
        self.keys.directory.read()
        address = f"ipc://{directory}/door"
        secret = self.keys.servers["main"].secret_key.encode()
        self.gate = Gate(self.keys.directory, {address: secret}, everywhere=True)
        self.core = Core(address, SPEC, fast_path=fast_path, gate=self.gate)

    async def connect(
        self, name: bytes, keys: ClientKeys, first: Observation = BEAT
    ) -> zmq.Socket[bytes]:
        """Connect a robot, with the gate there to let it in; the door takes what it says first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.gate.run)
            robot = self.core.robot(name, keys)
            payload = payload_of(first) if first.tensors else b""
            robot.send_multipart([b"", encode_observation(first), payload])
            with trio.fail_after(10):
                while not self.core.door._raw.poll(0):  # noqa: ASYNC110  # libzmq's thread
                    await trio.sleep(0.002)
            nursery.cancel_scope.cancel()
        self.core.door._take_burst()
        if first is BEAT:
            assert heard(robot).kind is Kind.HEARTBEAT
        return robot

    async def let_the_gate_run(self, *, until: Callable[[], object]) -> None:
        """Let it look at the keys until something has come of it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.gate.run)
            with trio.fail_after(10):
                while not until():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    def ask(self, name: bytes, observation: Observation) -> None:
        self.core.ask(name, b"", encode_observation(observation), payload_of(observation))

    def outcomes(self) -> dict[str, int]:
        return self.core.ledger.overall.outcomes()

    def close(self) -> None:
        self.core.close()


def heard(robot: zmq.Socket[bytes]) -> Response:
    empty, envelope, payload = robot.recv_multipart()
    assert empty == b""
    return decode_response(envelope, len(payload))


@pytest.fixture(params=PATHS)
async def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyedCore]:
    with closing(KeyedCore(tmp_path, fast_path=request.param)) as made:
        yield made


def fast(keyed: KeyedCore, count: int) -> int:
    """As many as took the fast path, if there is one."""
    return count if keyed.core.door.has_fast_path else 0


async def test_observations_of_a_keyed_session_take_the_fast_path(keyed: KeyedCore) -> None:
    robot = await keyed.connect(b"arm-3", keyed.arm)
    for number in range(5):
        keyed.ask(b"arm-3", evolve(BARE, sequence=number + 1))
        assert keyed.core.finish()
        assert heard(robot).outcome is Outcome.OK
    assert keyed.core.fast == fast(keyed, 4)
    (session,) = keyed.core.door.table
    assert (session.client, session.key) == ("arm-3", keyed.arm.public_key)


async def test_another_clients_name_is_forbidden(keyed: KeyedCore) -> None:
    robot = await keyed.connect(b"arm-4", keyed.other)
    for number in range(3):
        keyed.ask(b"arm-4", evolve(BARE, sequence=number + 1))
        answer = heard(robot)
        assert answer.outcome is Outcome.FORBIDDEN
        assert "'arm-4', not of 'arm-3'" in answer.message
    assert keyed.outcomes() == {"FORBIDDEN": 3}
    assert keyed.core.fast == 0
    (session,) = keyed.core.door.table
    assert session.client == "arm-4"


async def test_a_client_of_the_old_wire_is_who_its_key_says(keyed: KeyedCore) -> None:
    robot = await keyed.connect(b"whoever", keyed.other)
    old = FORMS[-1]
    assert not old.protocol_version
    keyed.ask(b"whoever", old)
    keyed.core.finish()
    assert heard(robot).client_id == "arm-4"
    (session,) = keyed.core.door.table
    assert session.client == "arm-4"


async def test_who_comes_under_the_routing_id_of_one_that_left_inherits_nothing(
    keyed: KeyedCore,
) -> None:
    robot = await keyed.connect(b"same", keyed.arm)
    for number in range(3):
        keyed.ask(b"same", evolve(BARE, sequence=number + 1, keep=Keep.ALL))
    assert keyed.core.fast == fast(keyed, 2)
    keyed.core.leave(b"same")
    assert robot.closed
    assert not keyed.core.door._raw.poll(50)  # and the name is free
    # The very bytes that took the fast path before.
    again = evolve(BARE, sequence=4, keep=Keep.ALL)
    thief = await keyed.connect(b"same", keyed.other, again)
    assert heard(thief).outcome is Outcome.FORBIDDEN
    assert keyed.core.fast == fast(keyed, 2)
    while keyed.core.finish():
        pass
    # What the first had under way is nobody's: no answer of it comes to the second.
    assert not thief.poll(50)
    assert keyed.outcomes() == {"CLIENT_GONE": 3, "FORBIDDEN": 1}
    for number in range(2):
        keyed.ask(b"same", evolve(BARE, client_id="arm-4", sequence=number + 5))
        keyed.core.finish()
        assert heard(thief).client_id == "arm-4"
    assert keyed.core.fast == fast(keyed, 3)


async def test_a_revoked_key_ends_its_session_at_once(keyed: KeyedCore) -> None:
    robot = await keyed.connect(b"arm-3", keyed.arm)
    bystander = await keyed.connect(b"arm-4", keyed.other)
    for number in range(6):
        keyed.ask(b"arm-3", evolve(BARE, sequence=number + 1, keep=Keep.ALL))
    keyed.ask(b"arm-4", evolve(BARE, client_id="arm-4", sequence=1))
    assert keyed.core.fast == fast(keyed, 5)

    keyed.keys.directory.revoke("arm-3")
    await keyed.let_the_gate_run(until=lambda: keyed.core.door.table.gone)
    while keyed.core.finish():
        pass
    assert heard(bystander).outcome is Outcome.OK
    # Each is told: what ran by then is answered, what waited is not.
    told = Counter(heard(robot).outcome for _ in range(6))
    assert told.keys() == {Outcome.OK, Outcome.UNAUTHENTICATED}
    assert keyed.outcomes() == {
        "OK": told[Outcome.OK] + 1,
        "UNAUTHENTICATED": told[Outcome.UNAUTHENTICATED],
    }

    keyed.ask(b"arm-3", evolve(BARE, sequence=7))
    answer = heard(robot)
    assert answer.outcome is Outcome.UNAUTHENTICATED
    assert "'arm-3' was revoked" in answer.message
    assert keyed.outcomes()["UNAUTHENTICATED"] == told[Outcome.UNAUTHENTICATED] + 1
    assert keyed.core.fast == fast(keyed, 5)
    for kind, outcome in ((Kind.HEARTBEAT, 14), (Kind.DESCRIBE, 14)):
        control = Observation(kind=kind, protocol_version=1, client_id="arm-3", model_id="policy")
        keyed.core.ask(b"arm-3", b"", encode_observation(control), b"")
        answer = heard(robot)
        assert (answer.kind, answer.outcome) == (kind, outcome)
        assert answer.spec is None


async def test_a_key_that_becomes_another_clients_ends_its_session(keyed: KeyedCore) -> None:
    robot = await keyed.connect(b"arm-3", keyed.arm)
    for number in range(6):
        keyed.ask(b"arm-3", evolve(BARE, sequence=number + 1, keep=Keep.ALL))
    assert keyed.core.fast == fast(keyed, 5)
    authorised = keyed.keys.directory.path / "authorised"
    (authorised / "arm-3.pub").rename(authorised / "other.pub")
    await keyed.let_the_gate_run(until=lambda: keyed.core.door.table.gone)
    while keyed.core.finish():
        pass
    told = Counter(heard(robot).outcome for _ in range(6))
    assert told.keys() == {Outcome.OK, Outcome.FORBIDDEN}
    keyed.ask(b"arm-3", evolve(BARE, sequence=7))
    answer = heard(robot)
    assert answer.outcome is Outcome.FORBIDDEN
    assert "'other', not of 'arm-3'" in answer.message
    for number in range(3):
        keyed.ask(b"arm-3", evolve(BARE, client_id="other", sequence=number + 8))
        keyed.core.finish()
        assert heard(robot).outcome is Outcome.OK
    assert keyed.core.fast == fast(keyed, 7)
    (session,) = keyed.core.door.table
    assert session.client == "other"


async def test_what_was_wrong_with_a_key_is_looked_at_again_by_itself(keyed: KeyedCore) -> None:
    (keyed.keys.directory.path / "authorised" / "arm-3.pub").chmod(0o666)
    keyed.keys.client("arm-5")  # something that a directory's time tells
    await keyed.let_the_gate_run(until=keyed.gate.problems)
    while keyed.keys.directory.is_stale(time.monotonic_ns() + 2 * SETTLED_NS):
        pass  # the times of the directories have nothing more to tell
    (keyed.keys.directory.path / "authorised" / "arm-3.pub").chmod(0o644)
    await keyed.let_the_gate_run(until=lambda: not keyed.gate.problems())
    assert keyed.gate.keyring.client_of(keyed.arm.public_key) == "arm-3"


async def test_where_nobody_answers_for_the_gate_nobody_comes_in(tmp_path: Path) -> None:
    keys = KeyMaker(tmp_path / "keys")
    arm, address = keys.client("arm"), f"ipc://{tmp_path}/door"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        bind_all(door, [address], {address: keys.servers["main"].secret_key.encode()})
        with context.socket(zmq.DEALER) as robot:
            robot.set(zmq.LINGER, 0)
            use_keys(robot, arm)
            with closing(Watch(robot, context, "robot", keyed=True)) as watch:
                robot.connect(address)
                poller = zmq.Poller()
                poller.register(watch.descriptor, zmq.POLLIN)
                news: list[bool] = []
                while not news:
                    assert poller.poll(10_000)
                    news = list(watch.news())
                assert not news[0]


async def test_garbage_of_a_keyed_connection_is_counted_as_its_own(keyed: KeyedCore) -> None:
    await keyed.connect(b"arm-3", keyed.arm)
    keyed.core.ask(b"arm-3", b"", b"\xff", b"")
    keyed.core.ask(b"arm-3", b"x")
    assert keyed.outcomes() == {"INVALID": 2}
    (session,) = keyed.core.door.table
    assert (session.client, session.observations) == ("arm-3", 2)
