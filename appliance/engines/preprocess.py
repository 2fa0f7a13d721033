"""One input's rows: from what a client sent to what the model wants. PURE but for the decoders.

The steps, each only where the manifest asks for it: decode, resize, color, layout, arithmetic.
The last one writes into the batch, so that a row is passed over as few times as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import Outcome, Rejected
from appliance.models.plans import InputPlan, RowKind, array_dtype
from appliance.wire.arrays import bfloat16_to_float32, decode_strings
from appliance.wire.spec import FREE
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding

if TYPE_CHECKING:
    from types import ModuleType

_UINT8 = np.dtype(np.uint8)
_UINT16 = np.dtype("<u2")


def _truth(stored: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return stored != 0


_CONVERSIONS: Mapping[DType, Callable[[NDArray[Any]], NDArray[Any]]] = {
    DType.BFLOAT16: bfloat16_to_float32,
    DType.BOOL: _truth,
}
"""From the bytes of a raw row to its values, where these are not the same."""


class Preprocessor:
    """The plan of one input, ready to run.

    Attributes:
        plan: What is to be done.
        dtype: Of the batch.
        raw_dtype: Of a raw row's bytes; None for strings.
        is_image: Rows are images.
        passes_through: Values of `dtype` are already what the model wants.
        raw_bytes: Of a raw row that passes as it lies in memory, whatever is in it; 0: none does.
    """

    def __init__(self, plan: InputPlan) -> None:
        wire = plan.spec.dtype
        self.plan = plan
        self.dtype = array_dtype(plan.dtype)
        self.raw_dtype: np.dtype[Any] | None = {
            DType.STRING: None,
            DType.BFLOAT16: _UINT16,
            DType.BOOL: _UINT8,  # numpy must not see a bool that is neither 0 nor 1
        }.get(wire, NUMPY_DTYPES.get(wire))
        self._convert = _CONVERSIONS.get(wire)
        self.is_image = plan.kind is RowKind.IMAGE
        self.passes_through = not plan.factor and (
            not self.is_image or not (plan.resize or plan.planes_first or plan.color == "BGR")
        )
        self.raw_bytes = 0
        if (
            self.passes_through
            and self.raw_dtype == self.dtype
            and self._convert is None
            and FREE not in (*plan.spec.shape, *plan.spec.row_shape)
            and prod(plan.spec.shape) == prod(plan.spec.row_shape)
        ):
            self.raw_bytes = prod(plan.spec.shape) * self.dtype.itemsize
        self._decoder = _decoder(plan)
        channels = (-1, 1, 1) if self.is_image and plan.planes_first else (-1,)
        self._factor = np.array(plan.factor, np.float32).reshape(channels)
        self._shift = np.array(plan.shift, np.float32).reshape(channels)
        self._shifts = any(plan.shift)
        self._by_line = self.is_image and len(plan.factor) > 1 and not plan.planes_first

    def raw(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return a raw row's values, of an array of `raw_dtype`."""
        return stored if self._convert is None else self._convert(stored)

    def texts(self, data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an object array of `str` of the model's row shape.

        Raises:
            Rejected: INVALID, not as many strings as expected, or not UTF-8.
        """
        row_shape = self.plan.spec.row_shape
        count = prod(shape)
        if FREE in row_shape:
            row_shape = shape
        elif count != prod(row_shape):
            raise _invalid(f"expected {prod(row_shape)} strings, came {count}")
        values = np.empty(count, dtype=object)
        try:
            values[:] = [text.decode() for text in decode_strings(data, count)]
        except UnicodeDecodeError as error:
            raise _invalid(f"a string is not UTF-8: {error}") from error
        return values.reshape(row_shape)

    def decode(self, data: bytes, encoding: Encoding) -> NDArray[Any]:
        """Decode an image to uint8[h, w, c], or a sound to [frames].

        Raises:
            Rejected: INVALID or TOO_LARGE.
        """
        plan = self.plan
        assert self._decoder is not None
        if plan.kind is RowKind.IMAGE:
            return self._decoder.decode(
                data, encoding, max_pixels=plan.spec.max_pixels, gray=plan.color == "GRAY"
            )
        return self._decoder.decode(
            data,
            encoding,
            max_samples=plan.spec.max_samples,
            sample_rate=plan.sample_rate,
            integers=plan.dtype is DType.INT16,
        )

    def row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return what a row of `shape` (before preprocessing) becomes.

        Raises:
            Rejected: INVALID, the model does not take that.
        """
        plan = self.plan
        wanted = plan.spec.row_shape
        made = shape
        if self.is_image:
            height, width = plan.resize or shape[:2]
            made = (shape[2], height, width) if plan.planes_first else (height, width, shape[2])
        elif plan.kind is RowKind.SOUND and len(wanted) == 2 and len(shape) == 1:
            made = (1, *shape)
        if made != wanted and not (
            len(made) == len(wanted)
            and all(want in (FREE, came) for want, came in zip(wanted, made, strict=True))
        ):
            raise _invalid(f"the model takes rows of {list(wanted)}, came {list(made)}")
        return made

    def write(self, values: NDArray[Any], out: NDArray[Any]) -> None:
        """Do what is left of the plan, from one row's values into its place in the batch.

        Args:
            values: Of `raw`, `texts` or `decode`.
            out: Of shape `row_shape(values.shape)`.
        """
        plan = self.plan
        if self.is_image:
            if plan.resize and values.shape[:2] != plan.resize:
                assert self._decoder is not None
                values = self._decoder.resize(values, *plan.resize)
            if plan.color == "BGR":
                values = values[:, :, ::-1]
            if plan.planes_first:
                values = values.transpose(2, 0, 1)
        elif values.shape != out.shape:
            values = values.reshape(out.shape)
        if plan.factor:
            self._compute(values, out)
        else:
            out[...] = values

    def _compute(self, values: NDArray[Any], out: NDArray[Any]) -> None:
        factor, shift = self._factor, self._shift
        if self._by_line:
            # numpy takes five times as long where its innermost loop is over three channels.
            line = (out.shape[1], 1)
            factor, shift = np.tile(factor, line), np.tile(shift, line)
        if out.dtype == np.float16:  # rounded once, at the end
            np.copyto(out, values * factor + shift, casting="same_kind")
        else:
            np.multiply(values, factor, out=out)
            if self._shifts:
                np.add(out, shift, out=out)


def _decoder(plan: InputPlan) -> ModuleType | None:
    """Import what decodes or resizes this input, if anything has to."""
    encoded = any(encoding is not Encoding.RAW for encoding in plan.spec.encodings)
    if plan.kind is RowKind.IMAGE and (encoded or plan.resize):
        from appliance.engines import images  # noqa: PLC0415  a worker imports what it needs

        return images
    if plan.kind is RowKind.SOUND and encoded:
        from appliance.engines import sounds  # noqa: PLC0415  likewise

        return sounds
    return None


def _invalid(message: str) -> Rejected:
    return Rejected(Outcome.INVALID, message)
