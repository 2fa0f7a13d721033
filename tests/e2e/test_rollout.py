"""Models are loaded, swapped and unloaded while robots and other clients are served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.box import Box, box
from support.grpc import OVERRIDE, channel, method, refusal, request
from support.repository import add_python_model
from support.versions import BUDGET_S, MANIFEST, Asker, X, add_version, infer, wait_for

from appliance.admin import client as admin
from appliance.cli import main
from appliance.errors import AdminError
from appliance.wire.pb import inference_pb2 as pb

CONTROL = "ingest.grpc.model_control=true"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    add_version(directory, 1)
    add_version(directory, 1, "vision")
    return directory


@pytest.fixture
def running(models: Path) -> Iterator[Box]:
    with box(models, overrides=(OVERRIDE, CONTROL)) as running:
        running.wait_settled()
        yield running
        assert running.stop() == 0


def load(open_channel: grpc.Channel, name: str = "policy") -> None:
    method(open_channel, "RepositoryModelLoad")(
        pb.RepositoryModelLoadRequest(model_name=name), timeout=60
    )


# --------------------------------------------------------------------------------- under load


def test_a_new_version_is_swapped_in_under_load(running: Box, models: Path) -> None:
    robot = running.connect("robot")
    policy = robot.model("policy", latency_budget_ms=1000 * BUDGET_S, lateness="firm")
    with channel(running) as open_channel:
        askers = [Asker(open_channel, "policy") for _ in range(4)]
        others = [Asker(open_channel, "vision") for _ in range(2)]
        for asker in (*askers, *others):
            asker.start()
        try:
            wait_for(askers, "1")
            for version in (2, 3, 4):
                add_version(models, version)
                load(open_channel)
                wait_for(askers, str(version))
                result = policy.wait_for(policy.observe(state=X[0]), 10_000)
                assert result is not None
                assert (result["action"] - X[0]).tolist() == [version] * 4
            wait_for(others, "1")
        finally:
            for asker in (*askers, *others):
                asker.is_over.set()
            for asker in (*askers, *others):
                asker.join()
    robot.close()
    for asker in askers:
        assert asker.error is None
        assert all(float(version) == added for version, added in asker.answers)
        versions = [int(version) for version, _ in asker.answers]
        assert versions == sorted(versions)
    assert all(asker.error is None for asker in others)
    status = running.status()
    assert status["state"] == "ready"
    assert {each["name"]: each["version"] for each in status["models"]} == {
        "policy": "4",
        "vision": "1",
    }
    assert set(status["outcomes"]) == {"OK"}
    assert status["requests"]["late"] == 0
    (worker,) = status["workers"]
    assert worker["generation"] == 4
    assert worker["rows_finished"] == status["outcomes"]["OK"]
    assert status["ledger"]["balanced"]


def test_former_processes_do_not_stay(running: Box, models: Path) -> None:
    former = running.worker_pid("cpu-0")
    add_version(models, 2)
    with channel(running) as open_channel:
        load(open_channel)
    assert running.worker_pid("cpu-0") != former
    assert not Path(f"/proc/{former}").exists()
    assert running.status()["pending"] == []


# ------------------------------------------------------------------------------------ failures


def test_a_version_that_does_not_load_changes_nothing(running: Box, models: Path) -> None:
    before = running.worker_pid("cpu-0")
    add_version(models, 2, source="raise ValueError('no weights here')")
    with channel(running) as open_channel:
        error = refusal(lambda: load(open_channel))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "no weights here" in error.details()
        assert infer(open_channel) == ("1", 1.0)
    status = running.status()
    assert status["state"] == "ready"
    assert running.worker_pid("cpu-0") == before


def test_a_version_that_takes_its_process_with_it_changes_nothing(
    running: Box, models: Path
) -> None:
    add_version(models, 2, source="import os\nos._exit(3)")
    with channel(running) as open_channel:
        error = refusal(lambda: load(open_channel))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "exit" in error.details()
        assert infer(open_channel) == ("1", 1.0)
        add_version(models, 3)
        load(open_channel)
        assert infer(open_channel) == ("3", 3.0)
    assert running.status()["state"] == "ready"


def test_other_inputs_need_another_version(running: Box, models: Path) -> None:
    add_version(models, 1, width=5)
    with channel(running) as open_channel:
        error = refusal(lambda: load(open_channel))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "new version" in error.details()
        assert infer(open_channel) == ("1", 1.0)


def test_what_cannot_be_loaded_is_said(running: Box, models: Path) -> None:
    (models / "broken").mkdir()
    with channel(running) as open_channel:
        unknown = refusal(lambda: load(open_channel, "nothing"))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert "policy, vision" in unknown.details()
        broken = refusal(lambda: load(open_channel, "broken"))
        assert broken.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "model.toml" in broken.details()
        asked = pb.RepositoryModelLoadRequest(model_name="policy")
        asked.parameters["config"].string_param = "{}"
        overridden = refusal(lambda: method(open_channel, "RepositoryModelLoad")(asked))
        assert overridden.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "config" in overridden.details()
        named = pb.RepositoryModelLoadRequest(model_name="policy", repository_name="other")
        elsewhere = refusal(lambda: method(open_channel, "RepositoryModelLoad")(named))
        assert elsewhere.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "there is one repository" in elsewhere.details()


def test_names_that_are_no_text_are_told_with_escapes(models: Path) -> None:
    (models / os.fsdecode(b"caf\xe9")).mkdir()
    overrides = (OVERRIDE, CONTROL)
    with (
        box(models, overrides=overrides, state="degraded") as running,
        channel(running) as open_channel,
    ):
        (models / os.fsdecode(b"na\xefve")).mkdir()
        unknown = refusal(lambda: load(open_channel, "nothing"))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert "there is caf\\xe9, na\\xefve, policy, vision" in unknown.details()
        index = method(open_channel, "RepositoryIndex")(pb.RepositoryIndexRequest(), timeout=10)
        assert {each.name for each in index.models} == {"caf\\xe9", "policy", "vision"}
        unserved = refusal(lambda: infer(open_channel, "nothing"))
        assert unserved.code() is grpc.StatusCode.NOT_FOUND
        assert infer(open_channel) == ("1", 1.0)


def test_models_are_not_changed_through_a_door_that_is_not_let(models: Path) -> None:
    with box(models, overrides=(OVERRIDE,)) as running, channel(running) as open_channel:
        running.wait_settled()
        error = refusal(lambda: load(open_channel))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "ingest.grpc.model_control" in error.details()


@pytest.mark.parametrize("action", ["load", "unload"])
def test_the_one_that_serves_may_die_while_its_successor_loads(
    running: Box, models: Path, action: str
) -> None:
    slow = "import time\ntime.sleep(1)\n"
    add_version(models, 2, "vision", source=slow + "def run(batch):\n    return batch\n")
    with channel(running) as open_channel:
        load(open_channel, "vision")  # whoever loads it again takes a second
        if action == "load":
            add_version(models, 2)
            asked = method(open_channel, "RepositoryModelLoad").future(
                pb.RepositoryModelLoadRequest(model_name="policy"), timeout=60
            )
        else:
            asked = method(open_channel, "RepositoryModelUnload").future(
                pb.RepositoryModelUnloadRequest(model_name="policy"), timeout=60
            )
        running.kill_worker("cpu-0")
        asked.result()
        if action == "load":
            assert infer(open_channel) == ("2", 2.0)
        running.wait_until(lambda status: status["state"] == "ready")
        if action == "load":
            assert infer(open_channel) == ("2", 2.0)
    assert running.status()["ledger"]["balanced"]


# ---------------------------------------------------------------------------- its neighbours


def test_a_neighbour_whose_files_give_something_else_by_now_stays_as_it_is(
    running: Box, models: Path
) -> None:
    widened = "def run(batch):\n    return {'other': batch['state'][:, :2]}\n"
    (models / "vision" / "1" / "policy.py").write_text(widened)
    add_version(models, 2)
    with channel(running) as open_channel:
        error = refusal(lambda: load(open_channel))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "'vision', which shares a worker with 'policy'" in error.details()
        assert infer(open_channel) == ("1", 1.0)
        assert infer(open_channel, "vision") == ("1", 1.0)
        gone = refusal(
            lambda: method(open_channel, "RepositoryModelUnload")(
                pb.RepositoryModelUnloadRequest(model_name="policy"), timeout=60
            )
        )
        assert "'vision'" in gone.details()
        add_version(models, 1, "vision")
        load(open_channel)
        assert infer(open_channel) == ("2", 2.0)
        assert infer(open_channel, "vision") == ("1", 1.0)


def test_a_neighbour_that_does_not_load_any_more_stays_as_it_is(running: Box, models: Path) -> None:
    (models / "vision" / "1" / "policy.py").write_text("raise ValueError('no weights here')")
    add_version(models, 2)
    with channel(running) as open_channel:
        error = refusal(lambda: load(open_channel))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "'vision', which shares a worker with 'policy', failed" in error.details()
        assert "no weights here" in error.details()
        assert infer(open_channel) == ("1", 1.0)
        assert infer(open_channel, "vision") == ("1", 1.0)
    assert running.status()["state"] == "ready"


def test_a_neighbour_is_served_by_the_manifest_and_version_it_was(
    running: Box, models: Path
) -> None:
    add_version(models, 2, "vision", width=5)  # for both versions
    add_version(models, 2)
    with channel(running) as open_channel:
        load(open_channel)
        assert infer(open_channel) == ("2", 2.0)
        assert infer(open_channel, "vision") == ("1", 1.0)


WIDE = """
import numpy as np
def run(batch):
    return {{"action": np.zeros((len(batch["state"]), {floats}), np.float32)}}
"""


def test_a_successor_needs_room_for_its_largest_outputs_alone(tmp_path: Path) -> None:
    models = tmp_path / "models"
    manifest = MANIFEST.format(width=4).replace("max_batch = 8", "max_batch = 1")
    large, small = 1 << 20, 3 << 18
    for name, size in (("a-small", small), ("b-large", large)):  # loaded in this order
        add_python_model(models, name, WIDE.format(floats=size // 4), manifest)
    # Two blocks of the larger for the one that serves, and two for its successor; no more beside
    # them than is lost between them.
    arena = f"arena.bytes={4 * large + small}"
    with box(models, overrides=(OVERRIDE, CONTROL, arena)) as running:
        running.wait_settled()
        with channel(running) as open_channel:
            load(open_channel, "a-small")
            for name, size in (("a-small", small), ("b-large", large)):
                answer = method(open_channel, "ModelInfer")(request(name, X), timeout=10)
                assert len(answer.raw_output_contents[0]) == size
        running.wait_settled()
        status = running.status()
        assert status["state"] == "ready", status["reasons"]


def test_a_successor_whose_outputs_have_no_room_changes_nothing(tmp_path: Path) -> None:
    models = tmp_path / "models"
    manifest = MANIFEST.format(width=4).replace("max_batch = 8", "max_batch = 1")
    add_python_model(models, "policy", WIDE.format(floats=1 << 18), manifest)
    arena = f"arena.bytes={7 << 19}"
    with box(models, overrides=(OVERRIDE, CONTROL, arena)) as running:
        running.wait_settled()
        used = running.status()["arena"]["used"]
        with channel(running) as open_channel:
            error = refusal(lambda: load(open_channel))
            assert "the arena has no room for 2097152 bytes" in error.details()
            method(open_channel, "ModelInfer")(request("policy", X), timeout=10)
        assert running.wait_settled()["arena"]["used"] == used


# ----------------------------------------------------------------------------- more, and fewer


def test_a_model_comes_and_goes(
    running: Box, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_version(models, 7, "extra")
    assert main(["models", "load", "extra", "--socket", running.socket]) == 0
    assert capsys.readouterr().out == "extra: version 7 is served\n"
    with channel(running) as open_channel:
        assert infer(open_channel, "extra") == ("7", 7.0)
        assert main(["models", "unload", "extra", "--socket", running.socket]) == 0
        gone = refusal(lambda: infer(open_channel, "extra"))
        assert gone.code() is grpc.StatusCode.NOT_FOUND
        health = health_pb2_grpc.HealthStub(open_channel)
        extra = health_pb2.HealthCheckRequest(service="extra")
        assert health.Check(extra).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert infer(open_channel, "policy") == ("1", 1.0)
        assert running.status()["state"] == "ready"
        load(open_channel, "extra")
        assert infer(open_channel, "extra") == ("7", 7.0)
    assert running.status()["ledger"]["balanced"]


def test_the_admin_door_says_what_is_wrong(
    running: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "load", "nothing", "--socket", running.socket]) == 2
    assert "'nothing' is not in" in capsys.readouterr().err
    with pytest.raises(AdminError, match="name: a text is expected"):
        admin.post(running.socket, "/v1/models/load", 5.0, {})
    with pytest.raises(AdminError, match="'nothing' is not in"):
        admin.post(running.socket, "/v1/models/load", 5.0, {"name": "nothing"})
    with pytest.raises(AdminError, match="'nothing' is not served"):
        admin.post(running.socket, "/v1/models/unload", 5.0, {"name": "nothing"})
