"""What a worker reported of a batch, ready to be cut into the replies of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType, Tensor
from appliance.workers.arena import Arena

MICROSECOND_NS = 1000


@define(eq=False)
class BatchResult:
    """A finished batch: its times, and where the outputs of each row lie.

    Attributes:
        batch_us: Gathering and preprocessing.
        execute_us: The engine.
        finished_ns: Monotonic.
    """

    batch_us: int
    execute_us: int
    finished_ns: int
    _outputs: list[_Output]
    _shared: tuple[Tensor, ...] | None

    @classmethod
    def of(cls, done: worker_pb2.Done) -> BatchResult:
        """Read what the worker said, once for all rows."""
        outputs = [_Output.of(output) for output in done.outputs]
        same = not any(output.row_lengths for output in outputs)
        return cls(
            max(0, done.execute_started_ns - done.stage_started_ns) // MICROSECOND_NS,
            max(0, done.finished_ns - done.execute_started_ns) // MICROSECOND_NS,
            done.finished_ns,
            outputs,
            _headers(outputs, [output.row_length for output in outputs]) if same else None,
        )

    def row(self, arena: Arena, row: int) -> tuple[tuple[Tensor, ...], list[memoryview]]:
        """Return headers and bytes of one row's outputs; the bytes stay where they are."""
        parts = [arena.view(*output.span(row)) for output in self._outputs]
        if self._shared is not None:
            return self._shared, parts
        return _headers(self._outputs, [len(part) for part in parts]), parts


@define(eq=False)
class _Output:
    """One output of a batch. `row_lengths` is empty if every row has `row_length` bytes."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    row_length: int
    row_lengths: list[int] = field(factory=list[int])

    @classmethod
    def of(cls, output: worker_pb2.Output) -> _Output:
        return cls(
            output.key,
            DType(output.dtype),
            tuple(output.row_shape),
            output.offset,
            output.row_length,
            list(output.row_lengths),
        )

    def span(self, row: int) -> tuple[int, int]:
        """Return where a row lies: offset and length."""
        if self.row_lengths:
            return self.offset + sum(self.row_lengths[:row]), self.row_lengths[row]
        return self.offset + row * self.row_length, self.row_length


def _headers(outputs: Sequence[_Output], lengths: Sequence[int]) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    offset = 0
    for output, length in zip(outputs, lengths, strict=True):
        tensors.append(Tensor(output.key, output.dtype, output.shape, offset, length))
        offset += length
    return tuple(tensors)
