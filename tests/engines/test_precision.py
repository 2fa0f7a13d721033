"""Models are converted to half precision, and compared with what they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.fake_gpu import FakeCuda, FakeExecutor
from support.real_models import REAL_MODELS, add_real_models
from support.repository import add_onnx_mlp, mlp, onnx_file

from appliance.engines.device import Device
from appliance.engines.registry import ENGINES
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.precision import in_precision
from appliance.engines.tensorrt.tensors import Tensor
from appliance.engines.verification import PRECISION_TOLERANCES, Verification, verify
from appliance.errors import EngineError, ExtraMissing
from appliance.models.manifest import Manifest, Precision
from appliance.models.repository import Repository
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType

SHAPES = {
    "text_direction": {"x": (2, 3, 48, 192)},
    "voice": {"input": (1, 576), "state": (2, 1, 128)},
    "policy": {"joints": (8, 7)},
    "text_finder": {"x": (1, 3, 320, 320)},
}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_real_models(root)
    return root


def rows(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(1)
    return {
        name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()
    }


def distance(found: list[Any], wanted: list[Any]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)) for a, b in pairs)


def loaded(path: Path, precision: Precision) -> onnx.ModelProto:
    with in_precision(path, precision) as made:
        return onnx.load(made)


def kept_types(model: onnx.ModelProto) -> list[Any]:
    return [
        [(value.name, value.type.tensor_type.elem_type) for value in values]
        for values in (model.graph.input, model.graph.output)
    ]


def float_bytes(model: onnx.ModelProto) -> dict[int, int]:
    """Bytes of weights by type."""
    found: dict[int, int] = {}
    tensors = [*model.graph.initializer]
    tensors += [
        each.t for node in model.graph.node for each in node.attribute if each.HasField("t")
    ]
    for tensor in tensors:
        if tensor.data_type in FLOATS:
            size = numpy_helper.to_array(tensor).nbytes
            found[tensor.data_type] = found.get(tensor.data_type, 0) + size
    return found


@pytest.mark.parametrize("model", REAL_MODELS)
def test_a_real_model_in_float16_answers_as_before(models: Path, model: str) -> None:
    path = models / model / "1" / "model.onnx"
    before = onnx.load(path)
    with in_precision(path, "fp16") as made:
        after = onnx.load(made)
        answers = [
            ort.InferenceSession(str(each)).run(None, rows(SHAPES[model])) for each in (made, path)
        ]
    assert not made.exists()
    assert kept_types(after) == kept_types(before)
    sizes = float_bytes(after)
    assert sizes[TensorProto.FLOAT16] > 0.4 * float_bytes(before)[TensorProto.FLOAT]
    assert sizes.get(TensorProto.FLOAT, 0) < 0.1 * sizes[TensorProto.FLOAT16]
    assert 0 < distance(*answers) < PRECISION_TOLERANCES["fp16"]


@pytest.mark.parametrize("model", REAL_MODELS)
def test_a_real_model_in_bfloat16_holds_the_same_numbers(models: Path, model: str) -> None:
    path = models / model / "1" / "model.onnx"
    before, after = onnx.load(path), loaded(path, "bf16")
    assert kept_types(after) == kept_types(before)
    sizes = float_bytes(after)
    assert TensorProto.FLOAT16 not in sizes
    assert sizes[TensorProto.BFLOAT16] > 0.4 * float_bytes(before)[TensorProto.FLOAT]
    assert not [
        each
        for node in after.graph.node
        for each in node.attribute
        if node.op_type == "Cast" and each.i == TensorProto.FLOAT16
    ]
    pairs = zip(before.graph.initializer, after.graph.initializer, strict=True)
    for was, now in ((numpy_helper.to_array(a), numpy_helper.to_array(b)) for a, b in pairs):
        if was.dtype.kind == "f":
            np.testing.assert_allclose(now.astype(np.float32), was, rtol=2**-8, atol=1e-38)


def test_a_real_policy_in_bfloat16_answers_as_before(models: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    path = models / "policy" / "1" / "model.onnx"
    after = loaded(path, "bf16")
    _sort(after.graph)  # as runtimes do it themselves
    given = rows(SHAPES["policy"])
    wanted = ort.InferenceSession(str(path)).run(None, given)
    found = ReferenceEvaluator(after).run(None, given)
    assert isinstance(found, list)
    # More than float16 could be off: it is bfloat16 indeed.
    assert 2e-3 < distance(found, wanted) < PRECISION_TOLERANCES["bf16"]


def _sort(graph: onnx.GraphProto) -> None:
    known = {each.name for each in (*graph.input, *graph.initializer)} | {""}
    left, ordered = list(graph.node), []
    while left:
        ready = [node for node in left if known.issuperset(node.input)]
        assert ready, "it goes in a circle"
        left = [node for node in left if node not in ready]
        ordered += ready
        known.update(name for node in ready for name in node.output)
    del graph.node[:]
    graph.node.extend(ordered)


def _scaled(by: float) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "by"], ["y"])],
        "scale",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.array(by, np.float32), "by")],
    )
    return onnx.load_from_string(onnx_file(graph))


@pytest.mark.parametrize("number", [3e20, 1e-20])
def test_bfloat16_holds_what_float16_cannot(tmp_path: Path, number: float) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_scaled(number), path)
    (by,) = loaded(path, "bf16").graph.initializer
    assert float(numpy_helper.to_array(by)) == pytest.approx(number, rel=2**-8)
    (by,) = loaded(path, "fp16").graph.initializer
    is_large = number > 1  # too small a number is lost, a large one stays float32
    assert (float(numpy_helper.to_array(by)) == pytest.approx(number, rel=0.5)) == is_large


@pytest.mark.parametrize("is_constant_node", [False, True])
def test_what_takes_a_number_that_float16_cannot_hold_stays_float32(
    tmp_path: Path, *, is_constant_node: bool
) -> None:
    model = _scaled(1e-6)
    large = numpy_helper.from_array(np.array(1e6, np.float32), "large")
    model.graph.node[0].output[0] = "between"
    model.graph.node.append(helper.make_node("Mul", ["between", "large"], ["y"]))
    if is_constant_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["large"], value=large))
    else:
        model.graph.initializer.append(large)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    half = loaded(path, "fp16")
    weights = {each.name: numpy_helper.to_array(each) for each in half.graph.initializer}
    assert {str(each.dtype) for each in weights.values()} == {"float16", "float32"}
    assert weights["large"] == 1e6
    session = ort.InferenceSession(half.SerializeToString())
    (y,) = session.run(None, {"x": np.full((2, 4), 3, np.float32)})
    np.testing.assert_allclose(y, 3, rtol=0.05)


def test_float16_holds_what_is_infinite(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_scaled(-np.inf), path)
    half = loaded(path, "fp16")
    (by,) = (numpy_helper.to_array(each) for each in half.graph.initializer)
    assert by.dtype == np.float16
    assert by == -np.inf


def _branching(by: float, *, deep: bool) -> onnx.ModelProto:
    """A model that multiplies in a branch, or in a branch of a branch."""
    value, node = helper.make_tensor_value_info, helper.make_node
    large = numpy_helper.from_array(np.array(by, np.float32), "by")
    constant, product = node("Constant", [], ["by"], value=large), node("Mul", ["x", "by"], ["y0"])
    nodes, yes = [constant, product], numpy_helper.from_array(np.array(True), "yes")  # noqa: FBT003
    for number in range(1 + deep):
        output = value(f"y{number}", TensorProto.FLOAT, ["N", 4])
        branch = helper.make_graph(nodes, f"branch {number}", [], [output])
        name = "y" if number == deep else f"y{number + 1}"
        both = {"then_branch": branch, "else_branch": branch}
        nodes = [node("If", ["yes"], [name], name=f"if {number}", **both)]
    x, y = (value(name, TensorProto.FLOAT, ["N", 4]) for name in "xy")
    return onnx.load_from_string(onnx_file(helper.make_graph(nodes, "if", [x], [y], [yes])))


@pytest.mark.parametrize("deep", [False, True])
def test_what_float16_cannot_hold_is_refused_where_it_cannot_stay(
    tmp_path: Path, *, deep: bool
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_branching(1e6, deep=deep), path)
    with pytest.raises(EngineError, match=r"If 'if \d' holds 1e\+06 inside, .*: take \"bf16\""):
        loaded(path, "fp16")
    onnx.save(_branching(1e3, deep=deep), path)
    session = ort.InferenceSession(loaded(path, "fp16").SerializeToString())
    (y,) = session.run(None, {"x": np.full((2, 4), 3, np.float32)})
    np.testing.assert_allclose(y, 3e3, rtol=0.01)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_may_lie_beside_the_file(tmp_path: Path, precision: Precision) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load_from_string(mlp(64, 32))
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert float_bytes(loaded(path, precision)) == {
        TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16: (64 + 32) * 16 * 2
    }


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_in_float32_the_file_is_its_own(tmp_path: Path, precision: Precision) -> None:
    with in_precision(tmp_path / "not even there", precision) as made:
        assert made == tmp_path / "not even there"


def test_why_it_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not ONNX")
    with pytest.raises(EngineError, match=r"model\.onnx: cannot be converted to fp16: "):
        loaded(path, "fp16")
    onnx.save(_scaled(2), path)
    half = loaded(path, "fp16")
    onnx.save(half, path)
    with pytest.raises(
        EngineError, match=r"bf16: ValueError: it has float16 already; export it in"
    ):
        loaded(path, "bf16")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExtraMissing, match=r"precision 'fp16': .*pip install 'appliance\[gpu\]'"):
        loaded(path, "fp16")


# ------------------------------------------------------------------------------- verification


def judged(
    root: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, off: float
) -> Verification:
    """A network in float16 on a played GPU, whose answers are off by a part, verified."""
    add_onnx_mlp(
        root, "mlp", f'precision = "{precision}"\nmax_batch = 4\n[warmup]\niterations = 1\n'
    )
    (entry,) = Repository(root).scan()
    with in_precision(entry.directory / "model.onnx", "fp16") as made:
        session = ort.InferenceSession(str(made))

    def compute(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (y,) = session.run(None, inputs)
        return {"y": np.asarray(y) * np.float32(1 + off)}

    gpu = FakeCuda(random.Random(0))
    tensors = [
        Tensor(name, is_input=name == "x", dtype=DType.FLOAT32, shape=(-1, width), axis=0)
        for name, width in (("x", 8), ("y", 4))
    ]

    def load(manifest: Manifest, _: object, __: object) -> TensorRTEngine:
        executor = FakeExecutor(tensors, 4, compute, gpu)
        return TensorRTEngine(executor, gpu, precision=manifest.precision)

    monkeypatch.setitem(ENGINES, "tensorrt", load)  # type: ignore[arg-type]
    path = worker_pb2.ModelPath(
        name=entry.name,
        version=entry.version,
        manifest=entry.manifest,
        manifest_path=str(entry.manifest_path),
        directory=str(entry.directory),
    )
    return verify(
        path,
        rounds=2,
        seed=1,
        recorded=None,
        on_step=lambda _: None,
        device=Device("cuda:0", gpu),
    )


@pytest.mark.parametrize(
    ("precision", "off", "limit", "is_good"),
    [
        ("fp32", 0.01, 0.001, False),
        ("tf32", 0.05, 0.1, True),
        ("tf32", 0.2, 0.1, False),
        ("fp16", 0.0, 0.05, True),
        ("fp16", 0.1, 0.05, False),
        ("bf16", 0.1, 0.2, True),
        ("bf16", 0.3, 0.2, False),
    ],
)
def test_each_precision_has_its_tolerance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    off: float,
    limit: float,
    is_good: bool,  # noqa: FBT001  a parameter
) -> None:
    found = judged(tmp_path, monkeypatch, precision, off)
    assert (found.precision, found.outputs[0].tolerance) == (precision, limit)
    assert found.is_good == is_good
    worst = f"{found.outputs[0].worst:.2g}"
    assert found.problem == (
        "" if is_good else f"output 'y' is off by {worst}; {limit:g} is allowed in {precision}"
    )
