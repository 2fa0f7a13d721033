"""A batch's outputs, cut into rows."""

from __future__ import annotations

from appliance.dispatch.results import BatchResult
from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.types import DType, Tensor
from appliance.workers.arena import Arena


def stored(arena: Arena, data: bytes) -> int:
    block = arena.allocator.allocate(len(data))
    assert block is not None
    return arena.write(block, data)[0]


def done(**more: int) -> worker_pb2.Done:
    return worker_pb2.Done(
        batch_id=1, gather_ns=3000, execute_started_ns=4000, finished_ns=9999, **more
    )


def test_rows_of_fixed_size_share_their_headers() -> None:
    arena = Arena(1 << 20)
    message = done()
    message.outputs.add(
        key="a",
        dtype=session_pb2.UINT8,
        row_shape=[3],
        offset=stored(arena, b"abcdef"),
        row_length=3,
    )
    message.outputs.add(
        key="b",
        dtype=session_pb2.INT16,
        row_shape=[1],
        offset=stored(arena, b"wxyz"),
        row_length=2,
    )
    result = BatchResult.of(message)
    (first, first_parts), (second, second_parts) = result.row(arena, 0), result.row(arena, 1)
    assert first == (
        Tensor("a", DType.UINT8, (3,), 0, 3),
        Tensor("b", DType.INT16, (1,), 3, 2),
    )
    assert second is first
    assert [bytes(part) for part in first_parts] == [b"abc", b"wx"]
    assert [bytes(part) for part in second_parts] == [b"def", b"yz"]


def test_rows_of_strings_have_their_own_lengths() -> None:
    arena = Arena(1 << 20)
    message = done()
    message.outputs.add(
        key="text",
        dtype=session_pb2.STRING,
        offset=stored(arena, b"abbccc"),
        row_lengths=[1, 2, 3],
    )
    message.outputs.add(
        key="n", dtype=session_pb2.UINT8, row_shape=[1], offset=stored(arena, b"123"), row_length=1
    )
    result = BatchResult.of(message)
    headers, parts = result.row(arena, 2)
    assert headers == (
        Tensor("text", DType.STRING, (), 0, 3),
        Tensor("n", DType.UINT8, (1,), 3, 1),
    )
    assert [bytes(part) for part in parts] == [b"ccc", b"3"]


def test_times_are_never_negative() -> None:
    result = BatchResult.of(done())
    assert (result.batch_us, result.execute_us, result.finished_ns) == (3, 5, 9999)
    message = done()
    message.execute_started_ns = 10
    message.finished_ns = 5
    result = BatchResult.of(message)
    assert (result.batch_us, result.execute_us) == (3, 0)
