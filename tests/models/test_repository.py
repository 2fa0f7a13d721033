from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.models.repository import ModelEntry, Repository, version_key


def add(root: Path, name: str, *versions: str, manifest: str | None = "") -> None:
    for version in versions:
        (root / name / version).mkdir(parents=True)
    (root / name).mkdir(exist_ok=True)
    if manifest is not None:
        (root / name / "model.toml").write_text(manifest)


def test_the_latest_version_is_found_numbers_counting_as_numbers(tmp_path: Path) -> None:
    add(tmp_path, "policy", "10", "9", "2")
    assert Repository(tmp_path).scan() == [
        ModelEntry(
            name="policy",
            version="10",
            versions=("2", "9", "10"),
            manifest="",
            manifest_path=tmp_path / "policy" / "model.toml",
            directory=tmp_path / "policy" / "10",
            error=None,
        )
    ]


def test_one_broken_model_does_not_hide_the_others(tmp_path: Path) -> None:
    add(tmp_path, "bad-key", "1", manifest="size = 1")
    add(tmp_path, "bad name", "1")
    add(tmp_path, "bad-version", "1 2")
    add(tmp_path, "no-manifest", "1", manifest=None)
    add(tmp_path, "no-version")
    add(tmp_path, "good", "1")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "README").write_text("not a model")
    found = {entry.name: entry.error for entry in Repository(tmp_path).scan()}
    assert found.pop("good") is None
    assert "size: unknown key" in (found.pop("bad-key") or "")
    assert "found the name 'bad name'" in (found.pop("bad name") or "")
    assert "found the name '1 2'" in (found.pop("bad-version") or "")
    assert "model.toml is missing" in (found.pop("no-manifest") or "")
    assert "no version" in (found.pop("no-version") or "")
    assert not found


def test_names_that_are_no_text_can_be_told(tmp_path: Path) -> None:
    add(tmp_path, os.fsdecode(b"caf\xe9"), "1")
    add(tmp_path, os.fsdecode(b"empty\xff"), manifest=None)
    add(tmp_path, "policy", os.fsdecode(b"1\xe9"))
    entries = Repository(tmp_path).scan()
    assert [entry.name for entry in entries] == ["caf\\xe9", "empty\\xff", "policy"]
    assert entries[2].versions == ("1\\xe9",)
    for entry in entries:
        assert entry.error is not None
        entry.error.encode()


def test_hidden_directories_are_no_versions(tmp_path: Path) -> None:
    add(tmp_path, "policy", "1", ".2.partial")
    (entry,) = Repository(tmp_path).scan()
    assert entry.versions == ("1",)


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: cannot be read: No such file"):
        Repository(tmp_path / "nowhere").scan()


@pytest.mark.parametrize(
    "ordered", [["9", "10"], ["1.9", "1.10"], ["v2", "v10"], ["1", "1.1"], ["2024-01", "2024-11"]]
)
def test_versions_are_ordered_as_people_read_them(ordered: list[str]) -> None:
    backwards = ordered[::-1]
    assert sorted(backwards, key=version_key) == ordered


@given(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True), max_size=8))
def test_any_versions_can_be_ordered(versions: list[str]) -> None:
    keys = [version_key(version) for version in sorted(versions, key=version_key)]
    assert all(one <= next_one for one, next_one in pairwise(keys))
