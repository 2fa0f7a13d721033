"""What a robot serves, and that it still does after something that was refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deploy.lab import Lab, Robot

FIRST = "1.0.0"
"""The release that a robot of these tests begins with."""
COMMAND = "/opt/appliance/current/release/bin/appliance"


def served(robot: Robot) -> dict[str, Any]:
    """Return the status of what serves; empty: nothing does."""
    asked = (COMMAND, "status", "--json")
    return json.loads(robot.machine.run(*asked, check=False).stdout or "{}")


def is_healthy(robot: Robot, version: str) -> bool:
    """Return whether this version serves, and is proven."""
    status = served(robot)
    trial = (robot.machine.root / "opt/appliance/trial").exists()
    return status.get("version") == version and status.get("state") == "ready" and not trial


def refuses(
    network: Lab,
    robot: Robot,
    variables: Mapping[str, Any],
    words: str,
    playbook: str = "deploy.yml",
) -> None:
    """Play; it is to fail with these words, and the robot to serve as if nothing had been."""
    before = served(robot)
    done = network.play(playbook, variables)
    assert done.returncode != 0, done.stdout
    assert words in " ".join(done.stdout.split()), done.stdout
    after = served(robot)
    assert (after["pid"], after["state"]) == (before["pid"], "ready")
    versions = [{each["name"]: each["version"] for each in x["models"]} for x in (before, after)]
    assert versions[0] == versions[1]
    assert not list((robot.machine.root / "opt/appliance").glob("releases/.installing"))
    assert not list((robot.machine.root / "opt/appliance").glob("incoming/*"))
