from __future__ import annotations

import pytest

from appliance.errors import ConfigError
from appliance.models.manifest import Manifest
from appliance.models.plans import Resolved, RowKind, Signature, TensorSignature
from appliance.models.resolve import resolve
from appliance.structure import structure
from appliance.wire.spec import InputSpec, OutputSpec
from appliance.wire.types import DType, Encoding

F32, I64, U8, STRING = DType.FLOAT32, DType.INT64, DType.UINT8, DType.STRING


def signature(
    inputs: dict[str, tuple[DType, tuple[int, ...]]] | None,
    outputs: dict[str, tuple[DType, tuple[int, ...]]] | None = None,
) -> Signature:
    return Signature(
        None if inputs is None else tuple(TensorSignature(n, d, s) for n, (d, s) in inputs.items()),
        None
        if outputs is None
        else tuple(TensorSignature(n, d, s) for n, (d, s) in outputs.items()),
    )


MLP = signature({"x": (F32, (-1, 8))}, {"y": (F32, (-1, 4))})
CNN = signature({"x": (F32, (-1, 3, -1, -1))}, {"y": (F32, (-1, 2))})
VAD = signature(
    {"input": (F32, (1, 576)), "state": (F32, (2, 1, 128))},
    {"output": (F32, (1, 1)), "stateN": (F32, (2, 1, 128))},
)


def made(document: dict[str, object], of: Signature) -> Resolved:
    return resolve(structure(document, Manifest, "test"), of, "m", "3", where="m/model.toml")


def refused(document: dict[str, object], of: Signature) -> str:
    with pytest.raises(ConfigError) as caught:
        made(document, of)
    message = str(caught.value)
    assert message.startswith("m/model.toml: ")
    return message.removeprefix("m/model.toml: ")


def test_an_empty_manifest_is_read_from_the_model() -> None:
    resolved = made({}, MLP)
    spec = resolved.spec
    assert (spec.model_id, spec.version, spec.max_batch) == ("m", "3", 8)
    assert spec.inputs == (InputSpec("x", "x", F32, (8,), (8,), max_bytes=32),)
    assert spec.outputs == (OutputSpec("y", F32, (4,)),)
    assert spec.output_bytes_per_row == 64  # 16 bytes, aligned
    assert resolved.buckets == (1, 2, 4, 8)
    assert not spec.recurrent
    assert len(spec.hash) == 16


def test_the_hash_follows_what_clients_have_to_know() -> None:
    assert made({}, MLP).spec.hash == made({"max_batch": 8}, MLP).spec.hash
    assert made({}, MLP).spec.hash != made({"max_batch": 4}, MLP).spec.hash


def test_an_image_input() -> None:
    document = {
        "name": "x",
        "from": "camera",
        "decode": ["jpeg", "png"],
        "resize": [48, 192],
        "layout": "CHW",
        "color": "BGR",
        "scale": 1 / 255,
        "mean": [0.5],
        "std": [0.5, 0.25, 1.0],
        "max_pixels": 1_000_000,
    }
    (plan,) = made({"inputs": [document]}, CNN).inputs
    assert plan.spec == InputSpec(
        "x",
        "camera",
        U8,
        (-1, -1, 3),
        (3, 48, 192),
        (Encoding.RAW, Encoding.JPEG, Encoding.PNG),
        max_pixels=1_000_000,
        max_bytes=3_000_000 + (64 << 10),
        resize=(48, 192),
    )
    assert (plan.kind, plan.planes_first, plan.color) == (RowKind.IMAGE, True, "BGR")
    assert plan.factor == pytest.approx((2 / 255, 4 / 255, 1 / 255))
    assert plan.shift == pytest.approx((-1.0, -2.0, -0.5))


def test_an_open_image_keeps_its_size() -> None:
    (plan,) = made({"inputs": [{"name": "x", "layout": "CHW"}]}, CNN).inputs
    assert plan.spec.shape == (-1, -1, 3)
    assert plan.spec.row_shape == (3, -1, -1)


def test_a_gray_image_of_a_python_model() -> None:
    document = {"name": "x", "dtype": "uint8", "resize": [4, 6], "color": "GRAY"}
    (plan,) = made({"inputs": [document]}, signature(None)).inputs
    assert plan.spec.shape == (-1, -1, 1)
    assert plan.spec.row_shape == (4, 6, 1)


def test_a_recurrent_model_with_a_fixed_batch_runs_one_row() -> None:
    document = {
        "inputs": [{"name": "input", "from": "audio", "decode": ["wav"], "sample_rate": 16000}],
        "state": [{"input": "state", "output": "stateN", "batch_axis": 1}],
    }
    resolved = made(document, VAD)
    spec = resolved.spec
    assert spec.max_batch == 1
    assert spec.recurrent
    assert spec.state_bytes == (2 * 128 * 4,)
    assert [output.name for output in spec.outputs] == ["output"]
    (state,) = resolved.states
    assert (state.shape, state.axis, state.dtype) == ((2, 128), 1, F32)
    (plan,) = resolved.inputs
    assert plan.spec.encodings == (Encoding.RAW, Encoding.WAV)
    assert plan.spec.max_samples == 1_920_000
    assert plan.spec.row_shape == (576,)


def test_a_state_without_a_batch_dimension() -> None:
    of = signature(
        {"x": (F32, (-1, 2)), "h": (F32, (16,))}, {"y": (F32, (-1, 1)), "g": (F32, (16,))}
    )
    document: dict[str, object] = {"state": [{"input": "h", "output": "g", "batch_axis": -1}]}
    resolved = made(document, of)
    assert resolved.spec.max_batch == 1
    assert resolved.states[0].shape == (16,)
    assert "then max_batch must be 1, not 4" in refused({**document, "max_batch": 4}, of)


def test_a_python_model_before_and_after_its_first_run() -> None:
    document: dict[str, object] = {
        "engine": "python",
        "callable": "policy:Policy",
        "inputs": [
            {"name": "joints", "dtype": "float32", "shape": [7]},
            {"name": "prompt", "from": "metadata:prompt", "optional": True},
        ],
        "chunk": {"horizon": 16, "step_period_ms": 20},
    }
    before = made(document, signature(None))
    assert before.spec.outputs == ()
    after = made(document, signature(None, {"action": (F32, (-1, 16, 7))}))
    assert after.spec.outputs == (OutputSpec("action", F32, (16, 7)),)
    assert after.spec.output_bytes_per_row == 448  # already a multiple of 64
    assert (after.spec.horizon, after.spec.step_period_us) == (16, 20_000)
    joints, prompt = after.inputs
    assert joints.spec.max_bytes == 28
    assert (prompt.kind, prompt.dtype, prompt.spec.row_shape) == (RowKind.TEXT, STRING, ())
    assert prompt.spec.optional


def test_bfloat16_on_the_wire_is_float32_for_the_model() -> None:
    (plan,) = made({"inputs": [{"name": "x", "dtype": "bfloat16"}]}, MLP).inputs
    assert plan.spec.dtype is DType.BFLOAT16
    assert plan.spec.max_bytes == 16
    assert plan.dtype is F32


def test_open_outputs_need_a_bound() -> None:
    of = signature({"x": (F32, (-1, 8))}, {"y": (F32, (-1, -1)), "z": (F32, (-1, 2))})
    assert refused({}, of).startswith("output_bytes: is missing; the size of output 'y' is open")
    assert made({"output_bytes": 1000}, of).spec.output_bytes_per_row == 1024 + 2 * 64


def test_strings_have_no_size_either() -> None:
    of = signature({"x": (F32, (-1, 8))}, {"y": (STRING, (-1, 1))})
    assert "output_bytes: is missing" in refused({}, of)


def test_the_manifest_narrows_what_the_model_leaves_open() -> None:
    of = signature({"x": (DType.INT32, (-1, -1))}, {"y": (F32, (-1, 2))})
    assert made({"inputs": [{"name": "x", "shape": [2048]}]}, of).spec.inputs[0].shape == (2048,)


def test_buckets_end_with_max_batch() -> None:
    assert made({"max_batch": 6}, MLP).buckets == (1, 2, 4, 6)
    assert made({"max_batch": 6, "buckets": [3, 1, 3]}, MLP).buckets == (1, 3)


@pytest.mark.parametrize(
    ("document", "of", "message"),
    [
        ({"inputs": [{"name": "z"}]}, MLP, "inputs: found 'z'; the model's inputs are 'x'"),
        (
            {"inputs": [{"name": "x", "dtype": "int64"}]},
            MLP,
            "inputs.x.dtype: found int64; the model has float32",
        ),
        (
            {"inputs": [{"name": "x", "shape": [8, 1]}]},
            MLP,
            "inputs.x.shape: found [8, 1]; the model has [8] for one row",
        ),
        (
            {"inputs": [{"name": "x", "shape": [9]}]},
            MLP,
            "inputs.x.shape: found [9]; the model has",
        ),
        (
            {"inputs": [{"name": "x", "decode": ["jpeg"]}]},
            CNN,
            "inputs.x: resize, color and layout make [-1, -1, 3] (HWC), but one row is [3, -1, -1]",
        ),
        ({"inputs": [{"name": "x", "layout": "CHW"}]}, MLP, "inputs.x: resize, color and layout"),
        (
            {"inputs": [{"name": "x", "mean": [1.0, 2.0]}]},
            MLP,
            "inputs.x.mean: found 2 numbers; allowed: 1 or 8",
        ),
        (
            {"inputs": [{"name": "x", "optional": True}]},
            signature({"x": (F32, (-1, -1))}),
            "inputs.x",
        ),
        (
            {"inputs": [{"name": "x", "scale": 2.0}]},
            signature({"x": (I64, (-1, 2))}),
            "inputs.x: scale, mean and std need a float input; the model's is int64",
        ),
        (
            {"inputs": [{"name": "x", "decode": ["wav"]}]},
            signature({"x": (I64, (-1, 2))}),
            "inputs.x.dtype: found int64, which holds no sound",
        ),
        (
            {"inputs": [{"name": "x", "layout": "HWC"}]},
            signature({"x": (DType.BOOL, (-1, 2, 2, 3))}),
            "inputs.x.dtype: found bool, which holds no image",
        ),
        ({}, signature({"sr": (I64, ())}), "inputs.sr: the model wants one number"),
        (
            {"max_batch": 2},
            VAD,
            "inputs.input: its batch dimension is fixed at 1, but max_batch is 2",
        ),
        ({}, signature({"x": (F32, (4, 2))}), "inputs.x: its batch dimension is fixed at 4"),
        (
            {},
            signature({"x": (F32, (-1, 2))}, {"y": (F32, ())}),
            "output 'y' has no batch dimension",
        ),
        ({}, signature({"x": (F32, (-1, 2))}, {"y": (F32, (3, 1))}), "output 'y': its batch"),
        ({"state": [{"input": "h", "output": "y"}]}, MLP, "state: found 'h'; the model's inputs"),
        (
            {"state": [{"input": "state", "output": "no", "batch_axis": 1}]},
            VAD,
            "state: found output 'no'; the model's outputs are 'output', 'stateN'",
        ),
        (
            {"state": [{"input": "state", "output": "stateN", "batch_axis": 3}]},
            VAD,
            "state.state.batch_axis: found 3; the model's shape is [2, 1, 128]",
        ),
        (
            {"state": [{"input": "h", "output": "y"}]},
            signature({"x": (F32, (-1, 2)), "h": (F32, (-1, -1))}, {"y": (F32, (-1, 2))}),
            "state.h.shape: is missing; the model leaves it open",
        ),
        ({}, signature(None), "inputs: are missing; a python model cannot say"),
        ({"inputs": [{"name": "x"}]}, signature(None), "inputs.x.dtype: is missing"),
        (
            {"inputs": [{"name": "x", "dtype": "float32"}]},
            signature(None),
            "inputs.x.shape: is missing",
        ),
        (
            {
                "inputs": [{"name": "x", "dtype": "float32", "shape": [1]}],
                "state": [{"input": "h", "output": "g"}],
            },
            signature(None),
            "state.h: shape and dtype are missing",
        ),
        ({"buckets": [16]}, MLP, "buckets: found 16; at most max_batch, 8"),
        ({"warmup": {"shapes": {"z": [1]}}}, MLP, "warmup.shapes: found 'z', which is no input"),
    ],
)
def test_disagreements_are_named(document: dict[str, object], of: Signature, message: str) -> None:
    assert refused(document, of).startswith(message)
