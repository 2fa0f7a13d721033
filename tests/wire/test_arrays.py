from __future__ import annotations

import math
import struct

import ml_dtypes
import numpy as np
import pytest
import wire_strategies
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import LocalProtocolError, Outcome, Rejected
from appliance.wire.arrays import (
    Encoded,
    bfloat16_to_float32,
    decode_strings,
    encode_strings,
    float32_to_bfloat16,
    pack,
    to_array,
)
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding, Tensor

FIXED = sorted(NUMPY_DTYPES)


def there_and_back(value) -> tuple[Tensor, np.ndarray]:
    tensors, parts = pack({"x": value})
    return tensors[0], to_array(tensors[0], b"".join(parts))


@pytest.mark.parametrize("dtype", FIXED)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (2, 0, 3)])
def test_every_fixed_dtype(dtype, shape) -> None:
    count = math.prod(shape)
    array = (np.arange(count) % 2).astype(NUMPY_DTYPES[dtype]).reshape(shape)
    tensor, back = there_and_back(array)
    assert (tensor.dtype, tensor.shape, tensor.length) == (dtype, shape, array.nbytes)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


def test_tensors_follow_one_another() -> None:
    items = {"a": np.zeros(3, np.uint8), "b": np.arange(2.0), "c": np.zeros((0, 2), np.int32)}
    tensors, parts = pack(items)
    assert [(tensor.key, tensor.offset, tensor.length) for tensor in tensors] == [
        ("a", 0, 3),
        ("b", 3, 16),
        ("c", 19, 0),
    ]
    payload = b"".join(parts)
    for tensor, array in zip(tensors, items.values(), strict=True):
        np.testing.assert_array_equal(to_array(tensor, payload), array)


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.arange(6, dtype=np.float32)
    _, (part,) = pack({"x": array})
    assert np.shares_memory(np.frombuffer(part, np.uint8), array)
    tensor = Tensor("x", DType.FLOAT32, (2, 3), 0, 24)
    assert np.shares_memory(to_array(tensor, part), array)


@pytest.mark.parametrize("payload", [bytes(8), bytearray(8), memoryview(bytearray(8))])
def test_arrays_are_read_only(payload) -> None:
    array = to_array(Tensor("x", DType.FLOAT32, (2,), 0, 8), payload)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::3],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">f4"),
        np.broadcast_to(np.float32(3), (2, 2)),
        np.float64(2.5),
    ],
)
def test_any_memory_layout(array) -> None:
    tensor, back = there_and_back(array)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == NUMPY_DTYPES[tensor.dtype]


def test_bytes_that_are_not_aligned() -> None:
    payload = b"\0" + np.arange(3.0).tobytes()
    array = to_array(Tensor("x", DType.FLOAT64, (3,), 1, 24), payload)
    assert array.flags.aligned
    np.testing.assert_array_equal(array, [0.0, 1.0, 2.0])


def test_a_bool_is_any_byte_but_zero() -> None:
    array = to_array(Tensor("x", DType.BOOL, (3,), 0, 3), b"\x00\x02\xff")
    assert array.dtype == np.bool_
    assert array.view(np.uint8).tolist() == [0, 1, 1]


# ---------------------------------------------------------------------------- bfloat16


def test_every_bfloat16_is_exactly_its_float32() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bfloat16_to_float32(bits)
    reference = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(values.view(np.uint32), reference.view(np.uint32))


@wire_strategies.repeatable
@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_rounding_is_to_nearest_even(words) -> None:
    values = np.array(words, dtype=np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    reference = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(float32_to_bfloat16(values), reference)


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        (0x3F808000, 0x3F80),  # a tie, down to even
        (0x3F818000, 0x3F82),  # a tie, up to even
        (0x3F808001, 0x3F81),
        (0x7F7FFFFF, 0x7F80),  # the largest float32 rounds to infinity
        (0x7F800000, 0x7F80),
        (0xFF800000, 0xFF80),
        (0x7F800001, 0x7FC0),  # a NaN whose payload is cut off stays a NaN
        (0xFFFFFFFF, 0xFFFF),
        (0x80000000, 0x8000),
    ],
)
def test_the_edges_of_rounding(word, bits) -> None:
    value = np.array([word], dtype=np.uint32).view(np.float32)
    assert float32_to_bfloat16(value).tolist() == [bits]


def test_bfloat16_tensors() -> None:
    values = np.array([[1.0, -2.5], [3.25, math.inf]], dtype=np.float32)
    payload = float32_to_bfloat16(values).tobytes()
    array = to_array(Tensor("x", DType.BFLOAT16, (2, 2), 0, 8), payload)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values)
    tensor, back = there_and_back(values.astype(ml_dtypes.bfloat16))
    assert tensor.dtype is DType.BFLOAT16
    np.testing.assert_array_equal(back, values)


# ----------------------------------------------------------------------------- strings


@wire_strategies.repeatable
@given(st.lists(st.binary(max_size=20), max_size=20))
def test_strings(texts) -> None:
    assert decode_strings(encode_strings(texts), len(texts)) == texts


@pytest.mark.parametrize(
    ("value", "shape", "texts"),
    [
        ("pick é", (), "pick é".encode()),
        (b"a\0", (), b"a\0"),
        (["a", "bc", ""], (3,), [b"a", b"bc", b""]),
        ([], (0,), []),
        (np.array([["a", "bc"]]), (1, 2), [[b"a", b"bc"]]),
        (np.array([b"a", b"b"]), (2,), [b"a", b"b"]),
        (np.array(["a", b"b\0"], dtype=object), (2,), [b"a", b"b\0"]),
    ],
)
def test_string_tensors(value, shape, texts) -> None:
    tensor, back = there_and_back(value)
    assert (tensor.dtype, tensor.shape) == (DType.STRING, shape)
    assert back.dtype == np.object_
    assert back.tolist() == texts
    assert not back.flags.writeable


def test_the_bytes_of_strings() -> None:
    assert encode_strings(["é", b"\0"]) == b"\x02\0\0\0\xc3\xa9\x01\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"\0\0\0", 1),
        (b"\x05\0\0\0abcd", 1),
        (b"\xff\xff\xff\xff", 1),
        (b"\x01\0\0\0a", 2),
        (b"\0\0\0\0" * 2, 1),
        (b"a", 0),
    ],
)
def test_broken_strings(data, count) -> None:
    with pytest.raises(Rejected, match="STRING") as caught:
        to_array(Tensor("x", DType.STRING, (count,), 1, len(data)), b"." + data + b"rest")
    assert caught.value.outcome is Outcome.INVALID


@wire_strategies.repeatable
@given(st.binary(max_size=60), st.integers(0, 10))
def test_random_strings(data, count) -> None:
    try:
        texts = decode_strings(memoryview(data), count)
    except Rejected:
        return
    assert encode_strings(texts) == data
    assert len(texts) == count


# ------------------------------------------------------------------------------- media


def test_compressed_media_is_sent_as_it_is() -> None:
    data = b"\xff\xd8 a file"
    tensors, parts = pack({"camera": Encoded(data, Encoding.JPEG, (480, 640, 3))})
    assert tensors == (Tensor("camera", DType.UINT8, (480, 640, 3), 0, 9, Encoding.JPEG),)
    assert parts == [data]
    with pytest.raises(LocalProtocolError, match="'camera': JPEG data has to be decoded"):
        to_array(tensors[0], data)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(2, np.complex64), "'x': the wire has no dtype for complex64"),
        (np.zeros(2, "M8[s]"), r"'x': the wire has no dtype for datetime64\[s\]"),
        (np.zeros(2, np.longdouble), "'x': the wire has no dtype for"),
        (np.array([object()]), "'x': the wire has no dtype for object"),
        (np.zeros(1, [("a", "f4")]), "'x': the wire has no dtype for"),
        (1.5, "'x': an array, str, bytes, list of str or Encoded is expected, float came"),
        ([1, 2], "list came"),
        (None, "NoneType came"),
    ],
)
def test_what_the_wire_cannot_carry(value, words) -> None:
    with pytest.raises(TypeError, match=words):
        pack({"x": value})


def test_little_endian_whatever_the_machine() -> None:
    _, (part,) = pack({"x": np.array([1.5], dtype=">f8")})
    assert bytes(part) == struct.pack("<d", 1.5)
