"""What was recorded is asked again of a box that is slower, or asks for keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from support.box import box
from support.fleet_models import add_sleeper
from support.keys import KeyMaker
from support.recording import recording, replay

from appliance import Connection, Outcome
from appliance.wire.session import encode_observation
from appliance.wire.types import DType, Observation, Tensor

ASKED = 15
STATE = Tensor("state", DType.FLOAT32, (4,), 0, 16)


def sleeper(directory: Path, ms: float) -> Path:
    directory.mkdir()
    add_sleeper(directory, "sleeper", ms=ms)
    return directory


def ask(connection: Connection) -> None:
    """Ask again and again, each time with the answer at hand."""
    model = connection.model("sleeper", latency_budget_ms=5000)
    for number in range(ASKED):
        model.observe(state=np.full(4, number, np.float32))
        result = model.wait(10_000)
        assert result is not None
        assert result.status is Outcome.OK


def ask_as_veteran(address: str) -> None:
    """The same by the old wire."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.ROUTING_ID, b"veteran")
        socket.set(zmq.RCVTIMEO, 10_000)
        socket.set(zmq.LINGER, 0)
        socket.connect(address)
        for number in range(ASKED):
            asked = Observation(model_id="sleeper", tensors=(STATE,), timestamp_ns=number)
            payload = np.full(4, number, np.float32).tobytes()
            socket.send_multipart([b"", encode_observation(asked), payload])
            socket.recv_multipart()


def test_who_waits_for_answers_is_replayed_so_however_long_they_take(tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    with box(sleeper(tmp_path / "quick", 1)) as running, recording(running, path) as stop:
        with running.connect("arm") as arm:
            ask(arm)
        ask_as_veteran(running.address)
        assert stop()[0] == 0
    with box(sleeper(tmp_path / "slow", 60)) as slow:
        code, said = replay(path, slow.address, "--speed", "1000", "--json")
        result = json.loads(said)
        assert (code, result["agrees"]) == (0, True), said
        assert result["models"][0]["same"] == result["ok_compared"] == 2 * ASKED
        assert result["of_the_moment"] == []
        assert result["sent_late_us"] >= result["held_up_us"] > 2 * (ASKED - 1) * 50_000
        assert "held up by" in replay(path, slow.address, "--speed", "1000")[1]


def test_too_few_that_can_be_compared_are_no_agreement(tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    models = sleeper(tmp_path / "models", 1)
    with box(models) as running, recording(running, path) as stop:
        with running.connect("arm") as arm:
            ask(arm)
        assert stop()[0] == 0
    config = "[rate_limits]\nper_client_hz = 0.001\nburst_s = 3000.0\n"  # three come through
    with box(models, config=config) as limited:
        code, said = replay(path, limited.address)
    assert code == 1
    assert said.splitlines()[-1] == (
        f"too few could be compared: 3 of {ASKED} that were OK when recorded"
    )


def keyed(keys: KeyMaker, tmp_path: Path) -> str:
    return (
        f'[transport]\nbind = ["tcp://127.0.0.1:*", "ipc://{tmp_path}/door"]\n'
        f'[keys]\nrequired = true\ndirectory = "{keys.directory.path}"\n'
    )


def same(said: str) -> int:
    result: dict[str, Any] = json.loads(said)
    return sum(model["same"] for model in result["models"])


def test_a_box_that_asks_for_keys(tmp_path: Path) -> None:
    path, keys = tmp_path / "day.mcap", KeyMaker(tmp_path / "keys")
    arm, base = keys.client("arm"), keys.client("base")
    for each in (arm, base):
        each.write(tmp_path / f"{each.client}.key")
    models = sleeper(tmp_path / "models", 1)
    with box(models, config=keyed(keys, tmp_path)) as running:
        address, door = running.status()["binds"]
        with recording(running, path) as stop:
            with Connection(address, keys=arm) as connection:
                ask(connection)
            assert stop()[0] == 0
        for where in ("arm.key", "."):
            code, said = replay(path, address, "--keys", str(tmp_path / where), "--json")
            assert (code, same(said)) == (0, ASKED), said
        code, said = replay(path, door, "--json")  # where no key is asked for
        assert (code, same(said)) == (0, ASKED), said

        both = tmp_path / "both.mcap"
        with recording(running, both) as stop:
            for each in (arm, base):
                with Connection(address, keys=each) as connection:
                    ask(connection)
            assert stop()[0] == 0
        code, said = replay(both, address, "--keys", str(tmp_path), "--json")
        assert (code, same(said)) == (0, 2 * ASKED), said

        code, said = replay(path, address)
        assert code == 2
        assert "--keys" in said
        keys.directory.revoke("arm")
        running.wait_until(lambda _: '"revoked": 1' in running.log())
        code, said = replay(path, address, "--keys", str(tmp_path / "arm.key"))
        assert code == 2
        assert "for client 'arm' within 5 s: the appliance refused the key" in said
