from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.models.manifest import Chunk, Input, Manifest, State, WarmUp, read_manifest

FULL = """
engine = "onnxruntime"
max_batch = 8
buckets = [1, 2, 4, 8]
output_bytes = 1048576
description = "reads letters"

[[inputs]]
name = "x"
from = "camera"
dtype = "float32"
shape = [3, 48, 192]
decode = ["jpeg", "png"]
raw = true
resize = [48, 192]
layout = "CHW"
color = "RGB"
scale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
optional = false
max_pixels = 16777216

[[inputs]]
name = "sound"
decode = ["wav", "flac"]
sample_rate = 16000
max_samples = 1920000

[[inputs]]
name = "prompt"
from = "metadata:prompt"

[[state]]
input = "state"
output = "stateN"
batch_axis = 1

[chunk]
horizon = 16
step_period_ms = 20.0

[warmup]
iterations = 5
shapes = { x = [3, 48, 192] }
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.toml"
    path.write_text(text)
    return path


def test_a_full_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, FULL))
    camera, sound, prompt = manifest.inputs
    assert (camera.key, camera.is_image, camera.is_sound, camera.is_text) == (
        "camera",
        True,
        False,
        False,
    )
    assert camera.resize == (48, 192)
    assert (sound.key, sound.is_sound, sound.is_image) == ("sound", True, False)
    assert prompt.is_text
    assert manifest.state == (State(input="state", output="stateN", batch_axis=1),)
    assert manifest.chunk == Chunk(horizon=16, step_period_ms=20.0)
    assert manifest.warmup == WarmUp(iterations=5, shapes={"x": (3, 48, 192)})
    assert manifest.buckets == (1, 2, 4, 8)


def test_an_empty_manifest_is_all_defaults(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, "")) == Manifest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine = 'tensorflow'", 'engine: found "tensorflow"; allowed: "auto", "onnxruntime"'),
        ("engine = 'python'", "callable: is missing"),
        ("callable = 'policy.py'", "callable: must match regex"),
        ("max_batch = 0", "max_batch: must be >= 1: 0"),
        ("max_batch = '8'", 'max_batch: found "8"; allowed: an integer'),
        ("max_batch = 4\nbuckets = [8]", "buckets: found 8; at most max_batch, 4"),
        ("buckets = [0]", "buckets: must be 1 to "),
        ("size = 3", "size: unknown key; allowed: engine, callable, max_batch"),
        ("[[inputs]]\nfrom = 'x'", "inputs.0.name: is missing"),
        (
            "[[inputs]]\nname = 'x'\nsource = 'y'",
            "inputs.0.source: unknown key; allowed: name, from",
        ),
        (
            "[[inputs]]\nname = 'x'\ndtype = 'float'",
            'inputs.0.dtype: found "float"; allowed: "float16"',
        ),
        (
            "[[inputs]]\nname = 'x'\ndecode = ['gif']",
            'inputs.0.decode.0: found "gif"; allowed: "jpeg"',
        ),
        (
            "[[inputs]]\nname = 'x'\ndecode = ['jpeg', 'wav']",
            "inputs.0.decode: an input is an image",
        ),
        ("[[inputs]]\nname = 'x'\nraw = false", "inputs.0.raw: found false without decode"),
        ("[[inputs]]\nname = 'x'\nstd = [0.0]", "inputs.0.std: found 0; it divides"),
        (
            "[[inputs]]\nname = 'x'\nmean = [1.0, 2.0]\nstd = [1.0, 2.0, 3.0]",
            "inputs.0.std: found 3",
        ),
        ("[[inputs]]\nname = 'x'\nresize = [0, 1]", "inputs.0.resize: must be 1 to 16384 each: 0"),
        ("[[inputs]]\nname = 'x'\nshape = [-2]", "inputs.0.shape: must be -1 to "),
        ("[[inputs]]\nname='x'\nfrom='metadata:p'\ndtype='int32'", "inputs.0.dtype: found"),
        ("[[inputs]]\nname='x'\nfrom='metadata:p'\nscale=2.0", "inputs.0.dtype: a string takes no"),
        ("[[inputs]]\nname='x'\n[[inputs]]\nname='x'", "inputs: 'x' is there more than once"),
        (
            "[[inputs]]\nname='x'\nfrom='k'\n[[inputs]]\nname='k'",
            "inputs: 'k' is there more than once",
        ),
        ("[[inputs]]\nname='x'\n[[state]]\ninput='x'\noutput='y'", "inputs: 'x' is a state"),
        (
            "[[state]]\ninput='x'\noutput='y'\nbatch_axis=-2",
            "state.0.batch_axis: must be >= -1: -2",
        ),
        ("[chunk]\nhorizon = 0", "chunk.horizon: must be >= 1: 0"),
        ("[warmup]\niterations = 0", "warmup.iterations: must be >= 1: 0"),
        ("[warmup.shapes]\nx = [0]", "warmup.shapes: must be 1 to "),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_resized_input_is_an_image() -> None:
    assert Input(name="x", resize=(2, 2)).is_image
    assert Input(name="x", layout="CHW").is_image
    assert not Input(name="x").is_image
