"""What a worker reported of a batch, ready to be cut into the replies of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from attrs import define, field, frozen

from appliance.values import new_list
from appliance.wire.answers import encode_headers
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType, Tensor
from appliance.workers.arena import Arena

MICROSECOND_NS = 1000
_LATEST_NS = (1 << 62) - 1  # whatever a worker says, times are 64 bits with a sign

_DTYPES: dict[int, DType] = {int(dtype): dtype for dtype in DType}  # a call of it is slow
_Form = tuple[tuple[str, DType, tuple[int, ...], int], ...]


@frozen
class Headers:
    """The outputs of a row, as if their bytes lay one after the other; and as they are sent."""

    tensors: tuple[Tensor, ...]
    encoded: bytes


@define(eq=False)
class BatchResult:
    """A finished batch: its times, and where the outputs of each row lie.

    Attributes:
        batch_us: Gathering and preprocessing.
        execute_us: The engine.
        finished_ns: Monotonic.
        headers: Of every row, the same object for batches alike; None if rows differ in length.
    """

    batch_us: int
    execute_us: int
    finished_ns: int
    headers: Headers | None
    _outputs: list[_Output]

    @classmethod
    def of(cls, done: worker_pb2.Done) -> BatchResult:
        """Read what the worker said, once for all rows."""
        outputs = [_Output.of(output) for output in done.outputs]
        headers = None
        if not any(output.row_lengths for output in outputs):
            headers = _headers(tuple((o.key, o.dtype, o.shape, o.row_length) for o in outputs))
        return cls(
            min(done.gather_ns, _LATEST_NS) // MICROSECOND_NS,
            max(0, done.finished_ns - done.execute_started_ns) // MICROSECOND_NS,
            min(done.finished_ns, _LATEST_NS),
            headers,
            outputs,
        )

    def spans(self) -> list[tuple[int, int]]:
        """Return of each output where the first row lies in the arena, and how long each row is."""
        return [(output.offset, output.row_length) for output in self._outputs]

    def row(self, arena: Arena, row: int) -> tuple[tuple[Tensor, ...], list[memoryview]]:
        """Return headers and bytes of one row's outputs; the bytes stay where they are."""
        parts = [arena.view(*output.span(row)) for output in self._outputs]
        if self.headers is not None:
            return self.headers.tensors, parts
        form = [
            (output.key, output.dtype, output.shape, len(part))
            for output, part in zip(self._outputs, parts, strict=True)
        ]
        return _tensors(form), parts


@define(eq=False)
class _Output:
    """One output of a batch. `row_lengths` is empty if every row has `row_length` bytes."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    row_length: int
    row_lengths: list[int] = field(factory=new_list)

    @classmethod
    def of(cls, output: worker_pb2.Output) -> _Output:
        return cls(
            output.key,
            _DTYPES[output.dtype],
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


@lru_cache(maxsize=256)
def _headers(form: _Form) -> Headers:
    tensors = _tensors(form)
    return Headers(tensors, encode_headers(tensors))


def _tensors(form: Sequence[tuple[str, DType, tuple[int, ...], int]]) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    offset = 0
    for key, dtype, shape, length in form:
        tensors.append(Tensor(key, dtype, shape, offset, length))
        offset += length
    return tuple(tensors)
