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
the addresses it was captured with (`graphs`). Either every batch runs as a graph, padded to the
next size, or none does.

Where the device shares its memory with the CPU, the pinned memory is the device buffer: the engine
reads what the CPU wrote there and writes where the CPU reads. The copying streams have no copies.

Knows neither pycuda nor TensorRT: `cuda.ports.Cuda` and `ports.Executor` stand between.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
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
from appliance.engines.cuda.ports import Cuda
from appliance.engines.preprocess import Preprocessor
from appliance.engines.tensorrt.buffers import BufferSet, Streams
from appliance.engines.tensorrt.graphs import bind, capture
from appliance.engines.tensorrt.places import new_place
from appliance.engines.tensorrt.ports import Executor, Run
from appliance.engines.tensorrt.tensors import signature_of
from appliance.errors import EngineError, ExtraMissing
from appliance.models.manifest import Precision
from appliance.models.plans import InputPlan, Signature

SETS = 2
SWITCHED_OFF = "switched off"
"""Instead of graphs, where none are wanted."""
WITHOUT_GRAPHS = "runs without CUDA graphs"
"""What the log says, before why."""
_SEED = 0


class TensorRTEngine:
    """See `base.DeviceEngine`.

    Attributes:
        cuda: The GPU.
        precision, is_urgent, without_graphs, images_on_cpu: See `base.DeviceEngine`.
        max_batch: The most rows of a batch.
        sizes: Of batches that have graphs, ascending; none: batches run as they come.
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
        self.images_on_cpu = ""
        self.streams = Streams(*(cuda.stream(is_urgent=is_urgent) for _ in range(3)))
        self._executor = executor
        self._run: Run | None = None
        self._bound: BufferSet | None = None
        self._batch = 0
        self._sets: list[BufferSet] = []
        try:
            for _ in range(SETS):
                self._sets.append(self._new_set())
        except EngineError:
            self.close()
            raise

    def _new_set(self) -> BufferSet:
        tensors, most = self._executor.tensors, self.max_batch
        places = {tensor.name: new_place(self.cuda, tensor, most) for tensor in tensors}
        return BufferSet(
            self.cuda,
            self.streams,
            self.enqueue,
            most,
            {name: place for name, place in places.items() if place.tensor.is_input},
            {name: place for name, place in places.items() if not place.tensor.is_input},
        )

    # ------------------------------------------------------------------------------ batches

    @property
    def has_buffers(self) -> bool:
        """See `base.DeviceEngine`."""
        return any(each.is_free for each in self._sets)

    def buffers(self) -> BufferSet | None:
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

    def enqueue(self, buffers: BufferSet, size: int) -> None:
        """Put a run of a set on the compute stream, without a graph.

        Raises:
            EngineError: It cannot be run.
            DeviceLost: The process has to end.
        """
        if self._run is None:
            self._run, self._bound, self._batch = self._executor.new_run(), None, 0
        if self._batch != size:
            self._run.set_batch(size)
            self._batch = size
        if self._bound is not buffers:
            bind(self._run, buffers)
            self._bound = buffers
        self._run.enqueue(self.streams.compute)

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """See `base.DeviceEngine`."""
        self.cuda.pin(memory)

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """See `base.DeviceEngine`."""
        self.streams.copy_in.wait()  # copies of rows that were then not run
        self.cuda.unpin(memory)

    def close(self) -> None:
        """Let all of it go, when what is on its way is done: each before what it is of."""
        self.streams.wait()
        for each in self._sets:
            each.close()
        self._sets.clear()
        self._run = self._bound = None
        self._executor.keep_compiled()  # without graphs, most is compiled after `prepare`
        self._executor.close()
        self.streams.close()

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
            self.images_on_cpu = str(error)
            print(f"images are preprocessed on the CPU: {error}", file=sys.stderr)  # noqa: T201  it is logged
            for each in self._sets:
                each.images.clear()

    def _try_kernel(self, buffers: BufferSet, plan: InputPlan) -> None:
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
            buffers.images[name].launch(1, self.streams.copy_in)
            place.fetch(place.tensor.bytes_of(1), self.streams.copy_in)
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
            self.without_graphs = SWITCHED_OFF
            return
        wanted = tuple(sorted({*sizes, self.max_batch}))
        self._run = self._bound = None  # its context may be one that is captured of
        try:
            capture(self._executor, self._sets, wanted, self.cuda, self.streams.compute)
        except EngineError as error:
            self.without_graphs = str(error)
            print(f"{WITHOUT_GRAPHS}: {error}", file=sys.stderr)  # noqa: T201  it is logged
            for each in self._sets:
                each.drop_graphs()
        else:
            self.sizes, self.without_graphs = wanted, ""
        self._executor.keep_compiled()
