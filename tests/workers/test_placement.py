"""Which model is on which worker, and configurations that do not go with the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import load
from appliance.errors import ConfigError
from appliance.models.repository import ModelEntry
from appliance.workers.placement import slots_of

REPOSITORY = [
    ModelEntry(name, "1", ("1",), "", Path(name, "model.toml"), Path(name, "1")) for name in "cba"
]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["workers.0.models=['b']"],
            "workers: no table names 'a', 'c', which ./models has; add it to the models of one, ",
        ),
        (
            ["workers.0.models=['a', 'x']"],
            "workers.cpu.models: found 'x'; ./models has a, b, c",
        ),
        (
            ["rate_limits.per_model_hz={'*' = 1}"],
            "rate_limits.per_model_hz: found '*'; ./models has a, b, c",
        ),
        (
            ["rate_limits.per_model_hz={a = 1, x = 2}"],
            "rate_limits.per_model_hz: found 'x'; ./models has a, b, c",
        ),
    ],
)
def test_what_does_not_go_with_the_repository_is_named(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        slots_of(load(None, overrides), REPOSITORY)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["rate_limits.per_model_hz={a = 1, b = 2}"],
        ["workers=[{name = 'x', models = ['a', 'c']}, {name = 'y', models = ['b']}]"],
        ["workers=[{name = 'x', models = ['a']}, {name = 'y', models = ['*']}]"],
    ],
)
def test_what_goes_with_the_repository_is_accepted(overrides: list[str]) -> None:
    placed = {
        model.name for slot in slots_of(load(None, overrides), REPOSITORY) for model in slot.models
    }
    assert placed == {"a", "b", "c"}
