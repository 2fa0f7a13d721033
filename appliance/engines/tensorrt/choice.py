"""Which of the engines in the cache is the one of a version, for this TensorRT and GPU. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.errors import EngineError
from appliance.models.engine_cache import FIRST_REVISION, REVISION
from appliance.models.manifest import Precision
from appliance.models.resolve import DEFAULT_MAX_BATCH


def choose(
    entries: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    name: str,
    version: str,
    model_sha256: str,
    builder: str,
    targets: Sequence[str],
    options: str,
    precision: Precision,
    max_batch: int | None,
) -> str:
    """Return the key of an engine.

    Args:
        entries: Keys, and what `about.json` says.
        targets: What it may have been built for, the preferred one first.
        options: What the command that builds one for this GPU has to be told.
        precision: What the manifest says.
        max_batch: Likewise.

    Raises:
        EngineError: There is none: what there is instead, and what to do.
    """
    remedy = f"run: appliance models build {name} {version}{options}"
    recipes = [(key, about["recipe"]) for key, about in entries]
    of_model = [each for each in recipes if each[1]["model_sha256"] == model_sha256]
    if not of_model:
        raise EngineError(f"no engine of {name} {version} was built; {remedy}")
    of_now = [each for each in of_model if each[1].get("revision", FIRST_REVISION) == REVISION]
    if not of_now:
        raise EngineError(
            f"the engine of {name} {version} was built in another way than this release does; "
            f"{remedy}"
        )
    of_precision = [each for each in of_now if each[1]["precision"] == precision]
    if not of_precision:
        others = sorted({recipe["precision"] for _, recipe in of_now})
        raise EngineError(
            f"the engine of {name} {version} was built in {', '.join(others)}; the manifest says "
            f"{precision}; {remedy}"
        )
    of_builder = [each for each in of_precision if each[1]["builder"] == builder]
    if not of_builder:
        others = sorted({recipe["builder"] for _, recipe in of_precision})
        raise EngineError(
            f"the engine of {name} {version} was built by {', '.join(others)}; here is {builder}; "
            f"{remedy}"
        )
    fitting = [
        (rank, key, recipe)
        for key, recipe in of_builder
        if (rank := _rank(recipe["target"], targets)) is not None
    ]
    if not fitting:
        others = sorted({recipe["target"] for _, recipe in of_builder})
        raise EngineError(
            f"the engine of {name} {version} was built for {'; '.join(others)}; here is "
            f"{targets[0]}; {remedy}"
        )
    for _, key, recipe in sorted(fitting, key=lambda each: each[:2]):
        if _is_large_enough(recipe["profile"], max_batch):
            return key
    wanted = max_batch or DEFAULT_MAX_BATCH
    raise EngineError(
        f"the engine of {name} {version} takes batches of at most "
        f"{max(_most_rows(recipe['profile']) for *_, recipe in fitting)}; the manifest says "
        f"{wanted}; {remedy}"
    )


def _rank(target: str, targets: Sequence[str]) -> int | None:
    found = [targets.index(part) for part in target.split(",") if part in targets]
    return min(found, default=None)


def _is_large_enough(profile: Mapping[str, Any], max_batch: int | None) -> bool:
    most = _most_rows(profile)
    if max_batch is None:  # then it is 1 where the model leaves no batch open, as in `resolve`
        return most == 1 or most >= DEFAULT_MAX_BATCH
    return most >= max_batch


def _most_rows(profile: Mapping[str, Any]) -> int:
    return max(
        (
            b
            for least, _, most in profile.values()
            for a, b in zip(least, most, strict=True)
            if a != b
        ),
        default=1,
    )
