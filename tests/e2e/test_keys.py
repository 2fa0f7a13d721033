"""Keys, with a real appliance: who comes in, who does not, and what changes while it runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.box import Box, box
from support.keys import KeyMaker

from appliance import AsyncConnection, ClientKeys, Connection, Outcome
from appliance.errors import KeyFileError
from appliance.sessions import fastpath

STATE = np.zeros(4, np.float32)
X = np.zeros(8, np.float32)
PATIENCE_MS = 10_000
QUICK: dict[str, Any] = {"reconnect_ivl_ms": 10, "reconnect_max_ms": 50}


@pytest.fixture
def keys(tmp_path: Path) -> KeyMaker:
    return KeyMaker(tmp_path / "keys")


@contextmanager
def keyed_box(models: Path, keys: KeyMaker, more: str = "", **options: Any) -> Iterator[Box]:
    config = (
        '[transport]\nbind = ["tcp://127.0.0.1:*"]\n'
        f'[keys]\nrequired = true\ndirectory = "{keys.directory.path}"\n{more}'
    )
    with box(models, config=config, **options) as running:
        (running.address,) = running.status()["binds"]
        yield running


@pytest.fixture
def running(models: Path, keys: KeyMaker) -> Iterator[Box]:
    with keyed_box(models, keys) as made:
        yield made


def answer(connection: Connection, *, model: str = "mlp") -> Outcome | None:
    asked = connection.model(model, latency_budget_ms=5000)
    asked.observe_at({"x": X} if model == "mlp" else {"state": STATE})
    result = asked.wait(PATIENCE_MS)
    return result and result.status


def test_who_has_the_right_key_is_served_and_nobody_else(running: Box, keys: KeyMaker) -> None:
    arm = keys.client("arm-3")
    revoked = keys.client("arm-4")
    keys.directory.revoke("arm-4")
    wrong = ClientKeys(
        public_key=arm.public_key,
        secret_key=arm.secret_key,
        server_key=keys.stranger().public_key,
    )
    with Connection(running.address, keys=arm, **QUICK) as connection:
        assert connection.client_id == "arm-3"
        assert connection.wait_reachable(PATIENCE_MS)
        assert connection.last_error == ""
        assert answer(connection) is Outcome.OK
    causes: set[str] = set()
    for refused, expected, why in (
        # It may see before the appliance does that they do not go together.
        (None, {"no_key", "broken_off"}, "handshake|asks for a key"),
        (keys.stranger(), {"unknown_key"}, "refused the key"),
        (revoked, {"revoked_key"}, "refused the key"),
        (wrong, {"wrong_server_key"}, "another server key"),
    ):
        with Connection(running.address, "arm-3" if refused is None else "", keys=refused) as other:
            other.model("mlp").observe_at({"x": X})
            assert not other.wait_reachable(500)
            assert any(part in other.last_error for part in why.split("|")), other.last_error
            assert other.statistics().sent == 0
        causes |= expected
        running.wait_until(
            lambda status, expected=expected: status["connections_refused"].keys() & expected
        )
    status = running.wait_settled()
    assert status["outcomes"] == {"OK": 1}
    assert status["state"] == "ready"
    assert status["connections_refused"].keys() <= causes


@pytest.mark.parametrize("fast_path", ["true", "false"])
def test_a_key_speaks_for_one_client_only(models: Path, keys: KeyMaker, fast_path: str) -> None:
    arm = keys.client("arm-3")
    # So that the SDK itself does not object.
    nameless = ClientKeys(
        public_key=arm.public_key, secret_key=arm.secret_key, server_key=arm.server_key
    )
    with (
        keyed_box(models, keys, overrides=(f"transport.fast_path={fast_path}",)) as running,
        Connection(running.address, "arm-4", keys=nameless) as liar,
        Connection(running.address, "arm-3", keys=nameless) as honest,
    ):
        assert not liar.wait_reachable(1000)
        assert liar.last_error == ("FORBIDDEN: the key is that of client 'arm-3', not of 'arm-4'")
        for _ in range(3):
            assert answer(liar) is Outcome.FORBIDDEN
            assert answer(honest) is Outcome.OK
        assert running.wait_settled()["outcomes"] == {"OK": 3, "FORBIDDEN": 3}
        assert {client["id"] for client in running.clients()} == {"arm-3"}
        ready = next(line for line in running.log().splitlines() if '"ready"' in line)
        assert f'"fast_path": {str(fast_path == "true" and not fastpath.missing).lower()}' in ready


def test_keys_come_and_go_while_others_are_served(running: Box, keys: KeyMaker) -> None:
    with Connection(running.address, keys=keys.client("steady"), **QUICK) as steady:
        for number in range(3):
            come_and_go(running, keys, f"arm-{number}", steady)
        assert steady.statistics().answers.keys() == {Outcome.OK}
        assert steady.statistics().unanswered == 0
    status = running.wait_settled()
    assert status["ledger"]["balanced"]
    assert status["outcomes"]["UNAUTHENTICATED"] >= 6


def come_and_go(running: Box, keys: KeyMaker, name: str, steady: Connection) -> None:
    """A client comes, is served, revoked, refused and authorised again; nobody else notices."""
    arm = keys.client(name)
    with Connection(running.address, keys=arm, **QUICK) as connection:
        assert connection.wait_reachable(PATIENCE_MS), connection.last_error
        assert answer(connection) is Outcome.OK
        keys.directory.revoke(name)
        deadline = time.monotonic() + 10
        while answer(connection) is Outcome.OK:
            assert time.monotonic() < deadline, "the key was revoked, and it is served"
            assert answer(steady) is Outcome.OK
        assert answer(connection) is Outcome.UNAUTHENTICATED
        assert connection.model("mlp").last_message == f"the key of '{name}' was revoked"
        assert not connection.wait_reachable(300)
        assert "UNAUTHENTICATED" in connection.last_error
    with Connection(running.address, keys=arm, **QUICK) as again:
        assert not again.wait_reachable(300)
        assert "refused the key" in again.last_error
        assert answer(steady) is Outcome.OK
        # The same key authorised anew lets it in by itself.
        keys.directory.authorise(name, arm.public_key)
        (keys.directory.path / "revoked" / f"{name}~1.pub").unlink()
        assert again.wait_reachable(PATIENCE_MS), again.last_error
        assert again.last_error == ""


def test_a_key_revoked_mid_session_ends_what_waits(running: Box, keys: KeyMaker) -> None:
    with Connection(running.address, keys=keys.client("arm"), **QUICK) as connection:
        assert connection.wait_reachable(PATIENCE_MS)
        model = connection.model("sleeper", keep="all", latency_budget_ms=5000)
        for _ in range(60):  # more than a second of work
            model.observe(state=STATE)
        while connection.statistics().sent < 60:
            connection.wait_settled(1)
        keys.directory.revoke("arm")
        told = Counter(result.status for result in model.results(PATIENCE_MS))
        assert sum(told.values()) == 60
        assert told.keys() == {Outcome.OK, Outcome.UNAUTHENTICATED}
        assert told[Outcome.UNAUTHENTICATED] > 20
        model.observe(state=STATE)
        assert model.get_result(PATIENCE_MS) is None
        assert model.last_status is Outcome.UNAUTHENTICATED
        status = running.wait_settled()
        assert status["outcomes"] == {
            "OK": told[Outcome.OK],
            "UNAUTHENTICATED": told[Outcome.UNAUTHENTICATED] + 1,
        }
        assert status["ledger"]["balanced"]


def test_keys_that_are_no_pair_are_refused_where_they_are_used(keys: KeyMaker) -> None:
    arm, other = keys.client("arm"), keys.client("other")
    mixed = ClientKeys(
        client="arm",
        public_key=arm.public_key,
        secret_key=other.secret_key,
        server_key=arm.server_key,
    )
    with pytest.raises(KeyFileError, match=r"client 'arm': .* are not of one pair"):
        Connection("127.0.0.1:1", keys=mixed)


def test_two_controllers_with_one_key_are_two_sessions_of_one_client(
    running: Box, keys: KeyMaker
) -> None:
    arm = keys.client("arm")
    with Connection(running.address, keys=arm) as one, Connection(running.address, keys=arm) as two:
        for _ in range(3):
            assert answer(one) is Outcome.OK
            assert answer(two) is Outcome.OK
        clients = running.clients()
        assert [client["id"] for client in clients] == ["arm", "arm"]
        assert clients[0]["session"] != clients[1]["session"]
        assert running.stop() == 0
        for connection in (one, two):
            connection._link.wait(lambda link=connection._link: not link.up, PATIENCE_MS)
            assert connection.last_error


def test_a_task_is_told_too(running: Box, keys: KeyMaker) -> None:
    arm, stranger = keys.client("arm"), keys.stranger()

    async def main() -> None:
        async with AsyncConnection(running.address, keys=arm) as connection:
            assert connection.client_id == "arm"
            assert await connection.wait_reachable(PATIENCE_MS)
            model = connection.model("mlp", latency_budget_ms=5000)
            await model.observe(x=X)
            assert await model.get_result(PATIENCE_MS) is not None
        async with AsyncConnection(running.address, keys=stranger, **QUICK) as refused:
            assert not await refused.wait_reachable(500)
            assert "refused the key" in refused.last_error

    asyncio.run(main())


def test_the_appliances_own_key_is_changed_bind_by_bind(
    models: Path, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    keys = KeyMaker(tmp_path / "keys", "main", "next")
    old, new = (f"tcp://127.0.0.1:{port}" for port in free_ports)
    before, after = keys.client("before", "main"), keys.client("after", "next")
    config = (
        f'[transport]\nbind = ["{old}", "{new}", "ipc://{tmp_path}/door"]\n'
        f'[keys]\nrequired = true\ndirectory = "{keys.directory.path}"\n'
        f'[keys.server_key_of]\n"{new}" = "next"\n'
    )
    with box(models, config=config) as running:
        assert running.status()["binds"] == [old, new, f"ipc://{tmp_path}/door"]
        for address, client, reached in (
            (old, before, True),
            (new, after, True),
            (old, after, False),
            (new, before, False),
        ):
            with Connection(address, keys=client, **QUICK) as connection:
                assert connection.wait_reachable(PATIENCE_MS if reached else 500) == reached
                if reached:
                    assert answer(connection) is Outcome.OK
        # A client that has been moved to the new key needs no other key of its own.
        moved = ClientKeys(
            client="before",
            public_key=before.public_key,
            secret_key=before.secret_key,
            server_key=keys.servers["next"].public_key,
        )
        with Connection(new, keys=moved) as connection:
            assert connection.wait_reachable(PATIENCE_MS)
        # Over the file of an ipc address, who may open it comes as who it says.
        with Connection(f"ipc://{tmp_path}/door", "anybody") as connection:
            assert answer(connection) is Outcome.OK


def test_an_ipc_address_may_ask_for_keys_too(models: Path, tmp_path: Path, keys: KeyMaker) -> None:
    config = (
        f'[transport]\nbind = ["ipc://{tmp_path}/door"]\n'
        f'[keys]\nrequired = true\nipc = true\ndirectory = "{keys.directory.path}"\n'
    )
    with box(models, config=config) as running:
        address = f"ipc://{tmp_path}/door"
        with Connection(address, "anybody", **QUICK) as connection:
            assert not connection.wait_reachable(500)
        with Connection(address, keys=keys.client("arm")) as connection:
            assert answer(connection) is Outcome.OK
        assert running.status()["connections_refused"].keys() & {"no_key", "broken_off"}


def serve(models: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    sets = [word for override in overrides for word in ("--set", override)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "appliance", "serve", "--models", str(models)),
            *("--socket", str(models / "admin.sock"), *sets),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_keys_that_cannot_be_used_stop_the_start(models: Path, keys: KeyMaker) -> None:
    asked = ("keys.required=true", f"keys.directory={keys.directory.path}")
    secret = keys.directory.path / "server" / "main.key"
    for prepare, said in (
        (lambda: secret.chmod(0o640), "its mode is 0640; chmod 600 it"),
        (secret.unlink, "`appliance keys new-server main` makes one"),
    ):
        prepare()
        done = serve(models, *asked, "transport.bind=['tcp://0.0.0.0:*']")
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_what_is_wrong_with_a_key_is_told(running: Box, keys: KeyMaker) -> None:
    steady = keys.client("steady")
    bad = keys.directory.path / "authorised" / "bad.pub"
    bad.write_text("nonsense")
    status = running.wait_until(lambda status: status["state"] == "degraded")
    assert "bad.pub: line 1" in status["reasons"][0]
    with Connection(running.address, keys=steady) as connection:
        assert answer(connection) is Outcome.OK
        (keys.directory.path / "authorised").chmod(0o777)
        status = running.wait_until(
            lambda status: "others than its owner may write" in str(status["reasons"])
        )
        assert answer(connection) is Outcome.OK
        (keys.directory.path / "authorised").chmod(0o755)
        bad.unlink()
        running.wait_until(lambda status: status["state"] == "ready")
