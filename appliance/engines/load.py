"""From a model's paths to a loaded, warmed-up and measured model."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import define, evolve

from appliance.engines import heap
from appliance.engines.arena import ArenaView
from appliance.engines.base import DeviceEngine, Engine
from appliance.engines.device import ON_CPU, Device
from appliance.engines.model import LoadedModel
from appliance.engines.outputs import describe
from appliance.engines.registry import load_engine
from appliance.engines.warmup import Rehearsal
from appliance.errors import DeviceLost, EngineError
from appliance.models.manifest import Manifest, parse_manifest
from appliance.models.plans import Resolved, Signature
from appliance.models.resolve import resolve
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import FREE


@define(eq=False)
class Loaded:
    """A model that is ready.

    Attributes:
        times_ns: Batch size to median nanoseconds, gathering and writing included.
        load_ns: What it takes to have it ready again: reading, and the first run.
        memory_bytes: What it takes.
    """

    model: LoadedModel
    times_ns: dict[int, int]
    load_ns: int
    memory_bytes: int = 0


def load(
    path: worker_pb2.ModelPath,
    arena: ArenaView,
    on_step: Callable[[str], None],
    *,
    device: Device = ON_CPU,
) -> Loaded:
    """Load one model.

    Args:
        on_step: Told what comes next, in words.
        device: What it is to run on.

    Raises:
        ConfigError: The manifest is wrong, or does not fit the model.
        EngineError: The model cannot be loaded, or gives something unusable.
        DeviceLost: The process has to end.
        Exception: Whatever a model's own code raises.
    """
    started_ns = time.monotonic_ns()
    on_step("reading")
    manifest = parse_manifest(path.manifest, path.manifest_path)
    engine = load_engine(manifest, path, device)
    heap.give_back()  # reading a model can take as much again as the model
    try:
        where = path.manifest_path
        resolved = resolve(manifest, engine.signature, path.name, path.version, where=where)
        if engine.signature.outputs is None:
            on_step("first run")
            resolved = _learn(path, manifest, engine, resolved)
        _prepare(manifest, engine, resolved, on_step)
        load_ns = time.monotonic_ns() - started_ns
        rehearsal = Rehearsal(engine, resolved, manifest.warmup)
        try:
            times_ns = rehearsal.measure(on_step)
        finally:
            rehearsal.close()
    except DeviceLost:
        raise
    except BaseException:
        engine.close()
        raise
    load_ns += max(times_ns.values())
    return Loaded(LoadedModel(engine, resolved, arena), times_ns, load_ns)


def load_again(
    path: worker_pb2.ModelPath, arena: ArenaView, resolved: Resolved, *, device: Device
) -> LoadedModel:
    """Load a model as it was loaded before, and run it once; it is not measured again.

    Args:
        resolved: What it took and gave.

    Raises:
        EngineError: It takes or gives something else by now, or cannot be loaded.
        DeviceLost: The process has to end.
        Exception: Whatever a model's own code raises.
    """
    manifest = parse_manifest(path.manifest, path.manifest_path)
    engine = load_engine(manifest, path, device)
    try:
        heap.give_back()
        if engine.signature.outputs is not None:
            where = path.manifest_path
            now = resolve(manifest, engine.signature, path.name, path.version, where=where)
            if now.spec != resolved.spec:
                raise EngineError(  # noqa: TRY301  the engine is closed below
                    f"{path.directory}: its files have changed since it was loaded; "
                    "put what is new into a version of its own"
                )
        _prepare(manifest, engine, resolved, _untold)
        rehearsal = Rehearsal(engine, resolved, manifest.warmup)
        try:
            rehearsal.run_once()
        finally:
            rehearsal.close()
    except DeviceLost:
        raise
    except BaseException:
        engine.close()
        raise
    return LoadedModel(engine, resolved, arena)


def _untold(_: str) -> None:
    """Tell nobody: a worker that serves says nothing of its steps."""


def _prepare(
    manifest: Manifest, engine: Engine, resolved: Resolved, on_step: Callable[[str], None]
) -> None:
    """Do ahead what an engine on a device can."""
    if isinstance(engine, DeviceEngine):
        on_step("compiling")
        engine.preprocess_images(resolved.inputs if manifest.cuda_preprocessing else ())
        on_step("capturing")
        engine.prepare(resolved.buckets if manifest.cuda_graphs else ())


def _learn(
    path: worker_pb2.ModelPath, manifest: Manifest, engine: Engine, resolved: Resolved
) -> Resolved:
    """Run a model that cannot say what it gives, and resolve again with what came."""
    returned, count = Rehearsal(engine, resolved, manifest.warmup).learn()
    outputs = describe(returned, count, resolved)
    follows = any(FREE in plan.spec.row_shape for plan in resolved.inputs)
    if follows and manifest.output_bytes is not None:
        # What it gives may follow what it gets; the manifest says how much that is at most.
        fed_back = {plan.output for plan in resolved.states}
        outputs = tuple(
            tensor if tensor.name in fed_back else evolve(tensor, shape=(FREE,) * len(tensor.shape))
            for tensor in outputs
        )
    engine.signature = Signature(inputs=engine.signature.inputs, outputs=outputs)
    return resolve(manifest, engine.signature, path.name, path.version, where=path.manifest_path)
