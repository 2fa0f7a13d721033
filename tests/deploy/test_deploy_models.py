"""Models come to a robot by a playbook, while a controller is served, and only if they are good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy import controller
from deploy.lab import Lab, Robot, recap
from deploy.serving import COMMAND, FIRST, is_healthy, refuses, served
from deploy.workshop import Workshop

REPOSITORY = "var/lib/appliance/models"
ROWS_CHANGE_EACH_OTHER = 'np.repeat(batch["captured"], 16, axis=1)'
CHANGED = 'np.repeat(batch["captured"] + len(batch["captured"]), 16, axis=1)'


@pytest.fixture
def models(workshop: Workshop, tmp_path: Path) -> Path:
    """The folder on the controller, to change."""
    return Path(shutil.copytree(workshop.models, tmp_path / "models"))


def add_version(models: Path, version: str, before: str = "", after: str = "") -> None:
    """Add a version of the clock with some of its code replaced."""
    place = models / "clock" / version
    place.mkdir()
    text = controller.POLICY.replace(before, after) if before else controller.POLICY
    (place / "policy.py").write_text(f"# {version}\n{text}")


def versions(robot: Robot) -> Mapping[str, Any]:
    """Return what the repository of a robot says of each model."""
    said = robot.machine.run(COMMAND, "models", "versions", "--json").stdout
    return {each["name"]: each for each in json.loads(said)["models"]}


def serves(robot: Robot, version: str) -> bool:
    """Return whether the appliance serves this version of the model."""
    found = {each["name"]: (each["version"], each["state"]) for each in served(robot)["models"]}
    return found["clock"] == (version, "ready")


def test_a_new_version_is_carried_verified_and_served(
    network: Lab, robot: Robot, workshop: Workshop, models: Path
) -> None:
    variables = workshop.variables(workshop.release(FIRST), appliance_models=str(models))
    add_version(models, "2")
    process = served(robot)["pid"]
    done = network.play("models.yml", variables, "--check")
    assert done.returncode == 0, done.stdout
    assert serves(robot, "1")

    done = network.play("models.yml", variables)
    assert done.returncode == 0, done.stdout
    assert serves(robot, "2")
    assert served(robot)["pid"] == process
    assert (versions(robot)["clock"]["active"], versions(robot)["clock"]["previous"]) == ("2", "1")
    again = network.play("models.yml", variables)
    assert recap(again.stdout)[robot.name]["changed"] == 0, again.stdout

    # Back to the one before, by its number.
    back = network.play("models.yml", {**variables, "models_versions": {"clock": "1"}})
    assert back.returncode == 0, back.stdout
    assert serves(robot, "1")


def test_a_version_that_is_not_good_is_not_served(
    network: Lab, robot: Robot, workshop: Workshop, models: Path
) -> None:
    variables = workshop.variables(workshop.release(FIRST), appliance_models=str(models))
    before = sorted(versions(robot)["clock"]["versions"])
    add_version(models, "3", ROWS_CHANGE_EACH_OTHER, CHANGED)
    refuses(network, robot, variables, "clock: version 3 is NOT good", "models.yml")
    assert sorted(versions(robot)["clock"]["versions"]) == before
    assert not list((robot.machine.root / REPOSITORY).glob(".incoming/*"))


def test_a_version_that_cannot_be_loaded_is_not_served(
    network: Lab, robot: Robot, workshop: Workshop, models: Path
) -> None:
    variables = workshop.variables(workshop.release(FIRST), appliance_models=str(models))
    add_version(models, "4", "import time\n", "import not_there\n")
    refuses(network, robot, variables, "No module named 'not_there'", "models.yml")


def test_a_version_is_never_changed_in_place(
    network: Lab, robot: Robot, workshop: Workshop, models: Path
) -> None:
    variables = workshop.variables(workshop.release(FIRST), appliance_models=str(models))
    (models / "clock/1/policy.py").write_text(controller.POLICY + "# another\n")
    refuses(network, robot, variables, "a version is never changed in place", "models.yml")


def test_a_full_disk_is_not_left_full(
    network: Lab, robot: Robot, workshop: Workshop, models: Path
) -> None:
    variables = workshop.variables(workshop.release(FIRST), appliance_models=str(models))
    add_version(models, "5")
    (models / "clock/5/weights").write_bytes(bytes(4 << 20))
    run, incoming = robot.machine.run, f"/{REPOSITORY}/.incoming"
    run("install", "--directory", "--owner=appliance", "--group=appliance", incoming)
    run("mount", "-t", "tmpfs", "-o", "size=1m", "small", incoming)
    try:
        refuses(network, robot, variables, "Models cannot be carried to the box", "models.yml")
        assert run("ls", "-A", incoming).stdout == ""
    finally:
        run("umount", incoming)


def test_a_model_that_is_new(network: Lab, robot: Robot, workshop: Workshop, models: Path) -> None:
    shutil.copytree(models / "clock", models / "watch")
    variables = workshop.variables(
        workshop.release(FIRST), appliance_models=str(models), models_only=["watch"]
    )
    done = network.play("models.yml", variables)
    assert done.returncode == 0, done.stdout
    found = {each["name"]: each["state"] for each in served(robot)["models"]}
    assert found == {"clock": "ready", "watch": "ready"}


def test_a_power_cut_while_a_version_is_placed(
    network: Lab, robot: Robot, workshop: Workshop, models: Path
) -> None:
    """It is cut when `model.toml` is another one."""
    variables = workshop.variables(workshop.release(FIRST), appliance_models=str(models))
    add_version(models, "6")
    (models / "clock/model.toml").write_text(
        controller.MANIFEST.replace("step_period_ms = 20", manifest := "step_period_ms = 40")
    )
    box = robot.machine
    there = box.root / REPOSITORY / "clock/model.toml"
    with ThreadPoolExecutor(1) as pool:
        play = pool.submit(network.play, "models.yml", variables)
        box.wait_until(lambda: play.done() or manifest in there.read_text(), 90, "model.toml")
        box.cut_power()
        play.result()
    box.boot()
    box.wait_until(lambda: is_healthy(robot, FIRST), 60, "it serves")
    assert manifest in there.read_text()
    assert serves(robot, "6")
    assert versions(robot)["clock"]["active"] == "6"
