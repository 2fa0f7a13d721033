"""An engine on a GPU: two sets of buffers, so that one batch is copied in while another runs.

```
copy-in stream    rows -> device buffer, images  event "copied"
compute stream    wait "copied"  graph or enqueue  event "computed"
copy-out stream   wait "computed"  device -> pinned memory  event "done"
```

Raw rows that need nothing done are copied by the device from where they lie in the arena. Images
are made by a kernel (`cuda.images`). What else was decoded or scaled is written to pinned memory
first.

At warm-up the work of each batch size is captured as a graph, once for each set, as a graph knows
the addresses it was captured with. From then on the execution context is left alone: changing it
would change what its graphs do. So either every batch runs as a graph, padded to the next size, or
none does.

Where the device shares its memory with the CPU, the pinned memory is the device buffer: the engine
reads what the CPU wrote there and writes where the CPU reads. The copying streams have no copies.

Knows neither pycuda nor TensorRT: `cuda.ports.Cuda` and `Executor` stand between.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from appliance.engines.base import Arrays
from appliance.engines.cuda.images import (
    KERNEL,
    BatchImages,
    is_for_kernel,
    kernel_text,
    probe_shape,
    tolerance_of,
)
from appliance.engines.cuda.ports import Cuda, Event, Graph, Stream
from appliance.engines.preprocess import Preprocessor
from appliance.engines.tensorrt.places import Place, new_place
from appliance.engines.tensorrt.tensors import Tensor, padded, runs_of, signature_of
from appliance.errors import EngineError, ExtraMissing
from appliance.models.manifest import Precision
from appliance.models.plans import InputPlan, Signature

SETS = 2
REPLAY_TOLERANCE = 1e-2
"""A graph's outputs beside those of a run without it, as a part of the largest value.
The kernels are the same, so they are equal, but where a kernel adds up in no fixed order."""
_SEED = 0


class Executor(Protocol):
    """TensorRT's execution context of one engine.

    Attributes:
        tensors: What it takes and gives.
        max_batch: The most rows it takes.
    """

    tensors: tuple[Tensor, ...]
    max_batch: int

    def set_batch(self, size: int) -> None:
        """Set the shapes of a batch, for what is enqueued from now on."""
        ...

    def set_address(self, name: str, address: int) -> None:
        """Set where a tensor lies, likewise."""
        ...

    def enqueue(self, stream: Stream) -> None:
        """Put a run on a stream.

        Raises:
            EngineError: It cannot be run.
            DeviceLost: The process has to end.
        """
        ...

    def is_capturable(self, stream: Stream) -> bool:
        """Return whether `enqueue` can be captured."""
        ...

    def renew(self) -> None:
        """Start over, after a capture that went wrong."""
        ...

    def close(self) -> None:
        """Let the engine go."""
        ...


@define(eq=False)
class _Set:
    """See `base.Buffers`."""

    _engine: TensorRTEngine
    inputs: dict[str, Place]
    outputs_: dict[str, Place]
    images: dict[str, BatchImages]
    _copied: Event
    _computed: Event
    _done: Event
    graphs: dict[int, Graph] = field(factory=dict[int, Graph], init=False)
    is_free: bool = field(default=True, init=False)
    _written: dict[str, set[int]] = field(factory=dict[str, "set[int]"], init=False)
    _size: int = field(default=0, init=False)
    _count: int = field(default=0, init=False)

    def take(self, name: str, position: int, row: NDArray[Any]) -> bool:
        place = self.inputs[name]
        if place.is_mapped:  # one copy it takes anyway, from the arena: the CPU makes it
            return False
        shape = place.tensor.shape[1:]
        if row.shape != shape or not row.flags.c_contiguous:
            return False
        engine = self._engine
        address = int(row.ctypes.data)
        if not engine.cuda.is_pinned(address, row.nbytes):
            return False
        target = place.device.address + position * row.nbytes
        engine.cuda.copy_in(target, address, row.nbytes, engine.copy_in)
        self._let_go(name, position)
        return True

    def take_image(self, name: str, position: int, pixels: NDArray[Any]) -> bool:
        images = self.images.get(name)
        if images is None:
            return False
        self._let_go(name, position)
        return images.take(position, pixels, self._engine.copy_in)

    def place(self, name: str, position: int) -> NDArray[Any]:
        self._let_go(name, position)
        self._written[name].add(position)
        row: NDArray[Any] = self.inputs[name].of_batch(self._engine.max_batch)[position, ...]
        return row

    def submit(self, inputs: Mapping[str, NDArray[Any]], count: int) -> None:
        engine = self._engine
        self._count = count
        self._size = padded(count, engine.sizes) if self.graphs else count
        for name, place in self.inputs.items():
            if name in inputs:
                place.of_rows(self._size, count)[...] = inputs[name]
                place.bring(0, place.bytes_of(self._size, count), engine.copy_in)
                continue
            row_bytes = place.tensor.bytes_of(1)
            written = sorted(position for position in self._written[name] if position < count)
            for first, length in runs_of(written):
                place.bring(first * row_bytes, length * row_bytes, engine.copy_in)
        for images in self.images.values():
            images.launch(count, engine.copy_in)
        engine.copy_in.record(self._copied)
        engine.compute.wait_for(self._copied)
        self._run()
        engine.compute.record(self._computed)
        engine.copy_out.wait_for(self._computed)
        for place in self.outputs_.values():
            place.fetch(place.bytes_of(self._size, count), engine.copy_out)
        engine.copy_out.record(self._done)

    def is_done(self) -> bool:
        return self._done.is_done()

    def outputs(self) -> Arrays:
        self._done.wait()
        return {
            name: place.of_rows(self._size, self._count) for name, place in self.outputs_.items()
        }

    def release(self) -> None:
        self._clear()
        self.is_free = True

    def acquire(self) -> None:
        """Take them for a batch."""
        self._clear()
        self.is_free = False

    def _clear(self) -> None:
        self._written = {name: set() for name in self.inputs}
        for images in self.images.values():
            images.clear()

    def _let_go(self, name: str, position: int) -> None:
        """Forget what was to come to a place."""
        self._written[name].discard(position)
        if name in self.images:
            self.images[name].drop(position)

    def _run(self) -> None:
        graph = self.graphs.get(self._size)
        if graph is not None:
            graph.launch(self._engine.compute)
        else:
            self._engine.enqueue(self, self._size)


class TensorRTEngine:
    """See `base.DeviceEngine`.

    Attributes:
        cuda: The GPU.
        precision, is_urgent: See `base.DeviceEngine`.
        max_batch: The most rows of a batch.
        sizes: Of batches that have graphs, ascending; none: batches run as they come.
        without_graphs: Why there are none, in words; empty while there are.
    """

    keeps_inputs = False

    def __init__(
        self,
        executor: Executor,
        cuda: Cuda,
        *,
        precision: Precision = "fp32",
        is_urgent: bool = False,
    ) -> None:
        """Allocate what batches need.

        Raises:
            EngineError: There is not enough memory.
        """
        self.cuda = cuda
        self.precision: Precision = precision
        self.is_urgent = is_urgent
        self.max_batch = executor.max_batch
        self.signature: Signature = signature_of(executor.tensors)
        self.sizes: tuple[int, ...] = ()
        self.without_graphs = "not prepared"
        self.copy_in = cuda.stream(is_urgent=is_urgent)
        self.compute = cuda.stream(is_urgent=is_urgent)
        self.copy_out = cuda.stream(is_urgent=is_urgent)
        self._executor = executor
        self._sets = [self._new_set(executor.tensors) for _ in range(SETS)]
        self._bound: _Set | None = None
        self._batch = 0

    def _new_set(self, tensors: Sequence[Tensor]) -> _Set:
        places = {tensor.name: new_place(self.cuda, tensor, self.max_batch) for tensor in tensors}
        return _Set(
            self,
            {name: place for name, place in places.items() if place.tensor.is_input},
            {name: place for name, place in places.items() if not place.tensor.is_input},
            {},
            self.cuda.event(),
            self.cuda.event(),
            self.cuda.event(),
        )

    # ------------------------------------------------------------------------------ batches

    @property
    def has_buffers(self) -> bool:
        """See `base.DeviceEngine`."""
        return any(each.is_free for each in self._sets)

    def buffers(self) -> _Set | None:
        """See `base.DeviceEngine`."""
        found = next((each for each in self._sets if each.is_free), None)
        if found is not None:
            found.acquire()
        return found

    def run(self, inputs: dict[str, NDArray[Any]]) -> Arrays:
        """See `base.Engine`: one batch by itself, from memory of any kind."""
        buffers = self.buffers()
        if buffers is None:
            raise EngineError("more batches are on their way than the engine has buffers for")
        axes = {name: place.tensor.axis for name, place in buffers.inputs.items()}
        counts = [
            array.shape[axis] for name, array in inputs.items() if (axis := axes[name]) is not None
        ]
        try:
            buffers.submit(inputs, counts[0] if counts else 1)
            return {name: array.copy() for name, array in buffers.outputs().items()}
        finally:
            buffers.release()

    def enqueue(self, buffers: _Set, size: int) -> None:
        """Put a run of a set on the compute stream, without a graph."""
        if self._batch != size:
            self._executor.set_batch(size)
            self._batch = size
        if self._bound is not buffers:
            for place in (*buffers.inputs.values(), *buffers.outputs_.values()):
                self._executor.set_address(place.tensor.name, place.device.address)
            self._bound = buffers
        self._executor.enqueue(self.compute)

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """See `base.DeviceEngine`."""
        self.cuda.pin(memory)

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """See `base.DeviceEngine`."""
        self.copy_in.wait()  # copies of rows that were then not run
        self.cuda.unpin(memory)

    def close(self) -> None:
        """Let the engine go, when what is on its way is done."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.wait()
        self._bound = None
        self._sets.clear()
        self._executor.close()

    # ------------------------------------------------------------------------------- images

    def preprocess_images(self, plans: Sequence[InputPlan]) -> None:
        """See `base.DeviceEngine`: by a kernel, if it makes what the CPU does."""
        wanted = [plan for plan in plans if is_for_kernel(plan)]
        if not wanted:
            return
        try:
            kernel = self.cuda.kernel(kernel_text(), KERNEL)
            for plan in wanted:
                for each in self._sets:
                    place = each.inputs[plan.spec.name]
                    made = BatchImages(self.cuda, kernel, plan, place.device, self.max_batch)
                    each.images[plan.spec.name] = made
                    self._try_kernel(each, plan)
        except (EngineError, ExtraMissing) as error:
            print(f"images are preprocessed on the CPU: {error}", file=sys.stderr)  # noqa: T201  it is logged
            for each in self._sets:
                each.images.clear()

    def _try_kernel(self, buffers: _Set, plan: InputPlan) -> None:
        """Make one image by the kernel and by the CPU.

        Raises:
            EngineError: They differ, or the kernel cannot have such an image.
        """
        name, shape = plan.spec.name, probe_shape(plan)
        pixels = np.frombuffer(mmap.mmap(-1, prod(shape)), np.uint8).reshape(shape)
        pixels[...] = np.random.default_rng(_SEED).integers(0, 256, shape)
        place = buffers.inputs[name]
        self.pin(pixels)
        buffers.acquire()
        try:
            if not buffers.take_image(name, 0, pixels):
                raise EngineError(f"the GPU cannot reach images for {name!r}")
            buffers.images[name].launch(1, self.copy_in)
            place.fetch(place.tensor.bytes_of(1), self.copy_in)
        finally:
            self.unpin(pixels)
            buffers.release()
        found = place.of_batch(self.max_batch)[0].copy()
        wanted = np.empty_like(found)
        Preprocessor(plan).write(pixels, wanted)
        off = np.max(np.abs(found.astype(np.float64) - wanted.astype(np.float64)))
        if not off <= tolerance_of(plan):
            raise EngineError(f"an image for {name!r} is off by {off}, made on this GPU")

    # ------------------------------------------------------------------------------- graphs

    def prepare(self, sizes: Sequence[int]) -> None:
        """Capture the work of these batch sizes, and of the largest; or else say why not.

        Args:
            sizes: None: nothing is to be captured.

        Raises:
            DeviceLost: The process has to end.
        """
        if not sizes:
            self.without_graphs = "switched off"
            return
        wanted = tuple(sorted({*sizes, self.max_batch}))
        try:
            if not self._executor.is_capturable(self.compute):
                raise EngineError("TensorRT cannot have this engine captured")  # noqa: TRY301
            self._capture(wanted)
        except EngineError as error:
            self.without_graphs = str(error)
            print(f"runs without CUDA graphs: {error}", file=sys.stderr)  # noqa: T201  it is logged
            for each in self._sets:
                each.graphs.clear()
            self._executor.renew()
            self._bound, self._batch = None, 0
        else:
            self.sizes, self.without_graphs = wanted, ""

    def _capture(self, sizes: Sequence[int]) -> None:
        """Capture, and compare each graph with a run that was not captured.

        A graph has to read and write anew: it is captured with nothing but zeros in the inputs,
        and replayed with other numbers, over outputs that are all wrong.

        Raises:
            EngineError: One cannot be captured, or gives something else.
        """
        random = np.random.default_rng(_SEED)
        given = [_drawn(buffers, random) for buffers in self._sets]
        expected: list[tuple[int, int, dict[str, NDArray[Any]]]] = []
        for size in sizes:
            for index, buffers in enumerate(self._sets):
                self._bring(buffers.inputs, given[index])
                # Not captured: TensorRT does what the new shapes need done once.
                self.enqueue(buffers, size)
                expected.append((index, size, self._fetch(buffers, size)))
                self._bring(buffers.inputs, None)
                buffers.graphs[size] = self.cuda.capture(
                    self.compute, lambda: self._executor.enqueue(self.compute)
                )
        for buffers, values in zip(self._sets, given, strict=True):
            self._bring(buffers.inputs, values)
        order: list[int] = random.permutation(len(expected)).tolist()
        for index, size, wanted in (expected[at] for at in order):
            self._check_graph(self._sets[index], size, wanted)

    def _check_graph(self, buffers: _Set, size: int, wanted: Arrays) -> None:
        wrong = {name: _inverted(array).ravel() for name, array in wanted.items()}
        self._bring(buffers.outputs_, wrong)
        buffers.graphs[size].launch(self.compute)
        for name, found in self._fetch(buffers, size).items():
            if not _agree(found, wanted[name]):
                raise EngineError(
                    f"the graph of batches of {size} gives another {name!r} than a run without it"
                )

    def _bring(self, places: Mapping[str, Place], values: Arrays | None) -> None:
        """Write tensors, from flat arrays of as much as is to be written; None: all zeros."""
        for name, place in places.items():
            part = place.host if values is None else place.host[: values[name].size]
            part[...] = 0 if values is None else values[name]
            place.bring(0, part.nbytes, self.compute)
        self.compute.wait()

    def _fetch(self, buffers: _Set, size: int) -> dict[str, NDArray[Any]]:
        for place in buffers.outputs_.values():
            place.fetch(place.tensor.bytes_of(size), self.compute)
        self.compute.wait()
        return {name: place.of_batch(size).copy() for name, place in buffers.outputs_.items()}


def _drawn(buffers: _Set, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return made-up inputs of a whole batch, flat."""
    return {
        name: (
            random.standard_normal(place.host.shape).astype(place.host.dtype)
            if place.host.dtype.kind == "f"
            else random.integers(0, 2, place.host.shape).astype(place.host.dtype)  # maybe indices
        )
        for name, place in buffers.inputs.items()
    }


def _inverted(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of which no value agrees: every bit is another, of floats the sign too."""
    if array.dtype.kind == "b":
        return ~array
    return (~array.view(f"u{array.itemsize}")).view(array.dtype)


def _agree(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    if wanted.dtype.kind != "f":
        return np.array_equal(found, wanted)
    scale = float(np.max(np.abs(wanted), initial=0.0, where=np.isfinite(wanted)))
    return np.allclose(
        found.astype(np.float64),
        wanted.astype(np.float64),
        rtol=0.0,
        atol=REPLAY_TOLERANCE * scale,
        equal_nan=True,
    )
