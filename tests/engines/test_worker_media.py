"""Encoded rows through a real worker process: decoded there, refused there, one by one."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from support.repository import add_onnx_model, add_python_model, onnx_file
from support.worker_process import Start, WorkerProcess

from appliance.errors import Outcome
from appliance.wire.pb import worker_pb2
from appliance.wire.types import Encoding

ECHO = """
    class Policy:
        def __call__(self, inputs):
            return {"y": inputs["x"]}
"""
IMAGE = """
engine = "python"
callable = "policy:Policy"
max_batch = 4
[[inputs]]
name = "x"
from = "camera"
dtype = "float32"
decode = ["jpeg", "png"]
resize = [8, 12]
layout = "CHW"
color = "BGR"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
max_pixels = 10000
[warmup]
iterations = 1
"""
SOUND = """
engine = "python"
callable = "policy:Policy"
max_batch = 4
[[inputs]]
name = "x"
dtype = "float32"
shape = [800]
decode = ["wav", "flac"]
raw = false
sample_rate = 16000
[warmup]
iterations = 1
"""
TONE = (np.sin(np.arange(800) / 10) * 0.5).astype(np.float32)


def photo(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image_file(pixels: NDArray[np.uint8], kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def sound_file(samples: NDArray[np.float32], kind: str, rate: int = 16_000) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def expected_image(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    resized = np.asarray(Image.fromarray(pixels).resize((12, 8), Image.Resampling.BILINEAR))
    scaled = (resized[:, :, ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return scaled.transpose(2, 0, 1)


def errors(done: worker_pb2.Done) -> dict[int, tuple[int, str]]:
    assert not done.error, done.error
    return {error.row: (error.code, error.message) for error in done.row_errors}


def feed(worker: WorkerProcess, data: bytes, kind: str) -> list[worker_pb2.Feed]:
    return [worker.feed_bytes(data, encoding=Encoding[kind])]


def test_images(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "see", ECHO, IMAGE)
    worker = start(tmp_path)
    assert worker.failed == {}
    spec = worker.specs["see"].inputs[0]
    assert spec.encodings == (Encoding.RAW, Encoding.JPEG, Encoding.PNG)
    assert (spec.shape, spec.row_shape) == ((-1, -1, 3), (3, 8, 12))

    jpeg = image_file(photo(), "JPEG")
    decoded = np.asarray(Image.open(BytesIO(jpeg)))
    raw = [worker.feed(photo(8, 12))]  # of the right size already
    rows = [feed(worker, jpeg, "JPEG"), feed(worker, image_file(photo(), "PNG"), "PNG"), raw]
    worker.stage("see", rows)
    made = worker.output(worker.done(), "y", 3)
    for row, pixels in zip(made, [decoded, photo(), photo(8, 12)], strict=True):
        assert_allclose(row, expected_image(pixels), atol=1e-4)


def test_images_that_are_none(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "see", ECHO, IMAGE)
    worker = start(tmp_path)
    jpeg = image_file(photo(), "JPEG")
    bomb = bytearray(jpeg)
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = (60000).to_bytes(2, "big") * 2
    worker.stage(
        "see",
        [
            feed(worker, bytes(bomb), "JPEG"),
            feed(worker, jpeg, "JPEG"),
            feed(worker, jpeg[: len(jpeg) // 2], "JPEG"),
            feed(worker, b"", "PNG"),
        ],
    )
    done = worker.done()
    found = errors(done)
    assert found[0] == (
        Outcome.TOO_LARGE,
        "tensor 'camera': at most 10000 pixels, came 60000 by 60000",
    )
    assert found[2][0] == Outcome.INVALID
    assert "JPEG cannot be decoded: image file is truncated" in found[2][1]
    assert found[3][0] == Outcome.INVALID
    assert found.keys() == {0, 2, 3}
    good = worker.output(done, "y", 4)[1]
    assert_allclose(good, expected_image(np.asarray(Image.open(BytesIO(jpeg)))), atol=1e-4)
    worker.stage("see", [feed(worker, b"RIFF", "WAV")])
    assert errors(worker.done())[0] == (
        Outcome.INVALID,
        "tensor 'camera': encoding WAV is not accepted",
    )


def test_sounds(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "hear", ECHO, SOUND)
    worker = start(tmp_path)
    assert worker.failed == {}
    worker.stage("hear", [feed(worker, sound_file(TONE, kind), kind) for kind in ("WAV", "FLAC")])
    made = worker.output(worker.done(), "y", 2)
    assert_allclose(made[0], TONE, atol=2**-15)
    assert_allclose(made[1], TONE, atol=2**-15)


def test_sounds_that_are_none(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "hear", ECHO, SOUND)
    worker = start(tmp_path)
    wav = bytearray(sound_file(TONE, "WAV"))
    at = wav.index(b"data") + 4
    wav[at : at + 4] = (1 << 20).to_bytes(4, "little")
    flac = sound_file(TONE, "FLAC")
    worker.stage(
        "hear",
        [
            feed(worker, bytes(wav), "WAV"),
            feed(worker, flac[: len(flac) // 2], "FLAC"),
            feed(worker, sound_file(TONE, "WAV", 8000), "WAV"),
            feed(worker, sound_file(TONE[:700], "WAV"), "WAV"),
        ],
    )
    found = errors(worker.done())
    assert {code for code, _ in found.values()} == {Outcome.INVALID}
    assert "declares 1048576 bytes" in found[0][1]
    assert "FLAC" in found[1][1]
    assert "expected 16000 Hz, came 8000 Hz" in found[2][1]
    assert "the model takes rows of [800], came [700]" in found[3][1]
    assert worker.ledger("hear") == (0, 0, 0)


def test_rows_of_an_open_model_have_one_shape(tmp_path: Path, start: Start) -> None:
    manifest = IMAGE.replace("resize = [8, 12]\n", "").replace(
        'callable = "policy:Policy"', 'callable = "policy:Policy"\noutput_bytes = 1000000'
    )
    add_python_model(tmp_path, "see", ECHO, manifest)
    worker = start(tmp_path)
    assert worker.failed == {}
    sizes = [(4, 6), (4, 6), (6, 4)]
    worker.stage("see", [[worker.feed(photo(*size))] for size in sizes])
    done = worker.done()
    assert list(done.outputs[0].row_shape) == [3, 4, 6]
    assert "rows of one batch have one shape, [3, 4, 6]; came [3, 6, 4]" in errors(done)[2][1]


def onnx_identity(dtype: type[np.generic], shape: list[int]) -> bytes:
    """Return a model that gives back `x` as `y`, one row or more."""
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x, y = (helper.make_tensor_value_info(name, element, ["N", *shape]) for name in "xy")
    return onnx_file(
        helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [x], [y])
    )


@pytest.mark.parametrize("count", [1, 2])
def test_decoded_rows_are_what_an_onnx_model_takes(
    tmp_path: Path, start: Start, count: int
) -> None:
    """Also a row that is alone in its batch, which is not copied where it need not be."""
    hear = SOUND.replace("float32", "float64").replace("raw = false", "")
    see = """
        max_batch = 4
        [[inputs]]
        name = "x"
        decode = ["jpeg", "png"]
    """
    hear = "\n".join(line for line in hear.splitlines() if not line.startswith(("eng", "call")))
    add_onnx_model(tmp_path, "hear", onnx_identity(np.float64, [800]), hear)
    add_onnx_model(tmp_path, "see", onnx_identity(np.uint8, [40, 60, 3]), see)
    worker = start(tmp_path)
    assert worker.failed == {}
    worker.stage("hear", [feed(worker, sound_file(TONE, "WAV"), "WAV")] * count)
    for row in worker.output(worker.done(), "y", count):
        assert_allclose(row, TONE, atol=2**-15)
    for row in (feed(worker, image_file(photo(), "PNG"), "PNG"), [worker.feed(photo())]):
        worker.stage("see", [row] * count)
        for pixels in worker.output(worker.done(), "y", count):
            assert_array_equal(pixels, photo())
