"""An engine without a worker, to compare with: a loop in this process that submits and waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from attrs import define
from numpy.typing import NDArray

from appliance.engines.cuda.ports import Event
from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.tensorrt.buffers import BufferSet
from appliance.engines.tensorrt.engine import SETS, TensorRTEngine
from appliance.engines.tensorrt.loading import load_tensorrt
from appliance.engines.tensorrt.places import Place
from appliance.models.manifest import parse_manifest
from appliance.models.plans import Signature, array_dtype
from appliance.wire.pb import worker_pb2
from tools.gpu_check.setting import Setting


class Bare(Protocol):
    """One engine and one size of batches."""

    without_graphs: str
    """Why there are no CUDA graphs; empty: there are."""

    def run_and_wait(self) -> None:
        """Run a batch that lies on the device, and wait."""
        ...

    def copy_run_and_wait(self) -> None:
        """The same, with the copies that a worker has made: a row each, and whole outputs."""
        ...

    def kept_busy_ns(self, runs: int, *, copies: bool) -> int:
        """Return the time that so many take that nobody waits for one by one.

        Args:
            copies: With those of `copy_run_and_wait`, of one batch beside the run of another.
        """
        ...


def timed(work: Callable[[], None], runs: int) -> list[int]:
    """Return how long each run takes, nanoseconds."""
    taken: list[int] = []
    for _ in range(runs):
        started = time.monotonic_ns()
        work()
        taken.append(time.monotonic_ns() - started)
    return taken


@contextmanager
def bare(setting: Setting, model: str, size: int) -> Generator[Bare, None, None]:
    """Load an engine in this process."""
    entry = next(entry for entry in setting.entries() if entry.name == model)
    if not setting.on_gpu:
        yield _OnCpu(OnnxRuntimeEngine(entry.directory), size)
        return
    with setting.opened() as device:
        assert device.cuda is not None
        path = worker_pb2.ModelPath(
            name=model, version=entry.version, directory=str(entry.directory)
        )
        manifest = parse_manifest(entry.manifest, str(entry.manifest_path))
        engine = load_tensorrt(manifest, path, device.cuda)
        engine.prepare((size,))
        loop = OnGpu(engine, size)
        yield loop
        loop.close()
        engine.close()


def noises(shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[str, NDArray[Any]]:
    """Return inputs: bytes are pixels, all else is normally distributed."""
    random = np.random.default_rng()
    return {
        name: random.integers(0, 256, shape, dtype=np.uint8)
        if dtype == np.uint8
        else random.standard_normal(shape).astype(dtype)
        for name, (shape, dtype) in shapes.items()
    }


class _OnCpu:
    without_graphs = ""

    def __init__(self, engine: OnnxRuntimeEngine, size: int) -> None:
        self._engine = engine
        self._given = noises(_shapes(engine.signature, size))

    def run_and_wait(self) -> None:
        self._engine.run(self._given)

    def copy_run_and_wait(self) -> None:
        self._engine.run({name: array.copy() for name, array in self._given.items()})

    def kept_busy_ns(self, runs: int, *, copies: bool) -> int:
        return sum(timed(self.copy_run_and_wait if copies else self.run_and_wait, runs))


@define(eq=False)
class _Lane:
    """One set of buffers, and what is copied for a batch.

    Attributes:
        copies: Place, offset and bytes of each copy to the device.
        copied, computed, done: Events.
    """

    buffers: BufferSet
    copies: list[tuple[Place, int, int]]
    copied: Event
    computed: Event
    done: Event


class OnGpu:
    """A `Bare` of an engine on a GPU."""

    def __init__(self, engine: TensorRTEngine, size: int) -> None:
        self.without_graphs = engine.without_graphs
        self._engine, self._size = engine, size
        self._lanes = [self._new_lane() for _ in range(SETS)]
        self.buffers = self._lanes[0].buffers

    def _new_lane(self) -> _Lane:
        buffers, cuda = self._engine.buffers(), self._engine.cuda
        assert buffers is not None
        copies: list[tuple[Place, int, int]] = []
        for place in buffers.inputs.values():
            place.host[...] = noises({"": (place.host.shape, place.host.dtype)})[""]
            whole = place.tensor.bytes_of(self._size)
            # Rows come one by one; what they are not the first dimension of is copied whole.
            each = place.tensor.bytes_of(1) if place.tensor.axis == 0 else whole
            copies += [(place, offset, each) for offset in range(0, whole, each)]
        return _Lane(buffers, copies, cuda.event(), cuda.event(), cuda.event())

    def _run(self, buffers: BufferSet) -> None:
        graph = buffers.graphs.get(self._size)
        if graph is not None:
            graph.launch(self._engine.streams.compute)
        else:
            self._engine.enqueue(buffers, self._size)

    def _copy_and_run(self, lane: _Lane) -> None:
        streams = self._engine.streams
        for place, offset, size in lane.copies:
            place.bring(offset, size, streams.copy_in)
        streams.copy_in.record(lane.copied)
        streams.compute.wait_for(lane.copied)
        self._run(lane.buffers)
        streams.compute.record(lane.computed)
        streams.copy_out.wait_for(lane.computed)
        for place in lane.buffers.outputs_.values():
            place.fetch(place.tensor.bytes_of(self._size), streams.copy_out)
        streams.copy_out.record(lane.done)

    def run_and_wait(self) -> None:
        """See `Bare`."""
        self._run(self.buffers)
        self._engine.streams.compute.record(self._lanes[0].computed)
        _spin(self._lanes[0].computed)

    def copy_run_and_wait(self) -> None:
        """See `Bare`."""
        self._copy_and_run(self._lanes[0])
        _spin(self._lanes[0].done)

    def kept_busy_ns(self, runs: int, *, copies: bool) -> int:
        """See `Bare`."""
        started = time.monotonic_ns()
        for number in range(runs):
            if copies:
                lane = self._lanes[number % SETS]
                _spin(lane.done)
                self._copy_and_run(lane)
            else:
                self._run(self.buffers)
        self._engine.streams.wait()
        return time.monotonic_ns() - started

    def close(self) -> None:
        """Let the events go."""
        for lane in self._lanes:
            for event in (lane.copied, lane.computed, lane.done):
                event.close()


def _spin(event: Event) -> None:
    """Wait for an event as fast as can be: asleep, who waits is woken late."""
    while not event.is_done():
        pass


def _shapes(signature: Signature, size: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {
        each.name: ((size, *each.shape[1:]), array_dtype(each.dtype))
        for each in signature.inputs or ()
    }
