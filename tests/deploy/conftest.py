"""Machines are slow and need root: `make test` leaves their tests out.

`make test-unit` runs those of the unit, `make test-deploy` those of deploys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab import Lab, Robot, lab
from deploy.machines import debian, what_is_missing
from deploy.releases import with_release
from deploy.serving import FIRST, served
from deploy.workshop import Workshop, open_workshop

WHEELS = "APPLIANCE_WHEELS"
"""Environment variable: a directory with wheels of the appliance and of all that it needs."""

ANSIBLE = "APPLIANCE_ANSIBLE"
"""Environment variable: the directory of `ansible-playbook`."""

collect_ignore = [] if WHEELS in os.environ else ["test_unit_on_machine.py"]
if ANSIBLE not in os.environ:
    collect_ignore += [path.name for path in Path(__file__).parent.glob("test_deploy*.py")]


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where roots are kept from run to run."""
    return Path(__file__).parents[2] / ".build/machines"


@pytest.fixture(scope="session")
def release(cache: Path) -> list[Path]:
    """Layers of a root with the appliance in it."""
    missing = what_is_missing()
    if missing:
        pytest.fail(missing, pytrace=False)
    below = debian(cache)
    return [below, with_release(cache, [below], Path(os.environ[WHEELS]))]


@pytest.fixture(scope="session")
def workshop(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """What is deployed, and on what."""
    missing = what_is_missing()
    if missing:
        pytest.fail(missing, pytrace=False)
    wheels, ansible = (Path(os.environ[name]) for name in (WHEELS, ANSIBLE))
    return open_workshop(tmp_path_factory.mktemp("workshop"), wheels, ansible, debian(cache))


@pytest.fixture(scope="module")
def network(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One robot, which serves the first release."""
    scratch = tmp_path_factory.mktemp("lab")
    with lab(1, workshop.layers, scratch, workshop.ansible, workshop.ssh) as made:
        done = made.play("site.yml", workshop.variables(workshop.release(FIRST)))
        assert done.returncode == 0, done.stdout
        yield made


@pytest.fixture
def robot(network: Lab, workshop: Workshop) -> Robot:
    """That robot; it serves the first release again, whatever a test has left."""
    (robot,) = network.robots
    status = served(robot)
    assert status, robot.machine.run("journalctl", "--unit=appliance", "--lines=40").stdout
    if status["version"] != FIRST:
        done = network.play("deploy.yml", workshop.variables(workshop.release(FIRST)))
        assert done.returncode == 0, done.stdout
    return robot
