"""Images of a batch become what a model takes by a kernel on the GPU, instead of on the CPU.

Pixels are copied by the device from where they lie in the arena; decoded ones are put into pinned
memory first. An integrated device reads them where they are. One launch makes all images of an
input in a batch, on the stream that copied them, so that it runs beside the batch before. It is not
part of a graph: how large the images are differs from batch to batch.

What the kernel is told of a batch, images and the numbers of `resampling`, is one block of memory,
copied in before each launch. There is room for a full batch of images of 720 by 1280 (or of the
manifest's `max_pixels`, if that is less); what does not fit is done by the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from appliance.engines.cuda.ports import Cuda, DeviceMemory, Kernel, Stream
from appliance.engines.resampling import bilinear, length_of
from appliance.models.plans import InputPlan, RowKind
from appliance.wire.spec import FREE
from appliance.wire.types import DType, Encoding

TEXT, KERNEL = "images.cu", "preprocess"
MOST_CHANNELS = 3
TYPES = {DType.FLOAT32: 0, DType.FLOAT16: 1, DType.UINT8: 2}
"""As the kernel numbers them."""
LARGEST = (720, 1280)
"""Height and width of images that there is room for, a whole batch of them."""
ALIGNMENT = 256
"""Bytes: where an image begins."""
_THREADS = (32, 8, 1)
_NUMBER_BYTES = 4

_IMAGE = np.dtype(
    [
        ("pixels", np.uint64),
        ("across", np.uint64),
        ("down", np.uint64),
        ("across_length", np.int32),
        ("down_length", np.int32),
        ("width", np.int32),
        ("row", np.int32),
    ],
    align=True,
)
_PLAN = np.dtype(
    [
        ("batch", np.uint64),
        ("height", np.int32),
        ("width", np.int32),
        ("channels", np.int32),
        ("type", np.int32),
        ("planes_first", np.int32),
        ("reversed", np.int32),
        ("factor", np.float32, (MOST_CHANNELS,)),
        ("shift", np.float32, (MOST_CHANNELS,)),
    ],
    align=True,
)
"""Image and Plan of images.cu."""


def kernel_text() -> str:
    """Return the kernel, in CUDA C."""
    return Path(__file__).with_name(TEXT).read_text()


def is_for_kernel(plan: InputPlan) -> bool:
    """Return whether the kernel does what is to be done, and there is something to do."""
    if plan.kind is not RowKind.IMAGE or plan.dtype not in TYPES or FREE in plan.spec.row_shape:
        return False
    reorders = plan.planes_first or plan.color == "BGR"
    return bool(plan.resize or reorders or plan.factor or plan.dtype is not DType.UINT8)


def made_size(plan: InputPlan) -> tuple[int, int, int]:
    """Return height, width and channels of what the model takes."""
    shape = plan.spec.row_shape
    return (*shape[1:], shape[0]) if plan.planes_first else shape  # pyright: ignore[reportReturnType]


def largest_size(plan: InputPlan) -> tuple[int, int]:
    """Return height and width of images that there is to be room for."""
    height, width, _ = plan.spec.shape
    if FREE not in (height, width):
        return height, width
    height, width = LARGEST
    part = min(1.0, plan.spec.max_pixels / (height * width)) ** 0.5
    return max(1, round(height * part)), max(1, round(width * part))


def probe_shape(plan: InputPlan) -> tuple[int, int, int]:
    """Return the shape of an image to try the kernel with: enlarged one way, shrunk the other."""
    height, width, channels = made_size(plan)
    if FREE not in plan.spec.shape[:2]:
        return height, width, channels
    high, wide = largest_size(plan)
    return min(high, height * 3 // 2 + 1), min(wide, width * 2 // 3 + 1), channels


def tolerance_of(plan: InputPlan) -> float:
    """Return how far the kernel may be from the CPU: one step of a byte where it resizes, else 0.

    The weights are the same, but Pillow may begin with the other direction; see `resampling`.
    """
    step = max((abs(each) for each in plan.factor), default=1.0)
    return 1.5 * step if plan.resize else 0.0  # 1.5: what comes of a step is rounded, too


@frozen
class _Waiting:
    """An image that the next launch makes.

    Attributes:
        pixels: Where the device finds them.
        staged: Bytes that have to be copied there first, from the same place in pinned memory.
        numbers: Where those of its columns and rows begin; zeros: it is not resized.
    """

    pixels: int
    staged: int
    shape: tuple[int, ...]
    numbers: tuple[int, int]


@define(eq=False)
class BatchImages:
    """The images of one input, in one set of buffers."""

    _cuda: Cuda
    _kernel: Kernel
    _plan: InputPlan
    _batch: DeviceMemory
    _max_batch: int
    _waiting: dict[int, _Waiting] = field(factory=dict[int, _Waiting], init=False)
    _used: int = field(default=0, init=False)
    _tables: dict[tuple[int, int], int] = field(factory=dict[tuple[int, int], int], init=False)
    _numbers_used: int = field(default=0, init=False)
    _staging: NDArray[np.uint8] | None = field(default=None, init=False)
    _pixels: DeviceMemory | None = field(default=None, init=False)
    _told: NDArray[np.uint8] = field(init=False)
    _told_there: DeviceMemory = field(init=False)
    _numbers_at: int = field(init=False)
    _arguments: list[NDArray[Any]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Allocate what a full batch needs.

        Raises:
            EngineError: There is not enough memory.
        """
        cuda, plan = self._cuda, self._plan
        height, width, channels = made_size(plan)
        high, wide = largest_size(plan)
        bytes_of_pixels = self._max_batch * _aligned(high * wide * channels)
        is_integrated = cuda.facts.is_integrated
        if any(encoding is not Encoding.RAW for encoding in plan.spec.encodings):
            self._staging = cuda.pinned((bytes_of_pixels,), np.dtype(np.uint8))
        if not is_integrated:
            self._pixels = cuda.allocate(bytes_of_pixels)
        elif self._staging is not None:
            self._pixels = cuda.mapped(self._staging)
        self._numbers_at = self._max_batch * _IMAGE.itemsize
        size = self._numbers_at
        if plan.resize is not None:
            longer = max(high, wide)  # whichever way it lies
            numbers = length_of(longer, width) * width + length_of(longer, height) * height
            size += self._max_batch * numbers * _NUMBER_BYTES
        self._told = cuda.pinned((size,), np.dtype(np.uint8))
        self._told_there = cuda.mapped(self._told) if is_integrated else cuda.allocate(size)
        self._arguments = [self._constants(), np.array([self._told_there.address], np.uint64)]

    def _constants(self) -> NDArray[Any]:
        plan = self._plan
        height, width, channels = made_size(plan)
        told = np.zeros(1, _PLAN)
        told["batch"] = self._batch.address
        told["height"], told["width"], told["channels"] = height, width, channels
        told["type"] = TYPES[plan.dtype]
        told["planes_first"], told["reversed"] = plan.planes_first, plan.color == "BGR"
        told["factor"][0, :channels] = plan.factor or 1.0
        told["shift"][0, :channels] = plan.shift or 0.0
        return told

    def take(self, position: int, pixels: NDArray[Any], stream: Stream) -> bool:
        """Have an image made, at the next launch, into its place in the batch.

        Args:
            pixels: uint8[height, width, channels]. Pinned ones have to stay as they are until then.
            stream: That of the launch.

        Returns:
            False: it has to be done by the CPU.
        """
        if not pixels.size or not pixels.flags.c_contiguous:
            return False
        address, size = int(pixels.ctypes.data), pixels.nbytes
        is_pinned = self._cuda.is_pinned(address, size)
        stays = is_pinned and self._cuda.facts.is_integrated
        there = (
            self._cuda.mapped(pixels).address if stays else self._room(size, staged=not is_pinned)
        )
        numbers = self._numbers(pixels.shape)
        if there is None or numbers is None:
            return False
        if not stays:
            if is_pinned:
                self._cuda.copy_in(there, address, size, stream)
            else:
                assert self._staging is not None
                self._staging[self._used : self._used + size] = pixels.reshape(-1)
            self._used += _aligned(size)
        self._waiting[position] = _Waiting(there, 0 if is_pinned else size, pixels.shape, numbers)
        return True

    def drop(self, position: int) -> None:
        """Leave this place to somebody else."""
        self._waiting.pop(position, None)

    def clear(self) -> None:
        """Begin the next batch: what was launched has run, and what was not never will."""
        self._waiting.clear()
        self._tables.clear()
        self._used = self._numbers_used = 0

    def launch(self, count: int, stream: Stream) -> None:
        """Put the making of all images of the first `count` rows on a stream.

        Raises:
            EngineError, DeviceLost: It failed.
        """
        wanted = [(at, each) for at, each in sorted(self._waiting.items()) if at < count]
        if not wanted:
            return
        height, width, _ = made_size(self._plan)
        told = self._told[: self._numbers_at].view(_IMAGE)
        for index, (position, image) in enumerate(wanted):
            self._bring(image, stream)
            line = told[index]
            line["pixels"], line["width"], line["row"] = image.pixels, image.shape[1], position
            line["across"], line["down"] = image.numbers
            line["across_length"] = length_of(image.shape[1], width)
            line["down_length"] = length_of(image.shape[0], height)
        if not self._cuda.facts.is_integrated:
            size = self._numbers_at + self._numbers_used
            self._cuda.copy_in(self._told_there.address, int(self._told.ctypes.data), size, stream)
        blocks = (_parts(width, _THREADS[0]), _parts(height, _THREADS[1]), len(wanted))
        self._kernel.launch(blocks, _THREADS, self._arguments, stream)

    def _room(self, size: int, *, staged: bool) -> int | None:
        """Return where on the device there is room for an image; None: nowhere."""
        if self._pixels is None or (staged and self._staging is None):
            return None
        if self._used + size > self._pixels.bytes:
            return None
        return self._pixels.address + self._used

    def _bring(self, image: _Waiting, stream: Stream) -> None:
        """Copy an image to the device that was put into pinned memory."""
        if image.staged and not self._cuda.facts.is_integrated:
            assert self._pixels is not None
            assert self._staging is not None
            offset = image.pixels - self._pixels.address
            source = int(self._staging.ctypes.data) + offset
            self._cuda.copy_in(image.pixels, source, image.staged, stream)

    def _numbers(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return where the numbers of an image are; None: there is no room for them."""
        height, width, _ = made_size(self._plan)
        if shape[:2] == (height, width):
            return 0, 0
        across, down = self._table(shape[1], width), self._table(shape[0], height)
        return None if across is None or down is None else (across, down)

    def _table(self, source: int, target: int) -> int | None:
        """Return where on the device the numbers of one direction are; None: there is no room."""
        key = (source, target)
        if key not in self._tables:
            size = length_of(source, target) * target * _NUMBER_BYTES
            start = self._numbers_at + self._numbers_used
            if start + size > self._told.nbytes:
                return None
            place = self._told[start : start + size].view(np.int32)
            place[...] = bilinear(source, target).reshape(-1)
            self._numbers_used += size
            self._tables[key] = self._told_there.address + start
        return self._tables[key]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _parts(length: int, of: int) -> int:
    return -(-length // of)
