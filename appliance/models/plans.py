"""What a manifest and a model's own signature make together: plain data for core and worker."""

from __future__ import annotations

import enum

import numpy as np
from attrs import frozen

from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import NUMPY_DTYPES, DType


@frozen
class TensorSignature:
    """One tensor as the model itself declares it; `shape` has the batch dimension, -1 is open."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@frozen
class Signature:
    """What an engine knows of its model; None is what only the manifest, or a run, can tell."""

    inputs: tuple[TensorSignature, ...] | None = None
    outputs: tuple[TensorSignature, ...] | None = None


class RowKind(enum.Enum):
    """What a row of an input is, which decides how it is preprocessed."""

    TENSOR = "tensor"
    IMAGE = "image"
    SOUND = "sound"
    TEXT = "text"


@frozen(kw_only=True)
class InputPlan:
    """How the rows of one input become the array the model gets.

    Attributes:
        spec: What may come; `spec.row_shape` is what leaves.
        dtype: Of the model's input.
        resize: Height and width, or None.
        planes_first: CHW rather than HWC.
        color: RGB, BGR or GRAY.
        factor: y = x * factor + shift in float32; empty: nothing is computed. One number, or one
            for each channel (of an image) or of the last dimension.
        shift: As long as `factor`.
        sample_rate: Of an encoded sound, Hz; 0 is any.
    """

    spec: InputSpec
    kind: RowKind
    dtype: DType
    resize: tuple[int, int] | None = None
    planes_first: bool = False
    color: str = "RGB"
    factor: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    sample_rate: int = 0


@frozen(kw_only=True)
class StatePlan:
    """One recurrent state: `shape` is one row without the batch dimension, which sits at `axis`.

    With `axis` -1 there is no batch dimension.
    """

    input: str
    output: str
    dtype: DType
    shape: tuple[int, ...]
    axis: int

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size * NUMPY_DTYPES[self.dtype].itemsize


@frozen(kw_only=True)
class Resolved:
    """A model version, fully known.

    Attributes:
        spec: What the core and clients are told. `spec.outputs` is empty, and
            `spec.output_bytes_per_row` a guess, while the signature has no outputs.
        inputs: In the order of `spec.inputs`.
        states: In the order of the manifest.
        buckets: Batch sizes to warm up, ascending.
    """

    spec: ModelSpec
    inputs: tuple[InputPlan, ...]
    states: tuple[StatePlan, ...]
    buckets: tuple[int, ...]


def array_dtype(dtype: DType) -> np.dtype[np.generic]:
    """Return numpy's type for a model's input: object for strings, float32 for bfloat16."""
    if dtype is DType.STRING:
        return np.dtype(object)
    if dtype is DType.BFLOAT16:
        return NUMPY_DTYPES[DType.FLOAT32]
    return NUMPY_DTYPES[dtype]
