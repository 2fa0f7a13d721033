"""Engines are built of real models by the real TensorRT for RTX, which needs no GPU for that."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.real_models import REAL_MODELS, add_real_models
from support.repository import add_onnx_mlp, add_onnx_model

from appliance.cli import main
from appliance.engines.cuda.driver import DeviceFound, find_device
from appliance.engines.tensorrt.building import Built, Network
from appliance.engines.tensorrt.flavour import DEFAULT_TARGET, RTX, TENSORRT, Flavour, find_flavour
from appliance.engines.tensorrt.log import error_log
from appliance.engines.tensorrt.progress import BuildProgress
from appliance.errors import DeviceMissing, EngineError, ExtraMissing
from appliance.models.manifest import Precision

Capture = pytest.CaptureFixture[str]
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed (x86_64 only)"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_real_models(root)
    return root


def build(root: Path, cache: Path, *words: str) -> int:
    return main(["models", "build", *words, "--models", str(root), "--cache", str(cache)])


def told(root: Path, cache: Path, capsys: Capture, *words: str) -> dict[str, object]:
    assert build(root, cache, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def built(root: Path, cache: Path, capsys: Capture, model: str, *words: str) -> dict[str, object]:
    """What is told of an engine that TensorRT takes for one, and that holds the model's weights."""
    document = told(root, cache, capsys, model, *words)
    expect_engine(Path(str(document["path"])).read_bytes(), next(root.glob(f"{model}/*/*.onnx")))
    return document


def expect_engine(plan: bytes, model: Path) -> None:
    flavour = find_flavour()
    problem = flavour.problem_of(flavour.api.Runtime(error_log(flavour.api)), plan)
    assert "MALFORMED_ENGINE" not in problem
    assert "VERSION_MISMATCH" not in problem
    assert len(plan) > 0.4 * model.stat().st_size


# ------------------------------------------------------------------------------------ for real


@needs_rtx
@pytest.mark.parametrize("model", REAL_MODELS)
def test_a_real_model_is_built_once(
    models: Path, tmp_path: Path, capsys: Capture, model: str
) -> None:
    first = built(models, tmp_path, capsys, model)
    path = Path(str(first["path"]))
    assert path.stat().st_size == first["bytes"]
    written = path.stat().st_mtime_ns
    assert build(models, tmp_path, model) == 0
    assert "is there already" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == written


@needs_rtx
@pytest.mark.parametrize("plan", [b"not an engine", b"\xa5" * 5_000_000, b""])
def test_what_is_no_engine_is_not_taken_for_one(models: Path, plan: bytes) -> None:
    with pytest.raises(AssertionError):
        expect_engine(plan, next(models.glob("policy/*/*.onnx")))


@needs_rtx
def test_an_engine_takes_batches_up_to_the_largest(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    recipe = built(models, tmp_path, capsys, "text_direction")["recipe"]
    assert isinstance(recipe, dict)
    assert recipe["profile"] == {"x": [[1, 3, 48, 192], [8, 3, 48, 192], [8, 3, 48, 192]]}
    recipe = built(models, tmp_path, capsys, "voice")["recipe"]
    assert isinstance(recipe, dict)
    assert recipe["profile"] == {"input": [[1, 576]] * 3, "state": [[2, 1, 128]] * 3}


@needs_rtx
@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
@pytest.mark.parametrize("model", REAL_MODELS)
def test_a_real_model_is_built_in_another_precision(
    models: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    precision: str,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "made"))
    (tmp_path / "made").mkdir()
    root, cache = tmp_path / "models", tmp_path / "cache"
    shutil.copytree(models / model, root / model)
    whole = built(root, cache, capsys, model)
    manifest = root / model / "model.toml"
    manifest.write_text(f'precision = "{precision}"\n{manifest.read_text()}')
    other = built(root, cache, capsys, model)
    assert other["path"] != whole["path"]
    recipe = other["recipe"]
    assert isinstance(recipe, dict)
    assert recipe["precision"] == precision
    assert build(root, cache, model) == 0
    assert (
        f"is there already\n  in {precision} for 8.6 and 8.9 and from 12.0 on"
        in capsys.readouterr().out
    )
    assert list((tmp_path / "made").iterdir()) == []


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_float32_is_multiplied_as_the_manifest_says(precision: Precision) -> None:
    flavour = find_flavour()
    builder = flavour.api.Builder(flavour.api.Logger())
    config = builder.create_builder_config()
    flavour.prepare(config, (), precision)
    assert config.get_flag(flavour.api.BuilderFlag.TF32) == (precision == "tf32")


@needs_rtx
def test_for_which_gpus(models: Path, tmp_path: Path, capsys: Capture) -> None:
    ways = [(), ("--capability", "8.9"), ("--capability", "8.9", "--capability", "8.6")]
    recipes = [built(models, tmp_path, capsys, "policy", *words)["recipe"] for words in ways]
    targets = [recipe["target"] for recipe in recipes if isinstance(recipe, dict)]
    assert targets == [DEFAULT_TARGET, "8.9", "8.6,8.9"]
    for words in (("1.0",), ("8.9", "--capability", "current")):
        assert build(models, tmp_path, "policy", "--capability", *words) == 2
        assert "8.9, 12.0, 12.1, or for 'current' alone" in capsys.readouterr().err


def _here(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    found = DeviceFound(0, "a GPU", capability, "13.0")
    monkeypatch.setattr("appliance.engines.tensorrt.order.find_device", lambda: found)


@needs_rtx
def test_for_the_gpu_that_is_here(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("policy", "--capability", "current")
    assert build(models, tmp_path, *words) == 2
    assert re.search("no NVIDIA driver|finds no GPU", capsys.readouterr().err)
    _here(monkeypatch, "8.9")
    recipe = built(models, tmp_path, capsys, *words)["recipe"]
    assert isinstance(recipe, dict)
    assert recipe["target"] == "8.9"


@needs_rtx
def test_a_gpu_without_a_name_is_tried_and_tensorrts_refusal_told(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused it is, as there is no GPU; what would be said of a real one is not known."""
    _here(monkeypatch, "9.0")
    assert build(models, tmp_path, "policy", "--capability", "current") == 2
    said = capsys.readouterr().err
    assert "12.1 as the compute capabilities that it takes; here is 9.0, and it says: Tens" in said
    assert "install TensorRT in its place (the package tensorrt)" in said
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Network, "build", lambda *_: Built(b"engine", b""))
    recipe = told(models, tmp_path, capsys, "policy", "--capability", "current")["recipe"]
    assert isinstance(recipe, dict)
    assert recipe["target"] == "9.0"


@needs_rtx
def test_what_tensorrt_does_not_know_is_named(tmp_path: Path, capsys: Capture) -> None:
    from onnx import TensorProto, helper

    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")
    ]
    node = helper.make_node("Wobble", ["x"], ["y"], name="wobbling", domain="robots")
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("robots", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    add_onnx_model(tmp_path / "models", "odd", model.SerializeToString())
    assert build(tmp_path / "models", tmp_path / "cache", "odd") == 2
    said = capsys.readouterr().err
    assert "operator Wobble" in said
    assert "wobbling" in said
    assert not (tmp_path / "cache").exists()


@needs_rtx
@pytest.mark.parametrize(
    ("content", "manifest", "told"),
    [
        (b"not ONNX", "", "TensorRT cannot build it"),
        (b"", "", "TensorRT cannot build it"),
        (None, "[warmup]\nshapes = { x = [0] }", "warmup"),
    ],
)
def test_what_cannot_be_built_is_said(
    tmp_path: Path, capsys: Capture, content: bytes | None, manifest: str, told: str
) -> None:
    if content is None:
        add_onnx_mlp(tmp_path / "models", "broken", manifest)
    else:
        add_onnx_model(tmp_path / "models", "broken", content, manifest)
    assert build(tmp_path / "models", tmp_path / "cache", "broken") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@needs_rtx
def test_an_open_dimension_has_to_be_said(models: Path, tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "models"
    shutil.copytree(models / "text_finder", root / "text_finder")
    (root / "text_finder" / "model.toml").write_text("max_batch = 2\noutput_bytes = 409600\n")
    assert build(root, tmp_path / "cache", "text_finder") == 2
    said = capsys.readouterr().err
    assert "model.toml: warmup.shapes.x: is missing" in said


@needs_rtx
def test_engines_of_versions_that_are_gone_are_collected(tmp_path: Path, capsys: Capture) -> None:
    root, cache = tmp_path / "models", tmp_path / "cache"
    add_onnx_mlp(root, "mlp")
    add_onnx_mlp(root, "mlp", seed=1, version="2")
    kept = [built(root, cache, capsys, "mlp", version)["path"] for version in ("1", "2")]
    shutil.rmtree(root / "mlp" / "1")
    assert main(["models", "gc", "--models", str(root), "--cache", str(cache)]) == 0
    assert "1 engines kept" in capsys.readouterr().out
    assert [Path(str(path)).exists() for path in kept] == [False, True]


@needs_rtx
def test_an_interrupted_build_leaves_nothing_and_the_next_one_builds(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    @contextmanager
    def interrupting(_: str) -> Generator[Callable[[str, float], None], None, None]:
        def on_progress(step: str, _: float) -> None:
            if not steps:
                signal.raise_signal(signal.SIGINT)
            steps.append(step)

        yield on_progress

    with monkeypatch.context() as patched:
        patched.setattr("appliance.cli.building._bar", interrupting)
        assert build(models, tmp_path, "text_finder") == 130
    assert steps
    assert list(tmp_path.iterdir()) == []
    assert build(models, tmp_path, "text_finder") == 0


# -------------------------------------------------------------------------------- what is there


def _api(version: str) -> ModuleType:
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"tensorrt": "10.3.0"}, ("tensorrt", "10.3.0")),
        ({"tensorrt": "11.4.1"}, ("tensorrt", "11.4.1")),
        ({"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}, ("tensorrt_rtx", "1.7.1.116")),
    ],
)
def test_whichever_there_is(there: dict[str, str], found: tuple[str, str]) -> None:
    def load(package: str) -> ModuleType:
        if package not in there:
            raise ModuleNotFoundError(package)
        return _api(there[package])

    flavour = find_flavour(load)
    assert (flavour.package, flavour.version) == found


@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0", "12.1", "13.0"])
def test_gpus_that_an_engine_is_for_by_default(capability: str) -> None:
    flavour = Flavour(RTX, "1.7.1", None)
    assert flavour.targets_of("a GPU", capability) == (capability, DEFAULT_TARGET)
    assert flavour.build_options(capability) == ""


@needs_rtx
def test_gpus_that_have_to_be_named() -> None:
    flavour = find_flavour()
    for capability in ("7.5", "8.0"):
        assert flavour.targets_of("a GPU", capability) == (capability,)
        assert flavour.build_options(capability) == f" --capability {capability}"
    for capability in ("9.0", "10.0", "8.7"):
        assert flavour.targets_of("a GPU", capability) == (capability,)
        assert flavour.build_options(capability) == " --capability current"
    assert Flavour(TENSORRT, "10.3.0", None).build_options("9.0") == ""


def test_none_is_said_with_what_to_install() -> None:
    def load(package: str) -> ModuleType:
        raise ModuleNotFoundError(package)

    with pytest.raises(ExtraMissing, match=r"pip install 'appliance\[gpu\]'"):
        find_flavour(load)


def test_one_that_is_too_old_or_broken_is_said() -> None:
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1\.3\.0 is too old: 1\.4"):
        find_flavour(lambda _: _api("1.3.0"))

    def broken(_: str) -> ModuleType:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    with pytest.raises(EngineError, match=r"cannot be used: libnvinfer\.so\.10"):
        find_flavour(broken)


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")  # noqa: PTH110
def test_no_driver_is_said() -> None:
    with pytest.raises(DeviceMissing, match=r"no NVIDIA driver|finds no GPU"):
        find_device()


@pytest.mark.parametrize(("code", "count"), [(100, 0), (0, 0)])
def test_a_driver_without_a_gpu_is_said(
    monkeypatch: pytest.MonkeyPatch, code: int, count: int
) -> None:
    driver = SimpleNamespace(cuInit=lambda _: code, cuDeviceGetCount=lambda _: count)
    monkeypatch.setattr("ctypes.CDLL", lambda _: driver)
    with pytest.raises(DeviceMissing, match=f"finds no GPU .CUDA error {code}"):
        find_device()


# ------------------------------------------------------------------------------------- progress


def test_a_step_that_holds_a_phase_is_as_far_as_that() -> None:
    progress = BuildProgress()
    progress.started("whole", None, 4)
    progress.stepped("whole", 0)
    assert progress.fraction == 0.25
    progress.started("part", "whole", 2)
    progress.stepped("part", 0)
    assert (progress.fraction, progress.step) == (0.375, "part")
    progress.finished("part")
    assert (progress.fraction, progress.step) == (0.5, "whole")
    progress.finished("whole")
    assert (progress.fraction, progress.step) == (1.0, "")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["started", "stepped", "finished"]),
            st.sampled_from("abc"),
            st.integers(-1, 9),
        ),
        max_size=60,
    )
)
def test_whatever_is_reported_it_only_grows(reports: list[tuple[str, str, int]]) -> None:
    progress = BuildProgress()
    seen = [0.0]
    for kind, name, number in reports:
        if kind == "started":
            progress.started(name, None, number)
        elif kind == "stepped":
            progress.stepped(name, number)
        else:
            progress.finished(name)
        seen.append(progress.fraction)
    assert seen == sorted(seen)
    assert seen[-1] <= 1.0
