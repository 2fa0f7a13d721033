"""Engines of all models of a repository, built into the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from appliance.engines.cuda.driver import find_device
from appliance.engines.tensorrt.building import Network, profile_of
from appliance.engines.tensorrt.flavour import DEFAULT_TARGET, Flavour, find_flavour
from appliance.models.engine_cache import EngineCache, EngineRecipe, default_cache, version_sha256
from appliance.models.manifest import Precision, parse_manifest
from appliance.models.repository import ModelEntry, Repository
from appliance.models.resolve import resolve


@frozen
class BuiltEngine:
    """An engine that was built just now."""

    name: str
    version: str
    seconds: float
    plan: bytes


def build_all(root: Path, precision: Precision = "fp32") -> Iterator[BuiltEngine]:
    """Build an engine of every version of every model; yield each when it is in the cache.

    Args:
        precision: Whatever their manifests say.

    Raises:
        ConfigError, DeviceMissing, EngineError, ExtraMissing: One cannot be built.
    """
    flavour = find_flavour()
    for entry in Repository(root).scan():
        for version in entry.versions:
            yield _built(flavour, entry, version, precision)


def _built(flavour: Flavour, entry: ModelEntry, version: str, precision: Precision) -> BuiltEngine:
    started = time.monotonic()
    target = DEFAULT_TARGET
    if not flavour.builds_for_others:
        there = find_device()
        target = flavour.targets_of(there.name, there.capability)[0]
    cache = EngineCache(default_cache())
    directory = entry.manifest_path.parent / version
    manifest = evolve(parse_manifest(entry.manifest, str(entry.manifest_path)), precision=precision)
    network = Network(flavour, directory / "model.onnx", manifest.precision)
    resolved = resolve(manifest, network.signature, entry.name, version)
    profile = profile_of(resolved, network.signature, manifest.warmup)
    recipe = EngineRecipe(
        model_sha256=version_sha256(directory),
        builder=flavour.builder,
        target=target,
        precision=manifest.precision,
        profile=profile,
    )
    made = network.build(profile, (), cache.timings(recipe), lambda _, __: None, lambda: True)
    cache.add(recipe, made.engine, made.timings, {"model": entry.name, "version": version})
    return BuiltEngine(entry.name, version, time.monotonic() - started, made.engine)
