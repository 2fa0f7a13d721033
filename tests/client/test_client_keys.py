"""What the SDK does with keys before anybody answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_appliance import PATIENCE_MS, FakeAppliance
from support.keys import KeyMaker

from appliance import AsyncConnection, ClientKeys, Connection, KeyFileError, Outcome
from appliance.client import watch

FACES = [Connection, AsyncConnection]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "robot-3.key"
    KeyMaker(tmp_path / "keys").client("robot-3").write(path)
    return path


@pytest.mark.parametrize("face", FACES)
def test_a_client_is_who_its_keys_say(face: type[Connection], file: Path) -> None:
    for keys in (file, str(file), ClientKeys.read(file)):
        for client_id in ("", "robot-3"):
            made = face("localhost:9", client_id, keys=keys)
            assert made.client_id == "robot-3"
            made.close()
    with pytest.raises(ValueError, match="client_id 'robot-4': the keys are those of 'robot-3'"):
        face("localhost:9", "robot-4", keys=file)


@pytest.mark.parametrize("face", FACES)
def test_a_key_that_others_can_read_is_refused(face: type[Connection], file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(KeyFileError, match="mode is 0644; chmod 600"):
        face("localhost:9", keys=file)
    with pytest.raises(KeyFileError, match="No such file"):
        face("localhost:9", keys="nowhere.key")


def test_nobody_is_told_from_somebody_without_keys(
    appliance: FakeAppliance, file: Path, tmp_path: Path
) -> None:
    quick = {"reconnect_ivl_ms": 10, "reconnect_max_ms": 20}
    with Connection(f"ipc://{tmp_path}/nowhere", keys=file, **quick) as connection:
        link = connection._link
        link.wait(lambda: bool(link.error), PATIENCE_MS)
        assert connection.last_error == watch.NOBODY
    with Connection(appliance.address, keys=file, **quick) as connection:
        link = connection._link
        link.wait(lambda: link.error != watch.NOBODY and bool(link.error), PATIENCE_MS)
        assert connection.last_error in (watch.CUT_WITH_KEY, watch.UNEXPECTED_KEY)
        assert not link.up


def test_a_connection_that_is_lost_says_so_and_one_that_is_there_has_no_error(
    appliance: FakeAppliance, connection: Connection
) -> None:
    assert connection.last_error == ""
    appliance.stop()
    connection._link.wait(lambda: not connection._link.up, PATIENCE_MS)
    assert connection.last_error in (watch.LOST, watch.NOBODY)
    appliance.start()
    connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
    assert connection.last_error == ""


def test_who_answers_and_does_not_serve_is_not_reached(
    appliance: FakeAppliance, connection: Connection
) -> None:
    thread = appliance.reply_from_a_thread_to_heartbeat(
        Outcome.UNAUTHENTICATED, message="the key of 'r1' was revoked"
    )
    assert not connection.wait_reachable(500)
    thread.join()
    assert connection.last_error == "UNAUTHENTICATED: the key of 'r1' was revoked"
    assert connection.last_heard_ns is None
    thread = appliance.reply_from_a_thread_to_heartbeat()
    assert connection.wait_reachable(PATIENCE_MS)
    thread.join()
    assert connection.last_error == ""
