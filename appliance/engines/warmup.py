"""Runs a model before anybody needs it, and measures how long each batch size takes.

Made-up rows go the whole way (gather, preprocess, run, write) through private memory that stands
for the arena, so what is measured is what a batch will take.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from statistics import median_low

import numpy as np

from appliance.engines.arena import ArenaView
from appliance.engines.base import Arrays, Engine
from appliance.engines.gather import Gathered
from appliance.engines.model import LoadedModel, release
from appliance.engines.samples import Zeros, feed_of, sample
from appliance.errors import ConfigError
from appliance.models.manifest import WarmUp
from appliance.models.plans import Resolved
from appliance.models.shapes import aligned
from appliance.wire.pb import worker_pb2

ENOUGH_NS, ENOUGH_RUNS = 100_000_000, 3
"""A slow model is run less often: robots wait for it, and their answers time it from then on."""

BUCKET_BUDGET_NS = 1_000_000_000
"""Slow models are timed fewer times."""


class Rehearsal:
    """A model with made-up rows of its own."""

    def __init__(self, engine: Engine, resolved: Resolved, warmup: WarmUp) -> None:
        """Lay out private memory for the largest batch.

        Raises:
            ConfigError: `warmup.shapes` does not fit.
        """
        self._resolved = resolved
        self._iterations = warmup.iterations
        size = resolved.buckets[-1]
        samples = [
            [
                sample(plan, encoding, warmup.shapes.get(plan.spec.name), Zeros())
                for encoding in plan.spec.encodings
            ]
            for plan in resolved.inputs
        ]
        rows = bytearray()
        feeds = [[feed_of(rows, made) for made in choices] for choices in samples]
        state_at = len(rows)
        state_bytes = sum(aligned(plan.bytes) for plan in resolved.states)
        output_at = state_at + state_bytes * size
        self._output_bytes = resolved.spec.output_bytes_per_row * size
        # Pages that are never written to cost nothing, however much room outputs may need.
        memory = mmap.mmap(-1, output_at + self._output_bytes)
        memory[:state_at] = bytes(rows)
        self._model = LoadedModel(engine, resolved, ArenaView(memory))
        # As the arena: a device reads the rows from where they lie.
        self._pinned = np.frombuffer(memory, np.uint8, max(output_at, 1))
        if self._model.device is not None:
            self._model.device.pin(self._pinned)
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

    def close(self) -> None:
        """Give the memory back."""
        if self._model.device is not None:
            self._model.device.unpin(self._pinned)

    def run_once(self) -> None:
        """Run the largest batch: the first run of a model is slower than those that follow.

        Raises:
            Exception: Whatever the model raises.
        """
        self._run(self._stage(len(self._rows)))

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
            release(gathered)
            raise ConfigError(f"warm-up: {gathered.failures[0].message}; set warmup.shapes")
        return gathered

    def _try_every_encoding(self) -> None:
        """Decode once what may come, so that the first client does not wait for imports."""
        for number, choices in enumerate(self._feeds):
            for feed in choices[1:]:
                row = worker_pb2.Row()
                row.CopyFrom(self._rows[0])
                row.feeds[number].CopyFrom(feed)
                release(self._gather(worker_pb2.Stage(rows=[row])))

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
