"""Made-up rows, as clients would send them: to warm up with, and to verify with."""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from appliance.errors import ConfigError
from appliance.models.plans import InputPlan, RowKind
from appliance.models.shapes import aligned
from appliance.wire.arrays import encode_strings
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import FREE
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding

CAMERA = (480, 640)
"""Height and width of a raw image that is resized anyway."""

OPEN_IMAGE = 224
OPEN_TENSOR = 1
SAMPLE_RATE = 16_000
"""One second of sound where the length is open."""
TEXTS = ("warm-up", "", "pick up the red block", "ÄÖ")


class Filling(Protocol):
    """What rows hold."""

    def numbers(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array of numbers."""
        ...

    def texts(self, count: int) -> list[str]:
        """Return so many texts."""
        ...


class Zeros:
    """Nothing but zeros, and always the same text."""

    def numbers(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """See `Filling`."""
        return np.zeros(shape, dtype)

    def texts(self, count: int) -> list[str]:
        """See `Filling`."""
        return [TEXTS[0]] * count


@define(eq=False)
class Random:
    """Floats are normally distributed, bytes are as the pixels of noise.

    Other whole numbers are 0 or 1: they may be indices, and those there are in every table.
    """

    generator: np.random.Generator

    def numbers(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """See `Filling`."""
        if dtype.kind == "f":
            return self.generator.standard_normal(shape).astype(dtype)
        return self.generator.integers(0, 256 if dtype.name == "uint8" else 2, shape).astype(dtype)

    def texts(self, count: int) -> list[str]:
        """See `Filling`."""
        return [TEXTS[index] for index in self.generator.integers(0, len(TEXTS), count)]


@frozen
class Sample:
    """One row of one input."""

    data: bytes
    dtype: DType
    encoding: Encoding
    shape: tuple[int, ...]


def sample(
    plan: InputPlan, encoding: Encoding, wanted: tuple[int, ...] | None, filling: Filling
) -> Sample:
    """Make one row.

    Args:
        wanted: The shape of the row that the model is to get, where it leaves that open.

    Raises:
        ConfigError: `wanted` does not fit.
    """
    shape = _concrete_shape(plan, wanted)
    dtype = plan.spec.dtype
    if encoding in (Encoding.JPEG, Encoding.PNG):
        from appliance.engines import images  # noqa: PLC0415  only where needed

        data = images.encode(filling.numbers(shape, np.dtype(np.uint8)), encoding)
    elif encoding in (Encoding.WAV, Encoding.FLAC):
        from appliance.engines import sounds  # noqa: PLC0415  only where needed

        rate = plan.sample_rate or SAMPLE_RATE
        data = sounds.encode(filling.numbers(shape[-1:], np.dtype(np.int16)), encoding, rate)
    elif dtype is DType.STRING:
        data = encode_strings(filling.texts(prod(shape)))
    elif dtype is DType.BFLOAT16:
        floats = filling.numbers(shape, np.dtype(np.float32))
        data = (floats.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        data = filling.numbers(shape, np.dtype(NUMPY_DTYPES[dtype])).tobytes()
    return Sample(data, dtype, encoding, shape)


def feed_of(memory: bytearray, made: Sample) -> worker_pb2.Feed:
    """Append a row to `memory`; return where it lies."""
    feed = worker_pb2.Feed(
        offset=len(memory),
        length=len(made.data),
        dtype=int(made.dtype),  # pyright: ignore[reportArgumentType]  enums are integers
        encoding=int(made.encoding),  # pyright: ignore[reportArgumentType]
        shape=made.shape,
    )
    memory.extend(made.data)
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
