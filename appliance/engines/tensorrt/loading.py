"""From a version of a model to its engine on a GPU: found in the cache, checked, opened."""

from __future__ import annotations

import contextlib
from pathlib import Path

from appliance.engines.cuda.ports import Cuda
from appliance.engines.tensorrt.choice import choose
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.flavour import Flavour, find_flavour
from appliance.engines.tensorrt.runtime import TensorRTExecutor
from appliance.errors import ConfigError, EngineError
from appliance.models.engine_cache import EngineCache, caches, default_cache, version_sha256
from appliance.models.manifest import Manifest
from appliance.wire.pb import worker_pb2


def load_tensorrt(manifest: Manifest, path: worker_pb2.ModelPath, cuda: Cuda) -> TensorRTEngine:
    """Load the engine of a version.

    Raises:
        ExtraMissing: TensorRT is not installed.
        EngineError: There is no engine, or it cannot be used: why, and what to do.
        DeviceLost: The process has to end.
    """
    flavour = find_flavour()
    options = flavour.build_options(cuda.facts.capability)
    command = f"run: appliance models build {path.name} {path.version}{options}"
    cache, key = _choose(flavour, manifest, path, cuda, options)
    plan = cache.read(key)
    if plan is None:
        raise EngineError(f"{cache.directory / key}: the engine is damaged; {command}")
    device = f"{cuda.facts.name}, CUDA {cuda.facts.driver}"
    kept = next((kept for cache in caches() if (kept := cache.compiled(key, device))), b"")

    def keep(compiled: bytes) -> None:
        with contextlib.suppress(ConfigError):  # then it is compiled again next time
            EngineCache(default_cache()).add_compiled(key, device, compiled)

    rebuild = f"remove {cache.directory / key}, then {command}"
    executor = TensorRTExecutor(flavour, plan, cuda, kept, keep, rebuild=rebuild)
    return TensorRTEngine(executor, cuda, precision=manifest.precision, is_urgent=manifest.urgent)


def _choose(
    flavour: Flavour, manifest: Manifest, path: worker_pb2.ModelPath, cuda: Cuda, options: str
) -> tuple[EngineCache, str]:
    """Return the cache that has the engine, and its key there."""
    found = [(cache, entry) for cache in caches() for entry in cache.labels() if entry[1]]
    key = choose(
        [entry for _, entry in found],
        name=path.name,
        version=path.version,
        model_sha256=version_sha256(Path(path.directory)),
        builder=flavour.builder,
        targets=flavour.targets_of(cuda.facts.name, cuda.facts.capability),
        options=options,
        precision=manifest.precision,
        max_batch=manifest.max_batch,
    )
    return next(cache for cache, (each, _) in found if each == key), key
