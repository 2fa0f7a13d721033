"""A version is compared with what it should answer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.repository import add_onnx_mlp, add_python_model

from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.verification import Verification, verify
from appliance.errors import ConfigError, EngineError
from appliance.models.repository import Repository
from appliance.wire.pb import worker_pb2

MANIFEST = """
engine = "python"
callable = "policy:run"
max_batch = 8

[[inputs]]
name = "x"
dtype = "{dtype}"
shape = [4]

[warmup]
iterations = 1
"""


def judged(root: Path, *, seed: int = 1, rounds: int = 2) -> Verification:
    (entry,) = Repository(root).scan()
    path = worker_pb2.ModelPath(
        name=entry.name,
        version=entry.version,
        manifest=entry.manifest,
        manifest_path=str(entry.manifest_path),
        directory=str(entry.directory),
    )
    return verify(path, rounds=rounds, seed=seed, recorded=None, on_step=lambda _: None)


def add(root: Path, body: str, *, dtype: str = "float32") -> None:
    source = f"import numpy as np\n\ndef run(batch):\n    x = batch['x']\n    {body}\n"
    add_python_model(root, "policy", source, MANIFEST.format(dtype=dtype))


def test_an_onnx_model_is_compared_with_the_runtime_not_optimised(tmp_path: Path) -> None:
    add_onnx_mlp(tmp_path, "mlp")
    found = judged(tmp_path)
    assert found.is_good
    assert found.reference == "ONNX Runtime, row by row, not optimised"
    assert found.batches == (1, 2, 3, 4, 7, 8)
    (output,) = found.outputs
    assert (output.name, output.rows) == ("y", 2 * sum(found.batches))
    assert 0 <= output.worst < 1e-5


def test_an_engine_that_answers_otherwise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_onnx_mlp(tmp_path, "mlp")
    run = OnnxRuntimeEngine.run

    def off(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> object:
        given = dict(run(self, inputs))
        if len(inputs["x"]) == 7:  # one size of batch only, and one row of it
            given["y"] = given["y"].copy()
            given["y"][6] *= 1.01
        return given

    monkeypatch.setattr(OnnxRuntimeEngine, "run", off)
    found = judged(tmp_path)
    assert not found.is_good
    assert found.outputs[0].worst == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(
    ("body", "worst"),
    [
        ("return {'y': x - x.mean(axis=0)}", None),  # rows change each other
        ("return {'y': x if len(x) == 1 else x[::-1].copy()}", None),  # rows change places
        ("return {'y': x if len(x) < 8 else x * np.float32('nan')}", math.inf),
    ],
)
def test_rows_of_a_batch_answer_as_they_do_alone(
    tmp_path: Path, body: str, worst: float | None
) -> None:
    add(tmp_path, body)
    found = judged(tmp_path)
    assert found.reference == "itself, row by row"
    assert not found.is_good
    assert found.outputs[0].worst > 1e-2
    if worst is not None:
        assert found.outputs[0].worst == worst


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint8", "bool", "bfloat16"])
def test_whatever_type_rows_have(tmp_path: Path, dtype: str) -> None:
    add(tmp_path, "return {'y': x, 'sum': x.astype(np.int32)}", dtype=dtype)
    found = judged(tmp_path)
    assert found.is_good
    assert {output.worst for output in found.outputs} == {0.0}


def test_whole_numbers_have_to_be_equal(tmp_path: Path) -> None:
    add(tmp_path, "return {'y': x + (len(x) == 4)}", dtype="int64")
    found = judged(tmp_path)
    assert not found.is_good
    assert (found.outputs[0].worst, found.outputs[0].tolerance) == (1.0, 0.0)


def test_what_is_not_finite_alone_may_be_so_in_a_batch(tmp_path: Path) -> None:
    add(tmp_path, "return {'y': np.where(x > 0, np.inf, x).astype(np.float32)}")
    assert judged(tmp_path).is_good


def test_states_images_sounds_and_texts_are_made_up(tmp_path: Path) -> None:
    manifest = """
engine = "python"
callable = "policy:run"
max_batch = 4

[[inputs]]
name = "camera"
dtype = "float32"
decode = ["jpeg"]
raw = false
resize = [8, 8]
layout = "CHW"
scale = 0.01

[[inputs]]
name = "audio"
dtype = "float32"
decode = ["flac"]
sample_rate = 8000
max_samples = 100

[[inputs]]
name = "prompt"
from = "metadata:prompt"

[[state]]
input = "h"
output = "h_next"
shape = [2]
dtype = "float32"
"""
    source = """
import numpy as np

SEEN = set()

def run(batch):
    count = len(batch["h"])
    assert batch["camera"].shape == (count, 3, 8, 8)
    means = batch["camera"].mean(axis=(1, 2, 3))
    assert count == 1 or len(set(means.tolist())) in (1, count)
    SEEN.update(batch["prompt"].reshape(-1).tolist())
    lengths = np.array([len(text) for text in batch["prompt"].reshape(-1)], np.float32)
    return {"y": means + lengths + batch["audio"].std(axis=1), "h_next": batch["h"] * 2}
"""
    add_python_model(tmp_path, "policy", source, manifest)
    found = judged(tmp_path, rounds=4)
    assert found.is_good, found
    assert {output.name for output in found.outputs} == {"y", "h_next"}


def test_other_seeds_are_other_rows_and_the_same_are_the_same(tmp_path: Path) -> None:
    add(tmp_path, "return {'y': x + np.float32(1e-5 * (len(x) > 1))}")
    worst = [judged(tmp_path, seed=seed).outputs[0].worst for seed in (1, 1, 2)]
    assert worst[0] == worst[1] != worst[2]


def test_a_broken_file_is_said(tmp_path: Path) -> None:
    directory = add_onnx_mlp(tmp_path, "mlp")
    whole = (directory / "model.onnx").read_bytes()
    (directory / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match="no usable ONNX model"):
        judged(tmp_path)


def test_rows_that_the_manifest_leaves_open_do_not_fit(tmp_path: Path) -> None:
    manifest = "max_batch = 8\n[warmup]\niterations = 1\nshapes = { x = [2, 2] }\n"
    add_onnx_mlp(tmp_path, "mlp", manifest)
    with pytest.raises(ConfigError, match=r"warmup\.shapes\.x"):
        judged(tmp_path)
