"""The repository, and the engines built of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from appliance.config import Config
from appliance.doctor.facts import Engine, Model
from appliance.errors import ConfigError
from appliance.models.engine_cache import SYSTEM_CACHE, EngineCache, default_cache
from appliance.models.repository import Repository
from appliance.workers.placement import slots_of


def models(config: Config, base: Path) -> tuple[tuple[Model, ...], str, str]:
    """Return the models, where they are, and why they cannot be used with the configuration."""
    directory = base / config.models.directory
    try:
        entries = Repository(directory).scan()
    except ConfigError as error:
        return (), str(directory), str(error)
    models = tuple(
        Model(name=each.name, version=each.version, error=each.error or "") for each in entries
    )
    try:
        slots_of(config, entries)
    except ConfigError as error:
        return models, str(directory), str(error)
    return models, str(directory), ""


def cache() -> Path:
    """Return that of the service, whoever asks; without one, the caller's own."""
    return SYSTEM_CACHE if SYSTEM_CACHE.parent.is_dir() else default_cache()


def engines() -> Iterator[Engine]:
    """Yield what is in the cache of engines, without reading engines: they are large."""
    for key, about in EngineCache(cache()).labels():
        recipe = cast("dict[str, Any]", about.get("recipe") or {})
        yield Engine(
            key=key,
            model=str(about.get("model", "")),
            version=str(about.get("version", "")),
            builder=str(recipe.get("builder", "")),
        )
