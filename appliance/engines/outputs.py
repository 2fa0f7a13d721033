"""What an engine returned: checked against what it promised, and written into the arena."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engines.arena import ArenaView
from appliance.engines.base import Arrays
from appliance.errors import EngineError, PeerProtocolError
from appliance.models.plans import Resolved, StatePlan, TensorSignature
from appliance.models.shapes import aligned
from appliance.values import value
from appliance.wire.arrays import encode_strings
from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.spec import FREE, OutputSpec
from appliance.wire.types import NUMPY_DTYPES, DType

DTYPES = {numpy_dtype: dtype for dtype, numpy_dtype in NUMPY_DTYPES.items()}
_STRING_KINDS = frozenset("OUS")


@value
class _Piece:
    """One output, ready to be written.

    Attributes:
        row_lengths: Of strings, bytes; empty for fixed sizes.
    """

    spec: OutputSpec
    row_shape: tuple[int, ...]
    bytes: int
    array: NDArray[Any]
    texts: tuple[bytes, ...] = ()


class OutputWriter:
    """Checks and writes the results of one model."""

    def __init__(self, resolved: Resolved, arena: ArenaView) -> None:
        self._outputs = resolved.spec.outputs
        self._states = [(plan, NUMPY_DTYPES[plan.dtype]) for plan in resolved.states]
        self._names = {spec.name for spec in self._outputs} | {
            plan.output for plan in resolved.states
        }
        self._arena = arena

    def write(
        self,
        returned: Arrays,
        stage: worker_pb2.Stage,
        rows: Sequence[int],
        done: worker_pb2.Done,
    ) -> None:
        """Write outputs and new state of a batch, all or nothing.

        Args:
            stage: The batch as it was staged.
            rows: Which of its rows ran, ascending; the places of the others stay as they are.
            done: Where the outputs are described.

        Raises:
            EngineError: Something else came than was promised, or more than there is room for.
        """
        if set(returned) != self._names:
            raise EngineError(f"expected outputs {sorted(self._names)}; came {sorted(returned)}")
        staged, count = len(stage.rows), len(rows)
        pieces = [_piece(spec, returned[spec.name], staged, rows) for spec in self._outputs]
        states = [
            _state_rows(plan, dtype, returned[plan.output], count) for plan, dtype in self._states
        ]
        total = sum([aligned(piece.bytes) for piece in pieces])
        if total > stage.output_bytes:
            raise EngineError(
                f"outputs of {staged} rows take {total} bytes, there is room for "
                f"{stage.output_bytes}; raise output_bytes in the manifest"
            )
        offset = stage.output_offset
        for piece in pieces:
            self._write(piece, offset, staged, rows)
            done.outputs.add(
                key=piece.spec.name,
                dtype=_number(piece.spec.dtype),
                row_shape=piece.row_shape,
                offset=offset,
                row_length=0 if piece.texts else piece.bytes // staged,
                row_lengths=map(len, piece.texts),
            )
            offset += aligned(piece.bytes)
        if states:
            self._write_states(states, stage, rows)

    def _write(self, piece: _Piece, offset: int, staged: int, rows: Sequence[int]) -> None:
        if piece.texts:
            place = self._arena.array(offset, np.dtype(np.uint8), (piece.bytes,))
            place[:] = np.frombuffer(b"".join(piece.texts), np.uint8)
            return
        place = self._arena.array(offset, piece.array.dtype, (staged, *piece.row_shape))
        if len(rows) == staged:
            place[...] = piece.array
        else:
            place[rows] = piece.array

    def _write_states(
        self, states: list[NDArray[Any]], stage: worker_pb2.Stage, rows: Sequence[int]
    ) -> None:
        for number, (by_row, (plan, dtype)) in enumerate(zip(states, self._states, strict=True)):
            for position, index in enumerate(rows):
                row = stage.rows[index]
                if not row.state_out:
                    continue
                if number >= len(row.state_out) or row.state_out[number].length < plan.bytes:
                    raise PeerProtocolError(f"state {plan.output!r} needs {plan.bytes} bytes a row")
                place = self._arena.array(row.state_out[number].offset, dtype, plan.shape)
                place[...] = by_row[position]


def describe(returned: Arrays, count: int, resolved: Resolved) -> tuple[TensorSignature, ...]:
    """Return what a model that cannot say it gives, from one run of `count` rows.

    Raises:
        EngineError: An array of an unknown dtype, or without the batch dimension.
    """
    axes = {plan.output: plan.axis for plan in resolved.states}
    found: list[TensorSignature] = []
    for name, array in returned.items():
        axis = axes.get(name, 0)
        dtype = _dtype_of(name, array)
        if axis >= 0 and (array.ndim <= axis or array.shape[axis] != count):
            raise EngineError(
                f"output {name!r}: expected the batch, {count}, as dimension {axis}; "
                f"came {_shown(array)}"
            )
        shape = tuple(FREE if at == axis else size for at, size in enumerate(array.shape))
        found.append(TensorSignature(name, dtype, shape))
    return tuple(found)


def _piece(spec: OutputSpec, array: NDArray[Any], staged: int, rows: Sequence[int]) -> _Piece:
    """Check one output.

    Raises:
        EngineError: It is not what was promised.
    """
    count = len(rows)
    row_shape = array.shape[1:]
    if (
        array.ndim == 0
        or array.shape[0] != count
        or (row_shape != spec.shape and not _fits(row_shape, spec.shape))
        or _dtype_of(spec.name, array) is not spec.dtype
    ):
        raise EngineError(
            f"output {spec.name!r}: expected {spec.dtype.name.lower()} "
            f"{[count, *spec.shape]}; came {_shown(array)}"
        )
    if spec.dtype is not DType.STRING:
        return _Piece(spec, row_shape, staged * prod(row_shape) * array.itemsize, array)
    texts = [b""] * staged
    for position, index in enumerate(rows):
        texts[index] = encode_strings(array[position : position + 1].ravel().tolist())
    return _Piece(spec, row_shape, sum(map(len, texts)), array, tuple(texts))


def _state_rows(
    plan: StatePlan, dtype: np.dtype[Any], array: NDArray[Any], count: int
) -> NDArray[Any]:
    """Return new state with the batch dimension in front.

    Raises:
        EngineError: It is not of the shape and dtype of the old.
    """
    expected = plan.shape
    if plan.axis >= 0:
        expected = (*plan.shape[: plan.axis], count, *plan.shape[plan.axis :])
    if array.shape != expected or array.dtype != dtype:
        raise EngineError(
            f"state {plan.output!r}: expected {dtype} {list(expected)}; came {_shown(array)}"
        )
    return array[np.newaxis] if plan.axis < 0 else np.moveaxis(array, plan.axis, 0)


def _dtype_of(name: str, array: NDArray[Any]) -> DType:
    dtype = DTYPES.get(array.dtype)
    if dtype is not None:
        return dtype
    if array.dtype.kind in _STRING_KINDS and all(
        isinstance(text, (str, bytes)) for text in array.ravel().tolist()
    ):
        return DType.STRING
    raise EngineError(
        f"output {name!r}: expected numbers of {', '.join(map(str, DTYPES))}, or strings; "
        f"came {_shown(array)}"
    )


def _number(dtype: DType) -> session_pb2.DType:
    return int(dtype)  # pyright: ignore[reportReturnType]  protobuf's enums are integers


def _fits(shape: tuple[int, ...], promised: tuple[int, ...]) -> bool:
    return len(shape) == len(promised) and all(
        promise in (FREE, came) for promise, came in zip(promised, shape, strict=True)
    )


def _shown(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
