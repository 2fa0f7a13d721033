"""What has changed on disk is said, each change once and in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.models.changes import changes, stamp
from appliance.models.repository import Repository


def add(root: Path, name: str, version: str = "1", manifest: str = "") -> None:
    (root / name / version).mkdir(parents=True, exist_ok=True)
    (root / name / "model.toml").write_text(manifest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path, "policy", "2")
    add(tmp_path, "voice")
    add(tmp_path, "broken", manifest="size = 1")
    return tmp_path


def test_nothing_has_changed(root: Path) -> None:
    before, seen = Repository(root).scan(), stamp(root)
    assert changes(before, Repository(root).scan()) == []
    assert stamp(root) == seen


def test_each_change_is_said(root: Path) -> None:
    before, seen = Repository(root).scan(), stamp(root)
    add(root, "policy", "10", manifest="max_batch = 4")
    add(root, "voice", manifest="max_batch = 'many'")
    add(root, "broken", manifest="")
    add(root, "grasp")
    add(root, "wrong", manifest="what = 1")
    broken, grasp, policy, version, voice, wrong = changes(before, Repository(root).scan())
    assert broken == "model broken can be used now"
    assert grasp == "model grasp is new"
    assert policy == "model policy: model.toml has changed"
    assert version == "model policy: version 10 is there, 2 served"
    assert voice.startswith(f"{root}/voice/model.toml: max_batch: found")
    assert wrong.startswith(f"{root}/wrong/model.toml: what: unknown key")
    assert stamp(root) != seen


def test_a_model_that_is_gone(root: Path) -> None:
    before, seen = Repository(root).scan(), stamp(root)
    (root / "voice" / "model.toml").unlink()
    (root / "voice" / "1").rmdir()
    (root / "voice").rmdir()
    assert changes(before, Repository(root).scan()) == ["model voice is gone from the repository"]
    assert stamp(root) != seen
    assert stamp(root / "nowhere") == ()


def test_what_cannot_be_read_is_said(root: Path) -> None:
    before = Repository(root).scan()
    (root / "voice" / "model.toml").unlink()
    os.mkfifo(root / "voice" / "model.toml")
    assert changes(before, Repository(root).scan()) == [
        f"{root}/voice/model.toml: is no regular file"
    ]
