"""An appliance is recorded and asked the same again; what goes wrong is said, and harms nobody."""

from __future__ import annotations

import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from mcap.reader import make_reader
from support.box import Box, box
from support.fleet_models import add_sleeper
from support.recording import recording, replay, start
from support.repository import add_onnx_mlp
from support.writers import writer_of

from appliance import Outcome
from appliance.admin import client as admin
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.wire.pb import recording_pb2
from appliance.wire.session import encode_observation
from appliance.wire.types import DType, Observation, Tensor

ASKED = 40


def ask(running: Box) -> Counter[Outcome]:
    """Two robots ask, one of them for what is not there, too."""
    random = np.random.default_rng(3)
    with running.connect("arm") as one, running.connect("base") as two:
        mlp = one.model("mlp", latency_budget_ms=5000)
        sleeper = two.model("sleeper", latency_budget_ms=5000)
        for number in range(ASKED):
            mlp.observe_at({"x": random.standard_normal(8).astype(np.float32)})
            sleeper.observe(state=np.full(4, number, np.float32))
            assert mlp.wait(10_000) is not None
            assert sleeper.wait(10_000) is not None
        wrong = two.model("nobody")
        wrong.observe(state=np.zeros(4, np.float32))
        assert wrong.wait(10_000) is not None
        answers = (one.statistics().answers, two.statistics().answers)
        return Counter(answers[0]) + Counter(answers[1])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_onnx_mlp(root, "mlp")
    add_sleeper(root, "sleeper", ms=2)
    return root


@pytest.fixture
def running(repository: Path) -> Iterator[Box]:
    with box(repository) as running:
        yield running


def test_what_was_recorded_is_answered_the_same_again(running: Box, tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    with recording(running, path) as stop:
        answers = ask(running)
        code, said = stop()
    assert (code, answers) == (0, {Outcome.OK: 2 * ASKED, Outcome.UNKNOWN_MODEL: 1})
    assert "0 B" not in said
    with path.open("rb") as file:
        summary = make_reader(file, validate_crcs=True).get_summary()
        assert summary is not None
        assert summary.statistics is not None
        counts = summary.statistics.channel_message_counts
        topics = {summary.channels[number].topic: count for number, count in counts.items()}
    assert topics["/observations"] == topics["/outcomes"] == 2 * ASKED + 1
    assert topics["/batches"] == 2 * ASKED

    code, said = replay(path, running.address, "--json")
    result = json.loads(said)
    assert (code, result["agrees"]) == (0, True), said
    assert (result["sent"], result["connections"]) == (2 * ASKED + 1, 2)
    assert [m["name"] for m in result["models"]] == ["mlp", "nobody", "sleeper"]
    assert result["differences"] == []
    assert result["of_the_moment"] == []
    assert sum(m["same"] for m in result["models"]) == 2 * ASKED + 1
    assert running.wait_settled()["ledger"]["balanced"]


def test_another_model_is_found_out(running: Box, tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    with recording(running, path) as stop:
        ask(running)
        assert stop()[0] == 0
    other = tmp_path / "models"
    add_onnx_mlp(other, "mlp", seed=1)
    add_sleeper(other, "sleeper", ms=1)
    with box(other) as different:
        code, said = replay(path, different.address)
    assert code == 1
    assert said.splitlines()[-1].endswith(" differ")
    assert "output 'y': 4 of 4 values differ" in said


def test_old_clients_and_images_left_out(running: Box, tmp_path: Path) -> None:
    path = tmp_path / "old.mcap"
    state = Tensor("state", DType.FLOAT32, (4,), 0, 16)
    camera = Tensor("camera", DType.UINT8, (4, 4), 16, 16)
    context = zmq.Context()
    with recording(running, path, "--no-images") as stop:
        socket = context.socket(zmq.DEALER)
        socket.set(zmq.ROUTING_ID, b"veteran")
        socket.set(zmq.RCVTIMEO, 10_000)
        socket.connect(running.address)
        for number in range(10):
            old = Observation(model_id="sleeper", tensors=(state,), timestamp_ns=number)
            payload = np.full(4, number, np.float32).tobytes()
            socket.send_multipart([b"", encode_observation(old), payload])
            socket.recv_multipart()
        seen = Observation(model_id="sleeper", tensors=(state, camera), timestamp_ns=99)
        socket.send_multipart([b"", encode_observation(seen), bytes(32)])
        running.wait_until(lambda status: status["requests"]["asked"] == 11)
        socket.close(0)
        assert stop()[0] == 0
    context.term()
    code, said = replay(path, running.address, "--json")
    result = json.loads(said)
    (model,) = result["models"]
    assert (code, model["same"], model["left_out"]) == (0, 10, 1), said


def test_a_broken_file_is_one_line_that_says_where(running: Box, tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    with recording(running, path) as stop:
        ask(running)
        assert stop()[0] == 0
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[1000] ^= 0xFF  # in the first chunk
    path.write_bytes(broken)
    code, said = replay(path, running.address)
    assert code == 2
    assert said.startswith(f"appliance: error: {path}: at byte ")
    assert said.count("\n") == 1
    path.write_bytes(whole[:1000])  # cut off before its first chunk is whole
    code, said = replay(path, running.address)
    assert code == 2
    assert "no observations" in said
    assert running.status()["requests"]["asked"] == 2 * ASKED + 1  # nothing was sent


def test_nobody_answers(running: Box, tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    with recording(running, path) as stop:
        ask(running)
        assert stop()[0] == 0
    assert running.stop() == 0
    code, said = replay(path, f"ipc://{tmp_path}/nobody")
    assert code == 2
    assert "no appliance answers there" in said


def test_what_cannot_be_written_is_said_and_robots_notice_nothing(
    running: Box, tmp_path: Path
) -> None:
    (tmp_path / "there.mcap.partial").symlink_to("/dev/null")
    for path, why in (
        (tmp_path / "missing" / "a.mcap", "No such file or directory"),
        (tmp_path / "there.mcap", "is there already"),
        (Path("/dev/full/a.mcap"), "Not a directory"),
    ):
        with start(running, str(path), "--seconds", "5") as child:
            out, err = child.communicate(timeout=30)
        assert child.returncode == 2
        assert (out, err.count("\n")) == ("", 1)
        assert why in err
    assert sum(ask(running).values()) == 2 * ASKED + 1
    assert running.status()["state"] == "ready"


def test_a_file_limit_reached_in_the_middle(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with box(repository) as running:
        with recording(running, path) as stop, running.connect("arm") as connection:
            writer = writer_of(running.process.pid, path)
            resource.prlimit(writer, resource.RLIMIT_FSIZE, (20_000, 20_000))
            policy = connection.model("mlp", latency_budget_ms=5000)
            random = np.random.default_rng(0)
            state = ""
            for _ in range(20_000):
                policy.observe_at({"x": random.standard_normal(8).astype(np.float32)})
                answer = policy.wait(10_000)
                assert answer is not None
                assert answer.status is Outcome.OK
                if state == "failed":
                    break
                found = admin.get(running.socket, "/v1/recordings", 5.0)
                assert isinstance(found, dict)
                state = found["recordings"][0]["state"]
            code, said = stop()
        assert (code, state) == (1, "failed")
        assert "File too large" in said
        assert "can be read" in said
        status = running.wait_settled()
        assert status["state"] == "ready"
        assert set(status["outcomes"]) == {"OK"}
    reader = RecordingReader(path.with_name("a.mcap.partial"))
    list(reader.entries())
    assert reader.cut_off_at is not None


def test_a_killed_appliance_leaves_what_was_written(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with box(repository) as running:
        order = {"path": str(path), "seconds": 600}
        admin.post(running.socket, "/v1/recordings", 5.0, order)
        with running.connect("arm") as connection:
            policy = connection.model("mlp", latency_budget_ms=5000)
            written = 0
            while written < 10_000:
                policy.observe_at({"x": np.random.default_rng().standard_normal(8, np.float32)})
                assert policy.wait(10_000) is not None
                found = admin.get(running.socket, "/v1/recordings", 5.0)
                assert isinstance(found, dict)
                written = found["recordings"][0]["bytes"]
            running.process.kill()
            running.process.wait(10)
    deadline = time.monotonic() + 30
    while not path.exists():  # its writer outlives the appliance, and finishes it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    reader = RecordingReader(path)
    assert list(reader.entries())
    assert reader.metadata["recording"] == {"cut_off": "the appliance ended"}
    with box(repository) as another:
        code, said = replay(path, another.address, "--speed", "50", "--json")
    result = json.loads(said)
    assert result["cut_off_at"] is None
    assert code == 0, said
    assert result["models"][0]["same"] > 0


def test_a_lost_worker_leaves_a_file(repository: Path, tmp_path: Path) -> None:
    directory = tmp_path / "incidents"
    with box(repository, overrides=(f"recording.directory={directory}",)) as running:
        ask(running)
        running.kill_worker("cpu-0")
        deadline = time.monotonic() + 30
        while not (files := list(directory.glob("*.mcap"))):
            assert time.monotonic() < deadline, running.log()
            time.sleep(0.05)
        running.wait_until(lambda status: status["state"] == "ready")
        assert running.stop() == 0
    (path,) = files
    entries = list(RecordingReader(path).entries())
    seen = Counter(entry.topic for entry in entries)
    assert seen[Topic.OBSERVATIONS] >= 2 * ASKED
    downs = [
        message
        for entry in entries
        if entry.topic is Topic.WORKERS
        and (message := entry.read(recording_pb2.Worker)).event == recording_pb2.Worker.DOWN
    ]
    assert [message.worker for message in downs] == ["cpu-0"]


def test_a_drain_finishes_the_file(running: Box, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with recording(running, path) as _:
        ask(running)
        assert running.stop() == 0
    reader = RecordingReader(path)
    found = Counter(entry.topic for entry in reader.entries())
    assert found[Topic.OBSERVATIONS] == 2 * ASKED + 1
    assert reader.cut_off_at is None
