"""An engine without a worker, to compare with: a loop in this process that submits and waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.loading import load_tensorrt
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
        """The same, with the copies of inputs and outputs."""
        ...

    def kept_busy_ns(self, runs: int) -> int:
        """Return the time that so many take that nobody waits for one by one."""
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
        yield OnGpu(engine, size)
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

    def kept_busy_ns(self, runs: int) -> int:
        return sum(timed(self.run_and_wait, runs))


class OnGpu:
    """A `Bare` of an engine on a GPU."""

    def __init__(self, engine: TensorRTEngine, size: int) -> None:
        buffers = engine.buffers()
        assert buffers is not None
        self.without_graphs = engine.without_graphs
        self.buffers = buffers
        self._engine, self._size = engine, size
        self._graph = buffers.graphs.get(size)
        for place in buffers.inputs.values():
            given = noises({"": (place.host.shape, place.host.dtype)})
            place.host[...] = given[""]

    def _run(self) -> None:
        if self._graph is not None:
            self._graph.launch(self._engine.streams.compute)
        else:
            self._engine.enqueue(self.buffers, self._size)

    def run_and_wait(self) -> None:
        """See `Bare`."""
        self._run()
        self._engine.streams.compute.wait()

    def copy_run_and_wait(self) -> None:
        """See `Bare`."""
        stream = self._engine.streams.compute
        for place in self.buffers.inputs.values():
            place.bring(0, place.tensor.bytes_of(self._size), stream)
        self._run()
        for place in self.buffers.outputs_.values():
            place.fetch(place.tensor.bytes_of(self._size), stream)
        stream.wait()

    def kept_busy_ns(self, runs: int) -> int:
        """See `Bare`."""
        started = time.monotonic_ns()
        for _ in range(runs):
            self._run()
        self._engine.streams.compute.wait()
        return time.monotonic_ns() - started


def _shapes(signature: Signature, size: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {
        each.name: ((size, *each.shape[1:]), array_dtype(each.dtype))
        for each in signature.inputs or ()
    }
