"""What an engine takes and gives, and which batch is run how. PURE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from attrs import frozen

from appliance.errors import EngineError
from appliance.models.plans import Signature, TensorSignature
from appliance.wire.spec import FREE
from appliance.wire.types import NUMPY_DTYPES, DType

Shapes = Mapping[str, tuple[int, ...]]


@frozen
class Tensor:
    """An input or output of an engine.

    Attributes:
        shape: Whole, with -1 where the batch is.
        axis: Where that is; None: its shape is the same whatever the batch.
    """

    name: str
    is_input: bool
    dtype: DType
    shape: tuple[int, ...]
    axis: int | None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Its type in memory."""
        return NUMPY_DTYPES[self.dtype]

    def of_batch(self, size: int) -> tuple[int, ...]:
        """Return its shape in a batch."""
        return tuple(size if at == self.axis else length for at, length in enumerate(self.shape))

    def bytes_of(self, size: int) -> int:
        """Return how many bytes it has in a batch."""
        return prod(self.of_batch(size)) * self.numpy_dtype.itemsize


@frozen
class Declared:
    """A tensor as the engine declares it."""

    name: str
    is_input: bool
    dtype: DType


def tensors_of(
    declared: Sequence[Declared], shapes_of: Callable[[int], Shapes], max_batch: int
) -> tuple[Tensor, ...]:
    """Return the tensors of an engine, from their shapes in batches of one and of the most rows.

    Args:
        shapes_of: Returns the shapes in a batch of a size.

    Raises:
        EngineError: One does not follow the batch, or follows the data, or has no type of numpy's.
    """
    least, most = shapes_of(1), shapes_of(max_batch)
    return tuple(_tensor(each, least[each.name], most[each.name], max_batch) for each in declared)


def _tensor(
    declared: Declared, least: tuple[int, ...], most: tuple[int, ...], max_batch: int
) -> Tensor:
    name, dtype = declared.name, declared.dtype
    if dtype not in NUMPY_DTYPES:
        raise EngineError(
            f"{name!r} is {dtype.name.lower()}; export the model with inputs and outputs of "
            "float32 or float16"
        )
    if FREE in least or FREE in most:
        raise EngineError(
            f"{name!r}: its shape follows the data, {list(most)}; run it with "
            'engine = "onnxruntime"'
        )
    follows = [at for at, pair in enumerate(zip(least, most, strict=True)) if pair[0] != pair[1]]
    if not follows:
        return Tensor(name, declared.is_input, dtype, least, None)
    at = follows[0]
    if len(follows) > 1 or (least[at], most[at]) != (1, max_batch):
        raise EngineError(
            f"{name!r}: {list(least)} for one row, {list(most)} for {max_batch}: one dimension has "
            "to be the batch"
        )
    return Tensor(name, declared.is_input, dtype, (*least[:at], FREE, *least[at + 1 :]), at)


def signature_of(tensors: Sequence[Tensor]) -> Signature:
    """Return what an engine says of its model."""
    told = [(each.is_input, TensorSignature(each.name, each.dtype, each.shape)) for each in tensors]
    return Signature(
        inputs=tuple(tensor for is_input, tensor in told if is_input),
        outputs=tuple(tensor for is_input, tensor in told if not is_input),
    )


def padded(count: int, sizes: Iterable[int]) -> int:
    """Return the least of `sizes`, ascending, that holds `count` rows; `count` if none does."""
    return next((size for size in sizes if size >= count), count)


def runs_of(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending positions as runs: first, and how many follow each other."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and sum(runs[-1]) == position:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((position, 1))
    return runs
