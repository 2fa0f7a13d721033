from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.models.active import ACTIVE, NAME, Active, read_active, write_active
from appliance.models.changes import changes, stamp
from appliance.models.repository import Repository

names = st.from_regex(NAME, fullmatch=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for version in ("1", "2", "10"):
        (tmp_path / "policy" / version).mkdir(parents=True)
    (tmp_path / "policy" / "model.toml").write_text("")
    return tmp_path / "policy"


def test_the_active_version_is_served_and_not_the_latest(model: Path) -> None:
    write_active(model, Active(version="2", previous="1"))
    (entry,) = Repository(model.parent).scan()
    assert (entry.version, entry.directory) == ("2", model / "2")
    assert entry.versions == ("1", "2", "10")
    assert entry.active == Active(version="2", previous="1")
    write_active(model, None)
    (entry,) = Repository(model.parent).scan()
    assert (entry.version, entry.active) == ("10", None)


def test_activating_another_is_a_change_that_is_told(model: Path) -> None:
    write_active(model, Active(version="1"))
    before, seen = Repository(model.parent).scan(), stamp(model.parent)
    write_active(model, Active(version="2", previous="1"))
    assert stamp(model.parent) != seen
    assert changes(before, Repository(model.parent).scan()) == [
        "model policy: version 2 is there, 1 served"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('version = "3"', "version: found '3'; there is 1, 2, 10"),
        ('version = "../2"', "version:"),
        ("version = 2", "version: found 2"),
        ('other = "2"', "other: unknown key"),
        ("version", "not TOML"),
        ("", "version: is missing"),
    ],
)
def test_a_file_that_cannot_be_used_fails_the_model_and_says_why(
    model: Path, text: str, told: str
) -> None:
    (model / ACTIVE).write_text(text)
    (entry,) = Repository(model.parent).scan()
    assert entry.error is not None
    assert str(model / ACTIVE) in entry.error
    assert told in entry.error


def test_a_directory_that_cannot_be_written_is_said_and_left_as_it_was(model: Path) -> None:
    write_active(model, Active(version="1"))
    before = (model / ACTIVE).read_text()
    (model / ACTIVE).unlink()
    (model / ACTIVE).mkdir()  # nothing takes the place of a directory
    with pytest.raises(ConfigError, match="cannot be written"):
        write_active(model, Active(version="2"))
    (model / ACTIVE).rmdir()
    (model / ACTIVE).write_text(before)
    assert {path.name for path in model.iterdir()} == {"1", "2", "10", "model.toml", ACTIVE}


@given(names, st.one_of(st.just(""), names))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, version: str, previous: str
) -> None:
    directory = tmp_path_factory.mktemp("model")
    active = Active(version=version, previous=previous)
    write_active(directory, active)
    assert read_active(directory) == active
