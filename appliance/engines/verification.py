"""Does a version answer what it should? Before it serves, and in a process of its own.

The engine runs rows, made up or recorded, in batches of several sizes, as it will be run. What it
gives is compared with a reference, row by row: ONNX Runtime, one row at a time and without
its graph optimisations, where there is a `model.onnx`; else the engine itself, one row at a time.
So a wrong engine is found, and also one in which the rows of a batch change each other.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
from attrs import Factory, define, field, frozen
from numpy.typing import NDArray

from appliance.engines.arena import ArenaView
from appliance.engines.base import Arrays, DeviceEngine, Engine
from appliance.engines.device import ON_CPU, Device
from appliance.engines.gather import Gatherer
from appliance.engines.load import Loaded, load
from appliance.engines.registry import MODEL_FILE
from appliance.engines.samples import Random, Sample, feed_of, sample
from appliance.errors import ConfigError, EngineError
from appliance.models.manifest import Manifest, Precision, parse_manifest
from appliance.models.plans import Resolved, array_dtype
from appliance.models.shapes import aligned
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import ModelSpec

TOLERANCES: Mapping[str, float] = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-3}
"""By an output's type, how far a value may be off: a part of the largest value of its row, and at
least of `SMALLEST`. Half precision has 11 bits, and sums of it have fewer; float32 has 24, and is
added up in another order on a GPU. All other types have to be equal."""
PRECISION_TOLERANCES: Mapping[Precision, float] = {"tf32": 1e-1, "fp16": 5e-2, "bf16": 2e-1}
"""Likewise, by what the engine computes in. On made-up rows a model that finds text was off by 0.03
in float16, a recurrent one by 0.003, and by 0.02 in bfloat16, which has eight bits: an eighth. With
factors rounded to TF32, on a CPU, the one that finds text was off by 0.055."""
SMALLEST = 1e-3
"""Rows of nothing but smaller values are compared as if they had one of this size."""
_PRIVATE_BYTES = 4096

Row = Sequence[Union[Sample, None]]  # noqa: UP007
"""One for each of the model's inputs; None: it is left out."""
Inputs = dict[str, NDArray[Any]]


@frozen
class OutputVerdict:
    """How one output compares.

    Attributes:
        rows: That were compared.
        worst: How far the worst value is off, as in `TOLERANCES`; infinite: another shape or type,
            or not a number. For types that have to be equal, the part of a row that differs.
        tolerance: How far it may be.
    """

    name: str
    rows: int
    worst: float
    tolerance: float

    @property
    def is_good(self) -> bool:
        """Whether it is near enough."""
        return self.worst <= self.tolerance


@frozen
class Verification:
    """What came of it.

    Attributes:
        reference: What it was compared with, in words.
        precision: What the engine computes in.
        without_graphs: Why its batches were not run as CUDA graphs, in words; empty: they were, or
            it is none of a GPU.
        batches: The sizes of the batches that were run.
        times_ns: Median time of a batch by size, as the scheduler would plan with.
    """

    reference: str
    precision: Precision
    without_graphs: str
    batches: tuple[int, ...]
    times_ns: Mapping[int, int]
    outputs: tuple[OutputVerdict, ...]

    @property
    def is_good(self) -> bool:
        """Whether every output is near enough."""
        return all(output.is_good for output in self.outputs)

    @property
    def problem(self) -> str:
        """Which output is the worst, how far it is off, and how far it may be; empty if good."""
        if self.is_good:
            return ""
        worst = max((each for each in self.outputs if not each.is_good), key=lambda it: it.worst)
        return (
            f"output {worst.name!r} is off by {worst.worst:.2g}; {worst.tolerance:g} is allowed in "
            f"{self.precision}"
        )


def verify(
    path: worker_pb2.ModelPath,
    *,
    rounds: int,
    seed: int,
    recorded: Callable[[ModelSpec], Sequence[Row]] | None,
    on_step: Callable[[str], None],
    device: Device = ON_CPU,
) -> Verification:
    """Load a version as a worker would, and compare what it gives.

    Args:
        rounds: So often each batch size runs, with other rows.
        seed: Of made-up rows and states.
        recorded: Gives rows to run instead of made-up ones.
        on_step: Told what comes next, in words.
        device: What it is loaded for.

    Raises:
        ConfigError, EngineError: It cannot be loaded, or its rows cannot be used.
        Exception: Whatever a model's own code raises.
    """
    loaded = load(path, ArenaView(mmap.mmap(-1, _PRIVATE_BYTES)), on_step, device=device)
    try:
        return _compared(loaded, path, rounds, seed, recorded, on_step)
    finally:
        loaded.model.engine.close()


def _compared(
    loaded: Loaded,
    path: worker_pb2.ModelPath,
    rounds: int,
    seed: int,
    recorded: Callable[[ModelSpec], Sequence[Row]] | None,
    on_step: Callable[[str], None],
) -> Verification:
    engine, resolved = loaded.model.engine, loaded.model.resolved
    reference, told = _reference(engine, Path(path.directory))
    manifest = parse_manifest(path.manifest, path.manifest_path)
    rows = _Rows(
        resolved,
        manifest,
        Random(np.random.default_rng(seed)),
        None if recorded is None else recorded(resolved.spec),
    )
    device = engine if isinstance(engine, DeviceEngine) else None
    precision = device.precision if device is not None else "fp32"
    comparison = Comparison(resolved, precision)
    # Batches of every size are formed: also one that falls short of its bucket.
    sizes = tuple(sorted({size for most in resolved.buckets for size in (most, max(1, most - 1))}))
    for size in sizes:
        on_step(f"comparing batches of {size}")
        for _ in range(rounds):
            batch, singles = rows.next(size)
            comparison.add(engine.run(batch), [reference.run(single) for single in singles])
    return Verification(
        reference=told,
        precision=precision,
        without_graphs=device.without_graphs if device is not None else "",
        batches=sizes,
        times_ns=loaded.times_ns,
        outputs=comparison.verdicts(),
    )


def _reference(engine: Engine, directory: Path) -> tuple[Engine, str]:
    if not (directory / MODEL_FILE).exists():
        return engine, "itself, row by row"
    from appliance.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  only if needed

    reference = OnnxRuntimeEngine(directory, optimised=False)
    return reference, "ONNX Runtime, row by row, not optimised"


@define(eq=False)
class _Rows:
    """Rows in private memory, gathered and preprocessed as a worker does it.

    Args:
        recorded: To take turns; None: made up.
    """

    resolved: Resolved
    manifest: Manifest
    random: Random
    recorded: Sequence[Row] | None
    _taken: int = field(default=0, init=False)

    def next(self, size: int) -> tuple[Inputs, list[Inputs]]:
        """Return a batch, and its rows each as a batch of its own.

        Raises:
            ConfigError: A row cannot be used.
        """
        memory = bytearray()
        rows = [self._laid_out(memory, row) for row in self._take(size)]
        memory.extend(bytes(1))  # nothing at all cannot be mapped
        mapped = mmap.mmap(-1, len(memory))
        mapped[:] = bytes(memory)
        gatherer = Gatherer(self.resolved, ArenaView(mapped), copies=True)
        batch, *singles = [self._gathered(gatherer, some) for some in (rows, *([r] for r in rows))]
        return batch, singles

    def _take(self, size: int) -> list[Row]:
        if self.recorded is None:
            return [self._made_up() for _ in range(size)]
        there = len(self.recorded)
        self._taken += size
        return [self.recorded[index % there] for index in range(self._taken - size, self._taken)]

    def _made_up(self) -> Row:
        shapes = self.manifest.warmup.shapes
        return [
            sample(plan, plan.spec.encodings[0], shapes.get(plan.spec.name), self.random)
            for plan in self.resolved.inputs
        ]

    def _laid_out(self, memory: bytearray, row: Row) -> worker_pb2.Row:
        feeds = [
            worker_pb2.Feed(absent=True) if made is None else feed_of(memory, made) for made in row
        ]
        state_in: list[worker_pb2.Block] = []
        for plan in self.resolved.states:
            state_in.append(worker_pb2.Block(offset=len(memory), length=plan.bytes))
            numbers = self.random.numbers(plan.shape, array_dtype(plan.dtype))
            memory.extend(numbers.tobytes())
            memory.extend(bytes(aligned(len(memory)) - len(memory)))
        return worker_pb2.Row(feeds=feeds, state_in=state_in)

    def _gathered(self, gatherer: Gatherer, rows: Sequence[worker_pb2.Row]) -> Inputs:
        gathered = gatherer.gather(rows)
        if gathered.failures:
            raise ConfigError(f"a row cannot be used: {gathered.failures[0].message}")
        return gathered.inputs


@define(eq=False)
class Comparison:
    """Compares batches with their rows, and keeps the worst of each output."""

    resolved: Resolved
    precision: Precision
    _rows: dict[str, int] = field(factory=dict[str, int], init=False)
    _worst: dict[str, float] = field(factory=dict[str, float], init=False)
    _tolerances: dict[str, float] = field(factory=dict[str, float], init=False)
    _axes: dict[str, int] = field(
        default=Factory(
            lambda self: {plan.output: plan.axis for plan in self.resolved.states}, takes_self=True
        ),
        init=False,
    )

    def add(self, found: Arrays, expected: list[Arrays]) -> None:
        """Compare what a batch gave with what each of its rows gave.

        Raises:
            EngineError: An output is missing.
        """
        for name in [*(output.name for output in self.resolved.spec.outputs), *self._axes]:
            if name not in found:
                raise EngineError(f"the engine gave no output {name!r}")
            for index, row in enumerate(expected):
                axis = self._axes.get(name, 0)
                wanted = _rows(np.asarray(row[name]), axis, 0)
                self._note(name, distance(_rows(np.asarray(found[name]), axis, index), wanted))
                self._tolerances[name] = self._tolerance(wanted.dtype.name)

    def _tolerance(self, dtype: str) -> float:
        if dtype not in TOLERANCES:
            return 0.0
        return max(TOLERANCES[dtype], PRECISION_TOLERANCES.get(self.precision, 0.0))

    def _note(self, name: str, distance: float) -> None:
        self._rows[name] = self._rows.get(name, 0) + 1
        self._worst[name] = max(self._worst.get(name, 0.0), distance)

    def verdicts(self) -> tuple[OutputVerdict, ...]:
        """Return what came of all."""
        return tuple(
            OutputVerdict(name, rows, self._worst[name], self._tolerances[name])
            for name, rows in self._rows.items()
        )


def _rows(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Return one row, its batch dimension kept."""
    if axis < 0:
        return array
    return array[(*(slice(None),) * axis, slice(index, index + 1))]


def distance(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return how far a row is off, as in `OutputVerdict.worst`."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return math.inf
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind != "f":
        return np.count_nonzero(found != wanted) / wanted.size
    odd: NDArray[np.bool_] = ~np.isfinite(wanted)
    if not np.array_equal(found[odd], wanted[odd], equal_nan=True):
        return math.inf
    ours, theirs = found[~odd].astype(np.float64), wanted[~odd].astype(np.float64)
    if not theirs.size:
        return 0.0
    scale = max(float(np.abs(theirs).max()), SMALLEST)
    worst = float(np.abs(ours - theirs).max()) / scale
    return worst if math.isfinite(worst) else math.inf
