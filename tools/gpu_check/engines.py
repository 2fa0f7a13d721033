"""Engines of all models of a repository, built into the cache for the GPU that is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from appliance.engines.tensorrt.flavour import CURRENT, find_flavour
from appliance.engines.tensorrt.order import order_engine
from appliance.errors import EngineError
from appliance.models.engine_cache import EngineCache, default_cache
from appliance.models.manifest import Precision, parse_manifest
from appliance.models.repository import Repository
from tools.gpu_check.models import MANIFESTS


@frozen(kw_only=True)
class Attempt:
    """What came of a version.

    Attributes:
        target: What its engine was to be built for.
        plan: The engine; nothing, if there is none.
        refusal: Why there is none, in TensorRT's words.
    """

    name: str
    version: str
    target: str
    seconds: float
    plan: bytes = b""
    refusal: str = ""


def attempts(
    root: Path, *, is_gpu_here: bool, precision: Precision | None = None
) -> Iterator[Attempt]:
    """Build an engine of every version of every model; yield each when it is in the cache, or not.

    One that is there already is not built again.

    Args:
        is_gpu_here: It is built for that, otherwise for those that TensorRT takes by default.
        precision: Instead of what the manifests say.

    Raises:
        ConfigError, DeviceMissing, EngineError, ExtraMissing: Nothing can be built, or not of a
            file, or it cannot be kept.
    """
    flavour, cache = find_flavour(), EngineCache(default_cache())
    first = list(MANIFESTS)
    for entry in sorted(Repository(root).scan(), key=lambda it: [*first, it.name].index(it.name)):
        manifest = parse_manifest(entry.manifest, str(entry.manifest_path))
        manifest = evolve(manifest, precision=precision or manifest.precision)
        for version in entry.versions:
            started = time.monotonic()
            wanted = (CURRENT,) if is_gpu_here else ()
            order = order_engine(flavour, entry, version, manifest, wanted)
            plan, refusal = b"", ""
            try:
                made = cache.find(order.recipe)
                made = made or order.build(cache, lambda _, __: None, lambda: True)
                plan = made.path.read_bytes()
            except EngineError as error:
                refusal = str(error)
            yield Attempt(
                name=order.name,
                version=order.version,
                target=order.recipe.target,
                seconds=time.monotonic() - started,
                plan=plan,
                refusal=refusal,
            )


def build_all(root: Path) -> list[Attempt]:
    """Build all for the GPU that is there.

    Raises:
        EngineError: One cannot be built.
        ConfigError, DeviceMissing, ExtraMissing: As `attempts`.
    """
    made = list(attempts(root, is_gpu_here=True))
    for each in made:
        if each.refusal:
            raise EngineError(f"no engine of {each.name}: {each.refusal}")
    return made
