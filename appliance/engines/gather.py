"""Rows of a batch, handles into the arena, become one array for each of the model's inputs.

A row that cannot be used fails alone; the others move up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engines.arena import ArenaView
from appliance.engines.base import Buffers
from appliance.engines.preprocess import Preprocessor
from appliance.errors import Outcome, PeerProtocolError, Rejected
from appliance.models.plans import Resolved, StatePlan
from appliance.values import value
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import FREE
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding

_RAW = Encoding.RAW

LONGEST_ROW_MESSAGE = 200
"""Bytes: the messages of a whole batch share one datagram."""


@value
class RowFailure:
    """A row that failed before it ran; `row` is its place in the batch as staged."""

    row: int
    outcome: Outcome
    message: str


@value
class Gathered:
    """A batch ready to run.

    Attributes:
        inputs: For the engine; leading dimension `len(rows)`. What lies in `buffers` is not here.
        rows: Which of the staged rows they are, ascending.
        failures: The others.
        buffers: Of an engine on a device.
    """

    inputs: dict[str, NDArray[Any]]
    rows: Sequence[int]
    failures: Sequence[RowFailure]
    buffers: Buffers | None = None


class Gatherer:
    """Gathers for one model."""

    def __init__(self, resolved: Resolved, arena: ArenaView, *, copies: bool) -> None:
        """Prepare.

        Args:
            copies: The engine may keep or change what it is given, so nothing may be a view.
        """
        self._preprocessors = [Preprocessor(plan) for plan in resolved.inputs]
        self._states = [(plan, NUMPY_DTYPES[plan.dtype]) for plan in resolved.states]
        self._arena = arena
        self._copies = copies

    def gather(self, rows: Sequence[worker_pb2.Row], buffers: Buffers | None = None) -> Gathered:
        """Gather the rows of one batch.

        Args:
            buffers: Where they are put, except for state; None: into new arrays.

        Raises:
            PeerProtocolError: The message is no batch of this model.
        """
        if not rows:
            raise PeerProtocolError("a batch without rows")
        inputs: dict[str, NDArray[Any]] = {}
        good: list[int] = []
        failures: list[RowFailure] = []
        for index, row in enumerate(rows):
            feeds = row.feeds
            if len(feeds) != len(self._preprocessors):
                raise PeerProtocolError(
                    f"row {index} has {len(feeds)} feeds, not {len(self._preprocessors)}"
                )
            try:
                for preprocessor, feed in zip(self._preprocessors, feeds, strict=True):
                    if buffers is None:
                        self._put(inputs, preprocessor, feed, len(good), len(rows))
                    else:
                        self._put_there(buffers, preprocessor, feed, len(good))
            except Rejected as error:
                failures.append(RowFailure(index, error.outcome, error.message))
            else:
                good.append(index)
        if failures:
            inputs = {name: array[: len(good)] for name, array in inputs.items()}
        for number, (plan, dtype) in enumerate(self._states):
            inputs[plan.input] = self._state(plan, dtype, number, [rows[index] for index in good])
        return Gathered(inputs, good, failures, buffers)

    def _put_there(
        self, buffers: Buffers, preprocessor: Preprocessor, feed: worker_pb2.Feed, position: int
    ) -> None:
        """Bring one row of one input to its place in a device's buffers.

        Raises:
            Rejected: It cannot be used.
        """
        name = preprocessor.plan.spec.name
        try:
            if feed.absent:
                buffers.place(name, position)[...] = 0
                return
            if self._take(buffers, preprocessor, feed, position):
                return
            values = self._values(preprocessor, feed)
            preprocessor.row_shape(values.shape)
            if (
                preprocessor.passes_through
                and values.dtype == preprocessor.dtype
                and values.flags.c_contiguous
                and buffers.take(name, position, int(values.ctypes.data), values.nbytes)
            ):
                return
            if preprocessor.is_image and buffers.take_image(name, position, values):
                return
            # An engine is built for rows of one shape, so what passed fits.
            preprocessor.write(values, buffers.place(name, position))
        except Rejected as error:
            raise _of_tensor(preprocessor, error) from None

    def _take(
        self, buffers: Buffers, preprocessor: Preprocessor, feed: worker_pb2.Feed, position: int
    ) -> bool:
        """Have a device fetch a row of bytes as they lie; most rows are, so no array is made."""
        spec, size = preprocessor.plan.spec, preprocessor.raw_bytes
        return (
            size != 0
            and feed.length == size
            and feed.encoding == _RAW
            and feed.dtype == spec.dtype
            and _RAW in spec.encodings
            and tuple(feed.shape) == spec.shape
            and buffers.take(spec.name, position, self._arena.address(feed.offset, size), size)
        )

    def _put(
        self,
        inputs: dict[str, NDArray[Any]],
        preprocessor: Preprocessor,
        feed: worker_pb2.Feed,
        position: int,
        size: int,
    ) -> None:
        """Bring one row of one input to its place in the batch.

        Raises:
            Rejected: It cannot be used.
        """
        name = preprocessor.plan.spec.name
        try:
            if feed.absent:
                values, shape = None, preprocessor.plan.spec.row_shape
            else:
                values = self._values(preprocessor, feed)
                shape = preprocessor.row_shape(values.shape)
                if size == 1 and preprocessor.passes_through and values.dtype == preprocessor.dtype:
                    batch = values.reshape(1, *shape)
                    if self._copies:
                        batch = batch.copy()
                    else:
                        batch.flags.writeable = False
                    inputs[name] = batch
                    return
            if position == 0:  # nothing that counts is there yet
                inputs[name] = np.empty((size, *shape), preprocessor.dtype)
            place = _place(inputs[name], position, shape)
            if values is None:
                place[...] = "" if place.dtype == np.object_ else 0
            else:
                preprocessor.write(values, place)
        except Rejected as error:
            raise _of_tensor(preprocessor, error) from None

    def _values(self, preprocessor: Preprocessor, feed: worker_pb2.Feed) -> NDArray[Any]:
        """Read one row from the arena, as it came."""
        spec = preprocessor.plan.spec
        if feed.encoding not in spec.encodings:
            raise Rejected(
                Outcome.INVALID, f"encoding {Encoding(feed.encoding).name} is not accepted"
            )
        if feed.encoding != _RAW:
            return preprocessor.decode(
                self._arena.copy(feed.offset, feed.length), Encoding(feed.encoding)
            )
        if feed.dtype != spec.dtype:
            raise Rejected(
                Outcome.INVALID,
                f"expected dtype {spec.dtype.name}, came {DType(feed.dtype).name}",
            )
        shape = tuple(feed.shape)
        dtype = preprocessor.raw_dtype
        if dtype is None:
            return preprocessor.texts(self._arena.copy(feed.offset, feed.length), shape)
        if shape != spec.shape and not _fits(shape, spec.shape):
            raise Rejected(
                Outcome.INVALID, f"expected shape {list(spec.shape)}, came {list(shape)}"
            )
        stored = self._arena.array(feed.offset, dtype, shape)
        if stored.nbytes != feed.length:
            raise PeerProtocolError(f"{feed.length} bytes for {dtype}{list(shape)}")
        return preprocessor.raw(stored)

    def _state(
        self,
        plan: StatePlan,
        dtype: np.dtype[Any],
        number: int,
        rows: Sequence[worker_pb2.Row],
    ) -> NDArray[Any]:
        """Return one recurrent state of all rows; zeros for a row that brings none."""
        if plan.axis < 0:
            batched = np.zeros(plan.shape, dtype)
            by_row = batched[np.newaxis]
        else:
            batched = np.zeros(
                (*plan.shape[: plan.axis], len(rows), *plan.shape[plan.axis :]), dtype
            )
            by_row = np.moveaxis(batched, plan.axis, 0)
        for position, row in enumerate(rows):
            if not row.state_in:
                continue
            if number >= len(row.state_in) or row.state_in[number].length != plan.bytes:
                raise PeerProtocolError(f"state {plan.input!r} has {plan.bytes} bytes a row")
            by_row[position] = self._arena.array(row.state_in[number].offset, dtype, plan.shape)
        return batched


def _of_tensor(preprocessor: Preprocessor, error: Rejected) -> Rejected:
    message = f"tensor {preprocessor.plan.spec.source!r}: {error.message}"
    return Rejected(error.outcome, cut(message, LONGEST_ROW_MESSAGE))


def _place(array: NDArray[Any], position: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a row of the batch; also of rows without dimensions it is a view."""
    if array.shape[1:] != shape:
        raise Rejected(
            Outcome.INVALID,
            f"rows of one batch have one shape, {list(array.shape[1:])}; came {list(shape)}",
        )
    return array[position, ...]


def cut(message: str, most: int) -> str:
    """Return `message`, cut to at most `most` bytes of UTF-8."""
    return message.encode(errors="replace")[:most].decode(errors="ignore")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (FREE, came) for want, came in zip(wanted, shape, strict=True)
    )
