"""Which model is on which worker: the `[[workers]]` tables against the repository. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.config import Workers
from appliance.errors import ConfigError
from appliance.models.repository import ModelEntry
from appliance.workers.arena import MODELS_PER_SLOT
from appliance.workers.slot import HostedModel, Slot

ALL = "*"


def slots_of(groups: Sequence[Workers], entries: Sequence[ModelEntry]) -> list[Slot]:
    """Return every worker slot with the models it hosts; models that cannot be used are left out.

    Raises:
        ConfigError: A table names a model that is not in the repository.
    """
    names = {entry.name for entry in entries}
    for group in groups:
        for name in group.models:
            if name != ALL and name not in names:
                raise ConfigError(
                    f"workers.{group.name}.models: found {name!r}; the repository has "
                    f"{', '.join(sorted(names)) or 'no models'}"
                )
    return [slot for group in groups for slot in _slots(group, entries)]


def _slots(group: Workers, entries: Sequence[ModelEntry]) -> list[Slot]:
    """Return the slots of one `[[workers]]` table.

    Raises:
        ConfigError: It would host more models than a worker can.
    """
    models = tuple(
        HostedModel(
            name=entry.name,
            version=entry.version,
            manifest=str(entry.manifest_path),
            directory=str(entry.directory),
        )
        for entry in entries
        if entry.error is None and (ALL in group.models or entry.name in group.models)
    )
    if len(models) > MODELS_PER_SLOT:
        raise ConfigError(
            f"workers.{group.name}.models: found {len(models)} models; a worker hosts at most "
            f"{MODELS_PER_SLOT}; spread them over several [[workers]] tables"
        )
    return [
        Slot(
            name=f"{group.name}-{number}",
            models=models,
            device=group.device,
            start_timeout_ns=round(group.start_timeout_s * 1e9),
            hang_floor_ns=round(group.hang_floor_ms * 1e6),
            hang_factor=group.hang_factor,
        )
        for number in range(group.count)
    ]
