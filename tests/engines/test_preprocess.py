"""Every step against plain numpy and Pillow."""

from __future__ import annotations

from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from appliance.engines.preprocess import Preprocessor
from appliance.errors import Outcome, Rejected
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.models.plans import TensorSignature
from appliance.structure import structure
from appliance.wire.arrays import encode_strings, float32_to_bfloat16
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding


def preprocessor(document: dict[str, Any], shape: tuple[int, ...] | None = None) -> Preprocessor:
    """Make one for input `x`; `shape` is the model's, of float32, with the batch dimension."""
    item = structure({"name": "x", **document}, Input, "test")
    found = None if shape is None else TensorSignature("x", DType.FLOAT32, shape)
    return Preprocessor(input_plan(item, found, 1))


def written(made: Preprocessor, values: NDArray[Any]) -> NDArray[Any]:
    """Return what one row becomes, in a batch that was full of something else."""
    batch = np.full((3, *made.row_shape(values.shape)), 77, made.dtype)
    before = batch.copy()
    made.write(values, batch[1, ...])
    assert_array_equal(batch[[0, 2]], before[[0, 2]])
    return batch[1, ...]


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def file(array: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, kind, **options)
    return buffer.getvalue()


images = st.builds(
    pixels,
    st.integers(1, 20),
    st.integers(1, 20),
    st.just(3),
    st.integers(0, 1 << 16),
)


@given(
    image=images,
    size=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
    layout=st.sampled_from(["CHW", "HWC"]),
    color=st.sampled_from(["RGB", "BGR"]),
    scale=st.sampled_from([1.0, 1 / 255, 2.5]),
    mean=st.sampled_from([(), (0.5,), (0.485, 0.456, 0.406)]),
    std=st.sampled_from([(), (0.5,), (0.229, 0.224, 0.225)]),
)
def test_an_image_as_numpy_and_pillow_do_it(
    image: NDArray[np.uint8],
    size: tuple[int, int] | None,
    layout: str,
    color: str,
    scale: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    document: dict[str, Any] = {
        "layout": layout,
        "color": color,
        "scale": scale,
        "mean": mean,
        "std": std,
    }
    if size:
        document["resize"] = size
    made = preprocessor(document, (-1, -1, -1, -1))

    expected: NDArray[Any] = image
    if size:
        resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        expected = np.asarray(resized)
    if color == "BGR":
        expected = expected[:, :, [2, 1, 0]]
    expected = (expected.astype(np.float64) * scale - (mean or 0.0)) / (std or 1.0)
    if layout == "CHW":
        expected = np.moveaxis(expected, 2, 0)

    row = written(made, image)
    assert row.dtype == np.float32
    assert row.shape == expected.shape
    assert_allclose(row, expected, rtol=1e-5, atol=1e-4)


def test_bytes_stay_bytes_where_nothing_is_computed() -> None:
    made = preprocessor({"dtype": "uint8", "layout": "CHW", "color": "BGR", "shape": [3, 2, 5]})
    image = pixels(2, 5)
    assert_array_equal(written(made, image), image[:, :, ::-1].transpose(2, 0, 1))


def test_gray_has_one_channel() -> None:
    made = preprocessor({"dtype": "uint8", "resize": [4, 4], "color": "GRAY", "decode": ["png"]})
    image = pixels(8, 8)
    decoded = made.decode(file(image, "PNG"), Encoding.PNG)
    assert_array_equal(decoded[:, :, 0], np.asarray(Image.fromarray(image).convert("L")))
    assert written(made, decoded).shape == (4, 4, 1)
    assert written(made, pixels(3, 9, 1)).shape == (4, 4, 1)


def test_gray_of_16_bits_keeps_its_upper_half() -> None:
    made = preprocessor({"dtype": "uint8", "color": "GRAY", "decode": ["png"]})
    samples = (np.arange(48, dtype=np.uint16) * 1300).reshape(6, 8)
    buffer = BytesIO()
    Image.fromarray(samples).save(buffer, "PNG")
    assert_array_equal(made.decode(buffer.getvalue(), Encoding.PNG)[:, :, 0], samples >> 8)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*product(["JPEG", "PNG"], ["RGB", "L"]), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P")],
)
def test_files_are_decoded_to_rgb(kind: str, mode: str) -> None:
    made = preprocessor({"dtype": "uint8", "decode": ["jpeg", "png"]})
    image = Image.fromarray(pixels(6, 9)).convert(mode)
    buffer = BytesIO()
    image.save(buffer, kind)
    decoded = made.decode(buffer.getvalue(), Encoding[kind])
    assert_array_equal(decoded, np.asarray(Image.open(buffer).convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    made = preprocessor({"dtype": "uint8", "decode": ["jpeg", "png"]})
    data = file(pixels(40, 40), kind)
    whole = made.decode(data, Encoding[kind])
    for length in range(0, len(data) - 16, 7):
        with pytest.raises(Rejected) as caught:
            made.decode(data[:length], Encoding[kind])
        assert caught.value.outcome is Outcome.INVALID
    for length in range(len(data) - 16, len(data)):
        # Of the last bytes nothing but a checksum or an end marker may be missing.
        try:
            decoded = made.decode(data[:length], Encoding[kind])
        except Rejected:
            continue
        assert_array_equal(decoded, whole)


def test_an_image_is_refused_by_its_header_alone() -> None:
    made = preprocessor({"dtype": "uint8", "decode": ["jpeg"], "max_pixels": 1000})
    bomb = bytearray(file(pixels(8, 8), "JPEG"))
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = (60000).to_bytes(2, "big") * 2
    with pytest.raises(Rejected, match="at most 1000 pixels, came 60000 by 60000") as caught:
        made.decode(bytes(bomb), Encoding.JPEG)
    assert caught.value.outcome is Outcome.TOO_LARGE


def test_what_is_named_jpeg_has_to_be_one() -> None:
    made = preprocessor({"dtype": "uint8", "decode": ["jpeg"]})
    with pytest.raises(Rejected, match="JPEG"):
        made.decode(file(pixels(8, 8), "PNG"), Encoding.JPEG)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG"]), st.integers(0, 600))
def test_nothing_but_rejected_comes_out_of_a_broken_file(noise: bytes, kind: str, at: int) -> None:
    made = preprocessor({"dtype": "uint8", "decode": ["jpeg", "png"], "max_pixels": 4096})
    data = bytearray(file(pixels(12, 12), kind))
    data[at : at + len(noise)] = noise
    try:
        decoded = made.decode(bytes(data), Encoding[kind])
    except Rejected:
        return
    assert decoded.dtype == np.uint8
    assert decoded.shape[0] * decoded.shape[1] <= 4096


@pytest.mark.parametrize("dtype", sorted(set(DType) - {DType.UNSPECIFIED, DType.STRING}))
def test_a_tensor_of_any_dtype_comes_as_it_is(dtype: DType) -> None:
    made = preprocessor({"dtype": dtype.name.lower(), "shape": [2, 3]})
    values = np.arange(6).reshape(2, 3)
    if dtype is DType.BFLOAT16:
        expected: NDArray[Any] = values.astype(np.float32)
        stored: NDArray[Any] = float32_to_bfloat16(expected)
    elif dtype is DType.BOOL:
        expected, stored = values > 0, values.astype(np.uint8)  # any byte but 0 is true
    else:
        expected = stored = values.astype(NUMPY_DTYPES[dtype])
    assert made.raw_dtype == stored.dtype
    row = written(made, made.raw(stored))
    assert_array_equal(row, expected)
    assert row.dtype == expected.dtype


def test_arithmetic_on_a_tensor() -> None:
    made = preprocessor({"scale": 2.0, "mean": [1.0, 2.0], "std": [4.0]}, (-1, 3, 2))
    values = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    assert_allclose(written(made, values), (values * 2 - [1, 2]) / 4)
    assert not made.passes_through


def test_float16_is_rounded_once() -> None:
    made = preprocessor({"dtype": "float16", "shape": [1000], "scale": 0.1, "mean": [100.0]})
    values = np.linspace(0, 2000, 1000).astype(np.float16)
    expected = (values.astype(np.float32) * np.float32(0.1) - np.float32(100)).astype(np.float16)
    assert_array_equal(written(made, values), expected)


@given(st.lists(st.text(max_size=20), min_size=2, max_size=2))
def test_strings(texts: list[str]) -> None:
    made = preprocessor({"dtype": "string", "shape": [2]})
    row = made.texts(encode_strings(texts), (2,))
    assert row.tolist() == texts
    assert written(made, row).tolist() == texts


def test_metadata_is_one_string_of_any_rank() -> None:
    made = preprocessor({"from": "metadata:prompt"})
    assert made.texts(encode_strings(["go"]), (1,)).shape == ()
    assert written(made, made.texts(encode_strings(["go"]), (1,))).item() == "go"


@pytest.mark.parametrize(
    ("data", "shape", "message"),
    [
        (encode_strings(["a"]), (1,), "expected 2 strings, came 1"),
        (encode_strings(["a"]), (2,), "2 strings are expected"),
        (encode_strings([b"\xff", b""]), (2,), "not UTF-8"),
        (b"\xff\xff\xff\xff", (2,), "STRING"),
    ],
)
def test_strings_that_are_none(data: bytes, shape: tuple[int, ...], message: str) -> None:
    made = preprocessor({"dtype": "string", "shape": [2]})
    with pytest.raises(Rejected, match=message) as caught:
        made.texts(data, shape)
    assert caught.value.outcome is Outcome.INVALID


def test_a_row_the_model_does_not_take() -> None:
    made = preprocessor({"layout": "CHW"}, (-1, 3, 32, -1))
    assert made.row_shape((32, 500, 3)) == (3, 32, 500)
    with pytest.raises(Rejected, match=r"rows of \[3, 32, -1\], came \[3, 31, 500\]"):
        made.row_shape((31, 500, 3))
