"""Images made by the kernel beside those made by the CPU: how far off, and how long."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from appliance.engines.cuda.images import KERNEL, BatchImages, kernel_text, tolerance_of
from appliance.engines.cuda.ports import Cuda, DeviceMemory, Kernel, Stream
from appliance.engines.preprocess import Preprocessor
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.models.plans import InputPlan, TensorSignature
from appliance.wire.spec import FREE
from appliance.wire.types import DType
from tools.gpu_check.bare import timed
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Setting

ROUNDS = 30
BATCH = 8
SIDES = (224, 224)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((480, 640), (720, 1280), (1280, 720), (224, 224), (97, 131), (500, 33), (1, 1), (223, 9))
"""Height and width of images that are compared: of cameras, and of all shapes."""
TIMED = ((224, 224), (480, 640), (720, 1280))
FASTER = Limit("<=", 1.0, of_gpu=True)


def _plan(dtype: DType, *, planes_first: bool, resizes: bool = True, **more: Any) -> InputPlan:
    shape = (3, *SIDES) if planes_first else (*SIDES, 3)
    item = Input(
        name="camera",
        resize=SIDES if resizes else None,
        layout="CHW" if planes_first else "HWC",
        # Some wait decoded in pinned memory, others lie in the arena.
        decode=("jpeg",),
        **more,
    )
    return input_plan(item, TensorSignature("camera", dtype, (FREE, *shape)), BATCH)


_SCALED: dict[str, Any] = {"scale": 1 / 255, "mean": MEAN, "std": DEVIATION}
PLANS = {
    "float32, planes": _plan(DType.FLOAT32, planes_first=True, **_SCALED),
    "float16, planes, BGR": _plan(DType.FLOAT16, planes_first=True, color="BGR", **_SCALED),
    "uint8": _plan(DType.UINT8, planes_first=False),
    "float32, not resized": _plan(DType.FLOAT32, planes_first=True, resizes=False, **_SCALED),
}


def check(setting: Setting, finding: Finding) -> None:
    """Compare and time."""
    with setting.opened() as device:
        assert device.cuda is not None
        compare(device.cuda, finding, setting.runs(ROUNDS))


def compare(cuda: Cuda, finding: Finding, rounds: int) -> None:
    """Make the same images both ways.

    Raises:
        ExtraMissing, EngineError: There is no kernel: why.
    """
    started = time.monotonic()
    kernel = cuda.kernel(kernel_text(), KERNEL)
    finding.add("kernel compiled and loaded in", time.monotonic() - started, "s")
    for name, plan in PLANS.items():
        both = _Both(cuda, kernel, plan)
        sizes = [size for size in SIZES if plan.resize or size == SIDES]
        # Not Python's maximum, which loses what is not a number.
        off = float(np.max([both.off_by(_images(sizes, first)) for first in range(len(sizes))]))
        step = max((abs(each) for each in plan.factor), default=1.0)
        limit = Limit("<=", tolerance_of(plan) / step)
        finding.add(f"{name}: off by", off / step, "steps of a byte", limit)
        both.close()
    both = _Both(cuda, kernel, PLANS["float32, planes"])
    for height, width in TIMED:
        _time(both, (height, width), finding, rounds)
    both.close()


def _time(both: _Both, size: tuple[int, int], finding: Finding, rounds: int) -> None:
    """Take turns, so that whatever else goes on hits both."""
    batch = both.in_arena(_images([size], 0))
    found: dict[str, list[int]] = {"kernel": [], "CPU": []}
    works: dict[str, Callable[[], None]] = {
        "kernel": lambda: both.by_kernel(batch),
        "CPU": lambda: both.by_cpu(batch),
    }
    for _ in range(rounds):
        for name, work in works.items():
            found[name] += timed(work, 1)
    median = {name: statistics.median(times_ns) / 1000 for name, times_ns in found.items()}
    said = f"{BATCH} of {size[1]} x {size[0]}"
    for name, us in median.items():
        finding.add(f"{said}, until a model has them, by the {name}", us, "us")
    finding.add(f"{said}, kernel over CPU", median["kernel"] / median["CPU"], "times", FASTER)


def _images(sizes: Sequence[tuple[int, int]], first: int) -> list[NDArray[np.uint8]]:
    """Make up a batch of images whose sizes take turns."""
    random = np.random.default_rng()
    wanted = [sizes[(first + number) % len(sizes)] for number in range(BATCH)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in wanted]


@frozen
class _Made:
    """A batch on the device, and where the host has it, or has a copy."""

    host: NDArray[Any]
    device: DeviceMemory


@define(eq=False)
class _Both:
    """Makes batches both ways."""

    _cuda: Cuda
    _kernel: Kernel
    _plan: InputPlan
    _cpu: Preprocessor = field(init=False)
    _batch: _Made = field(init=False)
    _images: BatchImages = field(init=False)
    _stream: Stream = field(init=False)
    _arena: NDArray[np.uint8] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Allocate."""
        cuda = self._cuda
        self._cpu = Preprocessor(self._plan)
        host = cuda.pinned((BATCH, *self._plan.spec.row_shape), self._cpu.dtype)
        there = cuda.mapped(host) if cuda.facts.is_integrated else cuda.allocate(host.nbytes)
        self._batch = _Made(host, there)
        self._images = BatchImages(cuda, self._kernel, self._plan, there, BATCH)
        self._stream = cuda.stream()
        most = max(height * width for height, width in SIZES) * 3
        self._arena = np.frombuffer(mmap.mmap(-1, BATCH * most), np.uint8)
        cuda.pin(self._arena)

    def in_arena(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Return the same images, where the device reads them itself."""
        there: list[NDArray[np.uint8]] = []
        used = 0
        for pixels in images:
            place = self._arena[used : used + pixels.size].reshape(pixels.shape)
            place[...] = pixels
            used += pixels.size
            there.append(place)
        return there

    def off_by(self, images: Sequence[NDArray[np.uint8]]) -> float:
        """Return how far the worst value is off; every other image does not lie in the arena."""
        raw = self.in_arena(images)
        mixed = [raw[number] if number % 2 else each for number, each in enumerate(images)]
        self.by_kernel(mixed)
        found = self._fetched().astype(np.float64)
        self._write(mixed)
        return float(np.abs(found - self._batch.host).max())

    def _fetched(self) -> NDArray[Any]:
        host, there = self._batch.host, self._batch.device
        if not self._cuda.facts.is_integrated:
            self._cuda.copy_out(int(host.ctypes.data), there.address, host.nbytes, self._stream)
            self._stream.wait()
        return host.copy()

    def by_kernel(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Make a batch on the device, and wait.

        Raises:
            AssertionError: There is no room for one.
        """
        self._images.clear()
        for position, pixels in enumerate(images):
            assert self._images.take(position, pixels, self._stream), f"no room: {pixels.shape}"
        self._images.launch(len(images), self._stream)
        self._stream.wait()

    def by_cpu(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Make a batch on the CPU, copy it to the device, and wait."""
        self._write(images)
        host, there = self._batch.host, self._batch.device
        if not self._cuda.facts.is_integrated:
            self._cuda.copy_in(there.address, int(host.ctypes.data), host.nbytes, self._stream)
            self._stream.wait()

    def _write(self, images: Sequence[NDArray[np.uint8]]) -> None:
        for pixels, place in zip(images, self._batch.host, strict=True):
            self._cpu.write(pixels, place)

    def close(self) -> None:
        """Let the device forget the arena."""
        self._cuda.unpin(self._arena)
