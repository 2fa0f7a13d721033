"""What the doctor sees of deploys, in folders as deploys leave them."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.doctor.facts import Deployment
from appliance.doctor.gathering import deployments
from appliance.doctor.gathering.processes import start

NAME = "1.1.0-5e1f0c2a"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box to which one deployment was made."""
    command = tmp_path / "releases/1.1.0/bin/appliance"
    command.parent.mkdir(parents=True)
    command.touch()
    place = tmp_path / "deployments" / NAME
    place.mkdir(parents=True)
    (place / "release").symlink_to("../../releases/1.1.0")
    (tmp_path / "current").symlink_to(f"deployments/{NAME}")
    monkeypatch.setattr(deployments, "ROOT", tmp_path)
    return tmp_path


def seen(unit: str = "inactive") -> Deployment | None:
    asking: subprocess.Popen[str] | None = start(sys.executable, "-c", f"print({unit!r})")
    return deployments.deployment(asking, time.monotonic() + 30)


def test_one_that_serves(root: Path) -> None:
    (root / ".switching").touch()
    assert seen() == Deployment(name=NAME)


def test_what_a_switch_that_was_cut_off_leaves(root: Path) -> None:
    (root / "trial").touch()
    assert seen("active") == Deployment(name=NAME, is_on_trial=True, next_runs=True)


def test_a_switch_that_is_under_way(root: Path) -> None:
    with (root / ".switching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert seen() == Deployment(name=NAME, is_switching=True)
    assert seen() == Deployment(name=NAME)


@pytest.mark.parametrize("lost", ["releases/1.1.0/bin/appliance", f"deployments/{NAME}/release"])
def test_a_current_that_leads_nowhere(root: Path, lost: str) -> None:
    (root / lost).unlink()
    assert seen() == Deployment(name=NAME, is_whole=False)


def test_a_box_without_deploys(root: Path) -> None:
    (root / "current").unlink()
    assert seen() is None
