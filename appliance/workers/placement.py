"""Which model is on which worker: the configuration against the repository. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appliance.config import EVERY_MODEL, Config, Workers
from appliance.errors import ConfigError
from appliance.models.repository import ModelEntry
from appliance.wire.worker import MAX_DATAGRAM
from appliance.workers.arena import MODELS_PER_SLOT
from appliance.workers.slot import HostedModel, Slot

MIB = 1 << 20

MANIFEST_BYTES = MAX_DATAGRAM // 2
"""They travel to the worker in one message, with paths and names."""


def slots_of(config: Config, entries: Sequence[ModelEntry]) -> list[Slot]:
    """Return every worker slot with the models it hosts; models that cannot be used are left out.

    Raises:
        ConfigError: It names a model that the repository does not have, or leaves one to no worker.
    """
    names, directory = {entry.name for entry in entries}, config.models.directory
    for group in config.workers:
        _check_known(
            f"workers.{group.name}.models", {*group.models} - {EVERY_MODEL}, names, directory
        )
    _check_known("rate_limits.per_model_hz", config.rate_limits.per_model_hz, names, directory)
    named = {name for group in config.workers for name in group.models}
    unserved = [] if EVERY_MODEL in named else sorted(names - named)
    if unserved:
        raise ConfigError(
            f"workers: no table names {_quoted(unserved)}, which {directory} has; "
            "add it to the models of one, or begin its directory's name with _ to leave it alone"
        )
    return [slot for group in config.workers for slot in _slots(group, entries)]


def _check_known(key: str, found: Iterable[str], names: set[str], directory: str) -> None:
    unknown = sorted(set(found) - names)
    if unknown:
        raise ConfigError(
            f"{key}: found {_quoted(unknown)}; {directory} has "
            f"{', '.join(sorted(names)) or 'no models'}"
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _slots(group: Workers, entries: Sequence[ModelEntry]) -> list[Slot]:
    """Return the slots of one `[[workers]]` table.

    Raises:
        ConfigError: It would host more models than a worker can.
    """
    models = tuple(
        HostedModel(
            name=entry.name,
            version=entry.version,
            manifest=entry.manifest,
            manifest_path=str(entry.manifest_path),
            directory=str(entry.directory),
        )
        for entry in entries
        if entry.error is None and (EVERY_MODEL in group.models or entry.name in group.models)
    )
    if len(models) > MODELS_PER_SLOT:
        raise ConfigError(
            f"workers.{group.name}.models: found {len(models)} models; a worker hosts at most "
            f"{MODELS_PER_SLOT}; spread them over several [[workers]] tables"
        )
    size = sum(len(model.manifest.encode()) for model in models)
    if size > MANIFEST_BYTES:
        raise ConfigError(
            f"workers.{group.name}.models: their manifests have {size} bytes; those of one worker "
            f"have at most {MANIFEST_BYTES}; spread the models over several [[workers]] tables"
        )
    return [
        Slot(
            name=f"{group.name}-{number}",
            models=models,
            device=group.device,
            memory_bytes=group.memory_mib * MIB,
            start_timeout_ns=round(group.start_timeout_s * 1e9),
            hang_floor_ns=round(group.hang_floor_ms * 1e6),
            hang_factor=group.hang_factor,
        )
        for number in range(group.count)
    ]
