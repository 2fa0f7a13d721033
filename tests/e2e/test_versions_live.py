"""Versions are verified, activated and rolled back while clients are served."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.box import Box, box
from support.grpc import OVERRIDE, channel
from support.recording import recording
from support.repository import add_onnx_mlp
from support.versions import Asker, X, add_onnx_version, add_version, infer, wait_for

from appliance.cli import main
from appliance.models.active import ACTIVE

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    add_version(directory, 1)
    return directory


@pytest.fixture
def running(models: Path) -> Iterator[Box]:
    with box(models, overrides=(OVERRIDE,)) as running:
        running.wait_settled()
        yield running
        assert running.stop() == 0


def command(running: Box, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", "models", *words, "--socket", running.socket],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def served(running: Box, model: str = "policy") -> str:
    return {each["name"]: each["version"] for each in running.status()["models"]}[model]


@contextmanager
def asked(running: Box) -> Generator[list[Asker]]:
    """Four who ask all the time; in the end each answer was right, and none of them late."""
    with channel(running) as open_channel:
        askers = [Asker(open_channel, "policy") for _ in range(4)]
        for asker in askers:
            asker.start()
        try:
            yield askers
        finally:
            for asker in askers:
                asker.is_over.set()
            for asker in askers:
                asker.join()
    for asker in askers:
        assert asker.error is None
        assert all(float(version) == added for version, added in asker.answers)
    status = running.status()
    assert status["state"] == "ready"
    assert set(status["outcomes"]) == {"OK"}
    assert status["requests"]["late"] == 0
    assert status["pending"] == []


def test_versions_come_and_go_back_under_load(running: Box, models: Path) -> None:
    with asked(running) as askers:
        wait_for(askers, "1")
        add_version(models, 2)
        assert command(running, "verify", "policy").returncode == 0
        assert served(running) == "1"  # verified is not active
        done = command(running, "activate", "policy")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (
            0,
            "policy: version 2 is served",
        )
        wait_for(askers, "2")
        add_version(models, 3)
        assert command(running, "activate", "policy", "3").returncode == 0
        wait_for(askers, "3")
        assert command(running, "rollback", "policy").returncode == 0
        wait_for(askers, "2")
        assert command(running, "rollback", "policy").returncode == 0  # and there again
        wait_for(askers, "3")
    listed = command(running, "versions")
    assert listed.stdout == "policy  1  2 (previous)  3 (active)\n"


def test_so_do_versions_of_a_network(tmp_path: Path) -> None:
    """With onnxruntime; where there is TensorRT for RTX, its engine is built meanwhile."""
    models, cache = tmp_path / "models", tmp_path / "cache"
    add_onnx_version(models, 1)
    with box(models, overrides=(OVERRIDE,)) as running:
        running.wait_settled()
        with asked(running) as askers:
            wait_for(askers, "1")
            add_onnx_version(models, 2)
            if find_spec("tensorrt_rtx") is not None:
                words = ("--models", str(models), "--cache", str(cache), "--json")
                assert main(["models", "build", "policy", "2", *words]) == 0
            assert command(running, "verify", "policy").returncode == 0
            assert command(running, "activate", "policy").returncode == 0
            wait_for(askers, "2")
            assert served(running) == "2"
            assert command(running, "rollback", "policy").returncode == 0
            wait_for(askers, "1")
        assert "policy" in command(running, "list").stdout
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def run(batch):\n    return {'action': batch['state'] - batch['state'].mean()}\n", "NOT"),
        ("raise ValueError('no weights here')", "no weights here"),
    ],
)
def test_a_version_that_is_not_good_is_not_activated(
    running: Box, models: Path, source: str, told: str
) -> None:
    add_version(models, 2, source=source)
    done = command(running, "activate", "policy")
    assert done.returncode == 1
    assert told in done.stdout
    assert "version 2 is not activated" in done.stderr
    assert not (models / "policy" / ACTIVE).exists()
    with channel(running) as open_channel:
        assert infer(open_channel) == ("1", 1.0)


def test_what_does_not_come_up_there_leaves_all_as_it_was(running: Box, models: Path) -> None:
    add_version(models, 2)
    assert command(running, "activate", "policy").returncode == 0
    add_version(models, 3, source="raise ValueError('not in a worker')")
    done = command(running, "activate", "policy", "--unverified")
    assert done.returncode == 1
    assert "all is as before" in done.stderr
    assert "not in a worker" in done.stderr
    assert command(running, "versions").stdout == "policy  1 (previous)  2 (active)  3\n"
    with channel(running) as open_channel:
        assert infer(open_channel) == ("2", 2.0)


def test_a_version_is_verified_with_what_was_recorded(tmp_path: Path) -> None:
    models, file = tmp_path / "models", tmp_path / "robots.mcap"
    add_onnx_mlp(models, "mlp", inputs=4)
    with box(models) as running:
        running.wait_settled()
        with recording(running, file) as stop, running.connect("robot") as robot:
            mlp_model = robot.model("mlp")
            for step in range(5):
                result = mlp_model.wait_for(mlp_model.observe(x=X[0] + step), 10_000)
                assert result is not None
            assert stop()[0] == 0
        add_onnx_mlp(models, "mlp", inputs=4, seed=3, version="2")
        done = command(running, "verify", "mlp", "--recording", str(file), "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["good"], found["version"]) == (0, True, "2")
        other = command(running, "verify", "mlp", "--recording", str(models / "nothing.mcap"))
        assert other.returncode == 2
        assert "cannot be read" in other.stderr
        assert running.stop() == 0


def test_without_an_appliance_it_is_for_the_next_start(
    models: Path, capsys: Capture, tmp_path: Path
) -> None:
    nobody = ("--models", str(models), "--socket", str(tmp_path / "nobody.sock"))
    add_version(models, 2)
    assert main(["models", "activate", "policy", "1", *nobody]) == 0
    assert capsys.readouterr().out.endswith("version 1 is served from the next start on\n")
    assert main(["models", "versions", "--json", *nobody]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert (found["serves"], found["active"], found["previous"]) == ("1", "1", None)
    with box(models, overrides=(OVERRIDE,)) as running:
        running.wait_settled()
        assert served(running) == "1"
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["activate", "nothing"], "model 'nothing' is not in"),
        (["activate", "policy", "9"], "model 'policy' has no version '9'; there is 1"),
        (["verify", "policy", "9"], "model 'policy' has no version '9'; there is 1"),
        (["rollback", "policy"], "no version was active before"),
    ],
)
def test_what_is_not_there_is_said(
    models: Path, tmp_path: Path, capsys: Capture, words: list[str], told: str
) -> None:
    nobody = ("--models", str(models), "--socket", str(tmp_path / "nobody.sock"))
    assert main(["models", *words, *nobody]) == 2
    assert told in capsys.readouterr().err


def test_nobody_says_where_the_repository_is(tmp_path: Path, capsys: Capture) -> None:
    assert main(["models", "versions", "--socket", str(tmp_path / "nobody.sock")]) == 2
    assert "name --models" in capsys.readouterr().err


def test_two_commands_do_not_change_one_model_at_once(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    import fcntl
    import os

    nobody = ("--models", str(models), "--socket", str(tmp_path / "nobody.sock"))
    held = os.open(models / "policy", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert main(["models", "activate", "policy", *nobody]) == 2
    finally:
        os.close(held)
    assert "another command changes it now" in capsys.readouterr().err
