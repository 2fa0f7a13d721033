"""Deploys that are undone on a robot that got a new model, and one that mends what was damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy import controller
from deploy.lab import Lab, Robot
from deploy.serving import FIRST, is_healthy, refuses, served
from deploy.test_deploys import BREAKS
from deploy.workshop import Workshop

SECOND, BROKEN = "1.1.0", "1.5.0"
NEEDS_ANOTHER = f"""
from importlib.metadata import version
if version("appliance") == "{FIRST}":
    raise ImportError("of a later release")
"""
BRIEF_S = 20


def with_model(workshop: Workshop, directory: Path, name: str, needs: str = "") -> str:
    """Return a folder with one more model."""
    models = Path(shutil.copytree(workshop.models, directory / "models"))
    version = models / name / "1"
    version.mkdir(parents=True)
    (version.parent / "model.toml").write_text(controller.MANIFEST)
    (version / "policy.py").write_text(needs + controller.POLICY)
    return str(models)


def models(robot: Robot) -> dict[str, str]:
    """Return the state of each model that is served."""
    return {each["name"]: each["state"] for each in served(robot)["models"]}


def test_a_broken_release_that_brings_a_model(
    network: Lab, robot: Robot, workshop: Workshop, tmp_path: Path
) -> None:
    broken = workshop.release(BROKEN, app=BREAKS)
    brings = with_model(workshop, tmp_path, "brought")
    variables = workshop.variables(broken, appliance_models=brings, appliance_load_s=BRIEF_S)
    done = network.play("deploy.yml", variables)
    assert done.returncode != 0
    assert f"{FIRST}-" in done.stdout
    assert "serves again, and is healthy" in done.stdout, done.stdout
    assert is_healthy(robot, FIRST)
    assert models(robot)["brought"] == "ready"


def test_a_model_that_needs_the_next_release(
    network: Lab, robot: Robot, workshop: Workshop, tmp_path: Path
) -> None:
    second = workshop.release(SECOND)
    brings = with_model(workshop, tmp_path, "later", NEEDS_ANOTHER)
    variables = workshop.variables(second, appliance_models=brings, appliance_load_s=BRIEF_S)
    refuses(network, robot, variables, f"later cannot be served by {FIRST}, which serves")
    assert not (robot.machine.root / "var/lib/appliance/models/later").exists()

    # As it is told: the release first, then the model; and back all the same.
    before = models(robot)
    for playbook, changed in (("deploy.yml", {"appliance_models": ""}), ("models.yml", {})):
        done = network.play(playbook, {**variables, **changed})
        assert done.returncode == 0, done.stdout
    assert is_healthy(robot, SECOND)
    assert models(robot) == {**before, "later": "ready"}
    back = network.play("rollback.yml", variables)
    assert back.returncode == 0, back.stdout
    assert served(robot)["version"] == FIRST
    assert models(robot) == {**before, "later": "failed"}
    assert not (robot.machine.root / "opt/appliance/trial").exists()
    robot.machine.run("rm", "-r", "/var/lib/appliance/models/later")
    robot.machine.run("systemctl", "restart", "appliance")
    assert is_healthy(robot, FIRST)


def test_a_deploy_mends_what_was_damaged(network: Lab, robot: Robot, workshop: Workshop) -> None:
    for version in (SECOND, FIRST):
        done = network.play("deploy.yml", workshop.variables(workshop.release(version)))
        assert done.returncode == 0, done.stdout
    robot.machine.run("rm", f"/opt/appliance/releases/{SECOND}/bin/appliance")
    done = network.play("deploy.yml", workshop.variables(workshop.release(SECOND)))
    assert done.returncode == 0, done.stdout
    assert is_healthy(robot, SECOND)
