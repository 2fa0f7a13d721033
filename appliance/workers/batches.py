"""The batches one generation of a worker holds: staged, then executing. PURE.

The worker owes one Done for each batch it was told to execute, also if it skips it because it is
too late. Those of one model are Done in the order it was told. The first one's time runs from when
it was told, a later one's from when those before it are done; but a GPU may run it beside them (see
`appliance.overtaking`).
"""

from __future__ import annotations

import math

from attrs import define

from appliance import overtaking
from appliance.errors import LocalProtocolError, PeerProtocolError
from appliance.wire.pb import worker_pb2
from appliance.wire.types import ITEM_BYTES, DType
from appliance.workers.hang import HangBound

OVERTAKEN_BOUNDS = 4
"""A batch that is overtaken is hung so many bounds after its turn came."""


@define(eq=False)
class _Batch:
    model: int
    rows: int
    output_offset: int
    output_end: int
    since_ns: int = 0  # told to execute, and nothing before it is left
    latest_start_ns: int = 0


class Batches:
    """What is held, and since when.

    Attributes:
        finished: How many were executed.
        resident: The models in memory, as last heard; None: all are, always.
    """

    def __init__(self, hang: HangBound, now_ns: int) -> None:
        self.finished = 0
        self.resident: tuple[int, ...] | None = None
        self._hang = hang
        self._staged: dict[int, _Batch] = {}
        self._running: dict[int, _Batch] = {}  # in the order they were told to execute
        self._done_ns = now_ns  # of the latest Done
        self._first_ns = now_ns  # when what runs longest by now came first

    def stage(self, message: worker_pb2.Stage, now_ns: int) -> None:
        """Hold a batch, to be executed at once or on `go`.

        Raises:
            LocalProtocolError: A batch of that number is held.
        """
        batch_id = message.batch_id
        if batch_id in self._staged or batch_id in self._running:
            raise LocalProtocolError(f"batch {batch_id} is held already")
        offset = message.output_offset
        batch = _Batch(message.model, len(message.rows), offset, offset + message.output_bytes)
        if message.go:
            self._run(batch_id, batch, message.latest_start_ns, now_ns)
        else:
            self._staged[batch_id] = batch

    def go(self, batch_id: int, latest_start_ns: int, now_ns: int) -> None:
        """Count a staged batch as told to execute.

        Raises:
            LocalProtocolError: It is not staged.
        """
        self._run(batch_id, self._unstage(batch_id), latest_start_ns, now_ns)

    def revoke(self, batch_id: int) -> None:
        """Forget a staged batch.

        Raises:
            LocalProtocolError: It is not staged.
        """
        self._unstage(batch_id)

    def done(self, message: worker_pb2.Done, now_ns: int) -> None:
        """Count a batch as executed.

        Raises:
            PeerProtocolError: It was not told to execute, not next of its model, or its result is
                not to be trusted.
        """
        batch, running = self._running.get(message.batch_id), list(self._running.values())
        if batch is None or batch not in overtaking.may_be_next(running):
            raise PeerProtocolError(f"batch {message.batch_id} is done but was not to be run")
        if batch is running[0]:
            self._first_ns = now_ns
        del self._running[message.batch_id]
        overtaking.account_for(batch, running, now_ns)
        self._done_ns = now_ns
        if message.skipped:
            if not 0 < batch.latest_start_ns < now_ns or message.outputs or message.error:
                raise PeerProtocolError(f"batch {message.batch_id} was not to be skipped")
            return
        for output in message.outputs:
            _check_output(output, batch)
        if message.row_errors:
            last = max(error.row for error in message.row_errors)
            if last >= batch.rows:
                raise PeerProtocolError(f"row {last} failed in a batch of {batch.rows}")
        took_ns = now_ns - batch.since_ns
        if message.load_ns:
            if self.resident is None:
                raise PeerProtocolError(f"batch {message.batch_id} loaded a model that was there")
            self.resident = tuple(message.resident)
            load_ns = min(message.load_ns, took_ns)
            self._hang.loaded(batch.model, load_ns)
            took_ns -= load_ns
        self._hang.finished(batch.model, took_ns)
        self.finished += 1

    @property
    def busy_since_ns(self) -> int | None:
        """When the batch being executed was started; None if none is."""
        for batch in self._running.values():
            return batch.since_ns
        return None

    @property
    def idle_since_ns(self) -> int | None:
        """When it was last done with one, if none is held now."""
        return None if self._staged or self._running else self._done_ns

    @property
    def hang_bound_ns(self) -> int | None:
        """How long the batch being executed may take; None if none is."""
        for batch in self._running.values():
            return self._bound_ns(batch.model)
        return None

    def overdue(self, now_ns: int) -> tuple[int, int, int] | None:
        """Return the number, model and bound of a batch that runs longer than it may, if one does.

        The bound is in nanoseconds. What others took that overtook it does not count, but no more
        than so many bounds of them: else those who go on would hide one that does not.
        """
        if not self._running:
            return None
        batch_id, batch = next(iter(self._running.items()))
        bound_ns = self._bound_ns(batch.model)
        if now_ns - batch.since_ns > bound_ns:
            return batch_id, batch.model, bound_ns
        bound_ns *= OVERTAKEN_BOUNDS
        return (batch_id, batch.model, bound_ns) if now_ns - self._first_ns > bound_ns else None

    def _run(self, batch_id: int, batch: _Batch, latest_start_ns: int, now_ns: int) -> None:
        if not self._running:
            self._first_ns = now_ns
        batch.since_ns, batch.latest_start_ns = now_ns, latest_start_ns
        self._running[batch_id] = batch

    def _bound_ns(self, model: int) -> int:
        loads = self.resident is not None and model not in self.resident
        return self._hang.bound_ns(model, loads=loads)

    def _unstage(self, batch_id: int) -> _Batch:
        batch = self._staged.pop(batch_id, None)
        if batch is None:
            raise LocalProtocolError(f"batch {batch_id} is not staged")
        return batch


def _check_output(output: worker_pb2.Output, batch: _Batch) -> None:
    """Refuse an output that the core must not read or pass on."""
    if output.dtype == DType.STRING:
        if len(output.row_lengths) != batch.rows:
            raise PeerProtocolError(
                f"output {output.key!r}: {len(output.row_lengths)} lengths for {batch.rows} rows"
            )
        length = sum(output.row_lengths)
    else:
        item_bytes = _ITEM_BYTES.get(output.dtype)
        if item_bytes is None:
            raise PeerProtocolError(f"output {output.key!r}: unknown dtype {output.dtype}")
        shape = output.row_shape[:]  # a list: protobuf's own sequence is slow to iterate
        if min(shape, default=0) < 0 or output.row_length != math.prod(shape) * item_bytes:
            raise PeerProtocolError(
                f"output {output.key!r}: {output.row_length} bytes a row do not make a"
                f" {DType(output.dtype).name}{shape}"
            )
        length = output.row_length * batch.rows
    if output.offset < batch.output_offset or output.offset + length > batch.output_end:
        raise PeerProtocolError(f"output {output.key!r} lies outside the block of its batch")


_ITEM_BYTES = {
    int(dtype): size for dtype, size in ITEM_BYTES.items()
}  # by the numbers that protobuf gives
