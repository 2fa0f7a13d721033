"""Runs a model before anybody needs it, and measures how long each batch size takes.

Made-up rows go the whole way (gather, preprocess, run, write) through private memory that stands
for the arena, so what is measured is what a batch will take.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from math import prod
from statistics import median_low

import numpy as np
from attrs import frozen

from appliance.engines.arena import ArenaView
from appliance.engines.base import Arrays, Engine
from appliance.engines.gather import Gathered
from appliance.engines.model import LoadedModel
from appliance.errors import ConfigError
from appliance.models.manifest import WarmUp
from appliance.models.plans import InputPlan, Resolved, RowKind
from appliance.models.shapes import aligned
from appliance.wire.arrays import encode_strings
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import FREE
from appliance.wire.types import ITEM_BYTES, DType, Encoding

ENOUGH_NS, ENOUGH_RUNS = 100_000_000, 3
"""A slow model is run less often: robots wait for it, and their answers time it from then on."""

BUCKET_BUDGET_NS = 1_000_000_000
"""Slow models are timed fewer times."""

CAMERA = (480, 640)
"""Height and width of a raw image that is resized anyway."""

OPEN_IMAGE = 224
OPEN_TENSOR = 1
SAMPLE_RATE = 16_000
"""One second of sound where the length is open."""


@frozen
class _Sample:
    """One made-up row of one input, as a client would send it."""

    data: bytes
    dtype: DType
    encoding: Encoding
    shape: tuple[int, ...]


class Rehearsal:
    """A model with made-up rows of its own."""

    def __init__(self, engine: Engine, resolved: Resolved, warmup: WarmUp) -> None:
        """Lay out private memory for the largest batch.

        Raises:
            ConfigError: `warmup.shapes` does not fit.
        """
        self._resolved = resolved
        self._shapes = warmup.shapes
        self._iterations = warmup.iterations
        size = resolved.buckets[-1]
        samples = [
            [self._sample(plan, encoding) for encoding in plan.spec.encodings]
            for plan in resolved.inputs
        ]
        rows = bytearray()
        feeds = [[_feed(rows, sample) for sample in choices] for choices in samples]
        state_at = len(rows)
        state_bytes = sum(aligned(plan.bytes) for plan in resolved.states)
        output_at = state_at + state_bytes * size
        self._output_bytes = resolved.spec.output_bytes_per_row * size
        # Pages that are never written to cost nothing, however much room outputs may need.
        memory = mmap.mmap(-1, output_at + self._output_bytes)
        memory[:state_at] = bytes(rows)
        self._model = LoadedModel(engine, resolved, ArenaView(memory))
        self._output_at = output_at
        self._rows = [
            worker_pb2.Row(
                feeds=[choices[0] for choices in feeds],
                state_out=self._state_blocks(state_at + state_bytes * index),
            )
            for index in range(size)
        ]
        self._feeds = feeds

    def learn(self) -> tuple[Arrays, int]:
        """Run the largest batch once; return what came, and the batch size."""
        gathered = self._gather(self._stage(len(self._rows)))
        return self._model.engine.run(gathered.inputs), len(self._rows)

    def measure(self, on_step: Callable[[str], None]) -> dict[int, int]:
        """Run every batch size a few times; return the median of each, nanoseconds.

        Raises:
            Exception: Whatever the model raises.
        """
        self._try_every_encoding()
        times: dict[int, int] = {}
        for size in self._resolved.buckets:
            on_step(f"warm-up batch {size}")
            stage = self._stage(size)
            self._run(stage)  # the first is slower and does not count
            begun = time.monotonic_ns()
            measured: list[int] = []
            while len(measured) < self._iterations:
                started = time.monotonic_ns()
                self._run(stage)
                now = time.monotonic_ns()
                measured.append(now - started)
                spent = now - begun
                is_enough = spent > ENOUGH_NS and len(measured) >= ENOUGH_RUNS
                if is_enough or spent > BUCKET_BUDGET_NS:
                    break
            times[size] = median_low(measured)
        return times

    def _run(self, stage: worker_pb2.Stage) -> None:
        self._model.execute(stage, self._gather(stage), worker_pb2.Done())

    def _gather(self, stage: worker_pb2.Stage) -> Gathered:
        gathered = self._model.gather(stage)
        if gathered.failures:
            raise ConfigError(f"warm-up: {gathered.failures[0].message}; set warmup.shapes")
        return gathered

    def _try_every_encoding(self) -> None:
        """Decode once what may come, so that the first client does not wait for imports."""
        for number, choices in enumerate(self._feeds):
            for feed in choices[1:]:
                row = worker_pb2.Row()
                row.CopyFrom(self._rows[0])
                row.feeds[number].CopyFrom(feed)
                self._gather(worker_pb2.Stage(rows=[row]))

    def _stage(self, size: int) -> worker_pb2.Stage:
        return worker_pb2.Stage(
            rows=self._rows[:size],
            output_offset=self._output_at,
            output_bytes=self._output_bytes,
        )

    def _state_blocks(self, offset: int) -> list[worker_pb2.Block]:
        blocks: list[worker_pb2.Block] = []
        for plan in self._resolved.states:
            blocks.append(worker_pb2.Block(offset=offset, length=plan.bytes))
            offset += aligned(plan.bytes)
        return blocks

    def _sample(self, plan: InputPlan, encoding: Encoding) -> _Sample:
        """Make one row of zeros, or of text."""
        shape = _concrete_shape(plan, self._shapes.get(plan.spec.name))
        dtype = plan.spec.dtype
        if encoding in (Encoding.JPEG, Encoding.PNG):
            from appliance.engines import images  # noqa: PLC0415  only where needed

            data = images.encode(np.zeros(shape, np.uint8), encoding)
        elif encoding in (Encoding.WAV, Encoding.FLAC):
            from appliance.engines import sounds  # noqa: PLC0415  only where needed

            rate = plan.sample_rate or SAMPLE_RATE
            data = sounds.encode(np.zeros(shape[-1], np.int16), encoding, rate)
        elif dtype is DType.STRING:
            data = encode_strings(["warm-up"] * prod(shape))
        else:
            data = bytes(prod(shape) * ITEM_BYTES[dtype])
        return _Sample(data, dtype, encoding, shape)


def _feed(memory: bytearray, sample: _Sample) -> worker_pb2.Feed:
    """Append a sample to `memory`; return where it lies."""
    feed = worker_pb2.Feed(
        offset=len(memory),
        length=len(sample.data),
        dtype=int(sample.dtype),  # pyright: ignore[reportArgumentType]  enums are integers
        encoding=int(sample.encoding),  # pyright: ignore[reportArgumentType]
        shape=sample.shape,
    )
    memory.extend(sample.data)
    memory.extend(bytes(aligned(len(memory)) - len(memory)))
    return feed


def _concrete_shape(plan: InputPlan, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the shape of one raw row on the wire, with nothing left open.

    Args:
        wanted: The row as the model is to get it, from the manifest.
    """
    spec = plan.spec
    if wanted is not None and len(wanted) != len(spec.row_shape):
        raise ConfigError(
            f"warmup.shapes.{spec.name}: found {list(wanted)}; a row is {list(spec.row_shape)}"
        )
    if plan.kind is RowKind.IMAGE:
        return _image_shape(plan, wanted)
    shape = wanted or spec.row_shape
    instead = OPEN_TENSOR
    if plan.kind is RowKind.SOUND:
        instead = min(plan.sample_rate or SAMPLE_RATE, spec.max_samples)
    return tuple(instead if size == FREE else size for size in shape)


def _image_shape(plan: InputPlan, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    shape = plan.spec.shape
    if wanted and not plan.resize:
        height, width = wanted[1:] if plan.planes_first else wanted[:2]
        return (height, width, shape[2])
    height, width = CAMERA if plan.resize else (OPEN_IMAGE, OPEN_IMAGE)
    while height * width > plan.spec.max_pixels:
        height, width = max(height // 2, 1), max(width // 2, 1)
    height, width = (
        instead if size == FREE else size
        for size, instead in zip(shape, (height, width), strict=False)
    )
    return (height, width, shape[2])
