"""`python -m tools.gpu_check`: how it judges, and a short run of it on the CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from random import Random
from shutil import which
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from support.fake_driver import FakeDriver, make_libraries, needs_stand_ins
from support.fake_gpu import FACTS, FakeCuda, FakeExecutor
from support.fake_gpu_worker import MAX_BATCH, TENSORS, compute
from support.image_plans import needs_compiler

from appliance.engines.cuda import images
from appliance.engines.cuda.driver import DeviceFound
from appliance.engines.device import Device
from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.registry import ENGINES
from appliance.engines.tensorrt import loading
from appliance.engines.tensorrt.building import Built, Network
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.flavour import DEFAULT_TARGET, RTX, TENSORRT, Flavour
from appliance.engines.tensorrt.order import EngineOrder
from appliance.engines.tensorrt.precision import in_precision
from appliance.engines.tensorrt.tensors import Tensor
from appliance.errors import EngineError
from appliance.models.engine_cache import (
    CACHE_VARIABLE,
    EngineCache,
    EngineRecipe,
    version_sha256,
)
from appliance.models.manifest import Manifest, Precision, parse_manifest
from appliance.models.repository import Repository
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType
from tools.gpu_check import models, program
from tools.gpu_check.bare import OnGpu
from tools.gpu_check.engines import Attempt, attempts, build_all
from tools.gpu_check.finding import (
    BAD,
    GOOD,
    INFORMATION,
    NOT_DONE,
    NOT_JUDGED,
    Finding,
    Limit,
)
from tools.gpu_check.program import SECTIONS, Order
from tools.gpu_check.sections import build, build_for_load, outputs, preprocessing
from tools.gpu_check.sections.endless import ON_CPU, ON_GPU, PTX
from tools.gpu_check.sections.faults import HARMS, REMEDY
from tools.gpu_check.sections.memory import LEAST_BYTES, take_all
from tools.gpu_check.setting import Setting
from tools.gpu_check.table import table
from tools.gpu_check.wheels import SHIPPED, ShippedModel

ROOT = Path(__file__).parent.parent
HAS_GPU = Path("/dev/nvidiactl").exists()
TYPED = SimpleNamespace(STRONGLY_TYPED=1)
FLAVOUR = Flavour(RTX, "1.7.1", SimpleNamespace(NetworkDefinitionCreationFlag=TYPED))
UNTYPED = SimpleNamespace(
    NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0),
    BuilderFlag=SimpleNamespace(FP16=0),
)
OLD_FLAVOUR = Flavour(TENSORRT, "8.5.3", UNTYPED)


def finding(*, on_gpu: bool) -> Finding:
    return Finding(on_gpu=on_gpu, on_figure=lambda _: None)


@pytest.mark.parametrize(
    ("on_gpu", "limit", "verdict"),
    [
        (True, None, INFORMATION),
        (True, Limit("<=", 2), BAD),
        (True, Limit(">=", 2), GOOD),
        (True, Limit("<=", 2, of_gpu=True), BAD),
        (False, Limit("<=", 2), BAD),
        (False, Limit("<=", 2, of_gpu=True), NOT_JUDGED),
    ],
)
def test_a_figure_is_judged_by_its_limit(
    *, on_gpu: bool, limit: Limit | None, verdict: str
) -> None:
    found = finding(on_gpu=on_gpu)
    found.add("waits", 3.00001, "ms", limit)
    assert found.figures[0].verdict == verdict
    state = {BAD: "bad: waits: 3 ms, limit <= 2", INFORMATION: NOT_DONE}.get(verdict, GOOD)
    assert found.state == state


def test_problems_are_bad_and_each_figure_is_told_at_once() -> None:
    told: list[int] = []
    found = Finding(on_gpu=True, on_figure=lambda each: told.append(len(each.figures)))
    found.add("a", 1, "s")
    found.add("b", 2, "s")
    found.expect(len(told) == 2, "all is well")
    assert (found.state, told) == ("good", [1, 2])
    found.expect(len(told) == 3, "the worker was silent")
    assert found.state == "bad: the worker was silent"


def test_who_was_not_there_can_read_the_table() -> None:
    found = finding(on_gpu=True)
    found.add("overhead, p50", 71.5, "us", Limit("<=", 60))
    found.add("a batch", 2000, "us")
    lines = table({"speed": {**found.document(), "seconds": 3}}).splitlines()
    assert lines[1].split() == ["speed", "3", "s", *found.state.split()]
    assert lines[2].split() == ["overhead,", "p50", "71.5", "us", "<=", "60", "bad"]
    assert lines[3].split() == ["a", "batch", "2,000", "us"]


def order(tmp_path: Path, **changed: Any) -> Order:
    options = {"device": "cpu", "models": list(models.MANIFESTS), "words": (), "share": 1.0}
    return Order(results=tmp_path / "results.json", **{**options, **changed})


def test_the_sections_have_no_more_time_than_there_is(tmp_path: Path) -> None:
    on_gpu = order(tmp_path, device="cuda:0")
    new, old = on_gpu.chosen(FLAVOUR), on_gpu.chosen(OLD_FLAVOUR)
    assert on_gpu.chosen(None) == new
    assert new.keys() == SECTIONS.keys() - {"build for load"}
    assert old.keys() == {name for name in SECTIONS if "bf16" not in name}
    assert old["build"].most_s > 1.5 * SECTIONS["build"].most_s
    for chosen in (new, old):
        total_s = program.MODELS_S + sum(each.most_s for each in chosen.values())
        assert total_s <= program.BUDGET_S <= 470


def test_only_what_can_be_run_is_chosen(tmp_path: Path) -> None:
    named = [*order(tmp_path).chosen(FLAVOUR)]
    assert {"build", "build in bf16"} <= {*named}
    assert "build" not in order(tmp_path).chosen(None)
    assert "outputs, graphs on" in named
    on_gpu = {
        "health",
        "preprocessing",
        "outputs, graphs off",
        "outputs in fp16",
        "outputs in bf16",
    }
    assert not on_gpu.intersection(named)
    some = order(tmp_path, words=["speed"], models=["camera"])
    assert list(some.chosen(FLAVOUR)) == ["speed of camera, 4"]


def test_the_engines_that_a_section_needs_are_built_with_it(tmp_path: Path) -> None:
    def chosen(flavour: Flavour, *words: str) -> list[str]:
        return list(order(tmp_path, device="cuda:0", words=words).chosen(flavour))

    assert chosen(FLAVOUR, "in flight") == ["build", "in flight"]
    assert chosen(FLAVOUR, "outputs in bf16") == ["build in bf16", "outputs in bf16"]
    assert chosen(FLAVOUR, "priorities") == ["priorities"]
    assert chosen(OLD_FLAVOUR, "swap") == ["build for load", "swap under load"]
    assert chosen(FLAVOUR, "device") == ["device"]
    first = ["device", "build", "outputs, graphs on"]
    assert chosen(FLAVOUR, "device", "graphs on") == first


@pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX is not installed")
def test_engines_that_are_there_are_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.make(tmp_path / "models", ["policy"], picture_side=64)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "engines"))
    [first] = attempts(tmp_path / "models", is_gpu_here=False)
    monkeypatch.setattr(EngineOrder, "build", None)
    [second] = attempts(tmp_path / "models", is_gpu_here=False)
    assert second.plan == first.plan != b""


def test_models_of_load_are_built_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[list[str]] = []

    def attempted(root: Path, *, is_gpu_here: bool) -> list[Attempt]:
        assert is_gpu_here
        built.append(
            [f"{entry.name} {it}" for entry in Repository(root).scan() for it in entry.versions]
        )
        return [Attempt(name="arm", version="1", target="", seconds=1.0, refusal="no memory")]

    monkeypatch.setattr(build_for_load, "attempts", attempted)
    found = finding(on_gpu=True)
    build_for_load.check(Setting(tmp_path, "cuda:0", 1.0), found)
    assert built == [
        ["critical 1", "long 1", "short 1"],
        ["arm 1", "arm 2"],
        ["policy 1", "vision 1"],
    ]
    assert found.state == "bad: " + "; ".join(["no engine of arm 1: no memory"] * 3)


# -------------------------------------------------------------------------------- for real


def check(results: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.gpu_check", str(results), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=600,
    )


def test_a_short_run_on_the_cpu(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    sections = ("device", "outputs", "swap")
    words = [word for each in sections for word in ("--only", each)]
    words += ["--models", "policy", "--models", "recurrent", "--share", "0.05"]
    ran = check(results, "--engine", "onnxruntime", *words)
    found = json.loads(results.read_text())
    assert ran.returncode == 0, found
    assert found["good"]
    assert [*found["sections"]] == ["device", "outputs, graphs on", "swap under load"]
    outputs = found["sections"]["outputs, graphs on"]
    assert {each["what"] for each in outputs["figures"]} == {
        "policy: action is off by",
        "recurrent: y is off by",
        "recurrent: stateN is off by",
    }
    assert outputs["details"]["policy"]["batches"] == [1, 2, 3, 4, 7, 8, 15, 16]
    swap = found["sections"]["swap under load"]
    assert swap["details"]["activate said"][-1] == "arm: version 2 is served"
    assert [each["lost"] for each in swap["details"]["robots"]] == [0, 0]
    assert "recurrent: stateN is off by" in ran.stdout


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_gpu_that_is_missing_is_told(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    ran = check(results, "--only", "device", "--models", "policy")
    assert ran.returncode == 1
    state = json.loads(results.read_text())["sections"]["device"]["state"]
    assert state.startswith("no GPU: no NVIDIA driver")


def test_a_section_that_runs_out_of_its_time_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(program, "PATIENCE_ON_CPU", 1.0)
    monkeypatch.setattr(program, "SECTIONS", {"swap under load": program.Section(0.2, "swap")})
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert not program.run(order(tmp_path, models=["policy"]))
    [line] = json.loads((tmp_path / "results.json").read_text())["sections"].values()
    assert line["state"] == "stopped: its 0 s were over"


def test_results_are_good_only_when_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[bool] = []

    def by_itself(*_: object) -> dict[str, Any]:
        known.append(json.loads((tmp_path / "results.json").read_text())["good"])
        return {"state": GOOD}

    monkeypatch.setattr(program, "by_itself", by_itself)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert program.run(order(tmp_path, models=["policy"], words=["device", "faults"]))
    assert known == [False, False]
    assert json.loads((tmp_path / "results.json").read_text())["good"]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_models_are_found_in_wheels(tmp_path: Path, name: str) -> None:
    if name == "text_finder" and sys.version_info >= (3, 13):
        pytest.skip("its wheel is for Python up to 3.12")
    assert models.make(tmp_path, [name], picture_side=64) == []
    assert (tmp_path / name / "1" / "model.onnx").stat().st_size > 10_000


def test_a_model_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHIPPED, "voice", ShippedModel("voices", "voices==1", "data/voice.onnx"))
    [missing] = models.make(tmp_path, ["voice"], picture_side=64)
    assert missing == (
        "voice: voices/data/voice.onnx is not installed: pip install --no-deps voices==1"
    )


@pytest.mark.parametrize("name", [name for name in HARMS if "none" not in name])
def test_harmed_engines_are_told_from_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As far as that goes without a GPU: one that is none is TensorRT's to refuse."""
    models.make(tmp_path, ["policy"], picture_side=64)
    directory = tmp_path / "policy" / "1"
    recipe = EngineRecipe(
        model_sha256=version_sha256(directory),
        builder=f"{RTX} 1.7.1",
        target=DEFAULT_TARGET,
        precision="fp32",
        profile={"state": ((1, 14), (16, 14), (16, 14))},
    )
    cache = EngineCache(tmp_path / "engines")
    cache.add(recipe, b"engine" * 100, b"", {"model": "policy", "version": "1"}, "")
    monkeypatch.setitem(os.environ, CACHE_VARIABLE, str(cache.directory))
    flavour = Flavour(RTX, "1.7.1", None)
    facts = SimpleNamespace(name="a GPU", capability="8.9", driver="13.0")
    path = worker_pb2.ModelPath(name="policy", version="1", directory=str(directory))
    monkeypatch.setattr(loading, "find_flavour", lambda: flavour)
    monkeypatch.setattr(loading, "TensorRTExecutor", lambda _, plan, *__, **___: plan)
    monkeypatch.setattr(loading, "TensorRTEngine", lambda plan, *_, **__: plan)

    def load() -> Any:
        gpu: Any = SimpleNamespace(facts=facts)
        return loading.load_tensorrt(parse_manifest("max_batch = 16", ""), path, gpu)

    assert load() == b"engine" * 100
    harm, words = HARMS[name]
    harm(cache.directory / recipe.key)
    with pytest.raises(EngineError) as error:
        load()
    assert re.search(words, str(error.value))
    assert REMEDY in str(error.value)


@pytest.mark.parametrize(
    ("problem", "is_bad"),
    [
        ("", False),
        ("UNSUPPORTED_CC", False),
        ("OLD_CUDA_DRIVER", True),
        ("UNSUPPORTED_CC, OLD_CUDA_DRIVER", True),
    ],
)
def test_what_tensorrt_says_of_an_engine_counts_where_it_cannot_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, *, is_bad: bool
) -> None:
    api = SimpleNamespace(Runtime=lambda _: None, Logger=lambda: None)
    flavour = SimpleNamespace(builder="TensorRT", api=api, problem_of=lambda *_: problem)
    made = Attempt(name="policy", version="1", target="9.0", seconds=1.0, plan=b"plan")
    monkeypatch.setattr(build, "find_flavour", lambda: flavour)
    monkeypatch.setattr(build, "attempts", lambda *_, **__: [made])
    monkeypatch.setattr(Setting, "opened", lambda _: nullcontext())
    setting, found = Setting(tmp_path, "cuda:0", 1.0), finding(on_gpu=True)
    version = setting.root / "policy" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"onnx")
    build.check(setting, found, precision="fp32")
    assert found.state == (f"bad: TensorRT would not run policy: {problem}" if is_bad else GOOD)
    assert found.details["policy"]["problem"] == problem


@pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX is not installed")
def test_what_tensorrt_refuses_to_build_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(tmp_path, "cuda:0", 1.0)
    models.make(setting.root, ["policy", "camera"], picture_side=64)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "engines"))
    here = DeviceFound(0, "a GPU", "9.0", "13.0")
    monkeypatch.setattr("appliance.engines.tensorrt.order.find_device", lambda: here)
    found = finding(on_gpu=True)
    build.check(setting, found, precision="fp32")
    for model in ("policy", "camera"):
        told = found.details[model]
        assert told["target"] == "9.0"
        assert f"no engine of {model}: {told['refused']}" in found.problems
    assert found.state.startswith(BAD)
    with pytest.raises(EngineError, match="no engine of policy: tensorrt_rtx"):
        build_all(setting.root)


@pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda plan: plan, ""),
        (lambda _: b"not an engine", "the engine of policy is none: MALFORMED_ENGINE"),
        (lambda plan: b"\xa5" * len(plan), "the engine of policy is none: MALFORMED_ENGINE"),
        (lambda plan: plan[: len(plan) // 2], "engine of policy, over its weights: 0.5"),
    ],
)
def test_what_is_no_engine_was_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[bytes], bytes], said: str
) -> None:
    right = Network.build

    def harmed(*arguments: Any) -> Built:
        made = right(*arguments)
        return evolve(made, engine=harm(made.engine))

    setting = Setting(tmp_path, "cpu", 1.0)
    models.make(setting.root, ["policy"], picture_side=64)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "engines"))
    monkeypatch.setattr(Network, "build", harmed)
    found = finding(on_gpu=False)
    build.check(setting, found, precision="fp32")
    assert said in found.state
    assert (found.state == GOOD) is (not said)


# ---------------------------------------------------------------------- on a GPU of numpy


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("integrated", [False, True])
def test_the_bare_loop_computes(*, capturable: bool, integrated: bool) -> None:
    gpu = FakeCuda(Random(1), evolve(FACTS, is_integrated=integrated))
    executor = FakeExecutor(TENSORS, MAX_BATCH, compute, gpu)
    executor.capturable = capturable
    engine = TensorRTEngine(executor, gpu)
    engine.prepare((4,))
    loop = OnGpu(engine, 4)
    assert bool(loop.without_graphs) is not capturable
    loop.copy_run_and_wait()
    loop.run_and_wait()
    for copies in (False, True):
        assert loop.kept_busy_ns(3, copies=copies) > 0
    given = {name: place.of_batch(4) for name, place in loop.buffers.inputs.items()}
    for name, wanted in compute(given).items():
        np.testing.assert_allclose(loop.buffers.outputs_[name].of_batch(4), wanted, rtol=1e-5)
    assert np.ptp(given["x"]) > 0
    loop.close()
    engine.close()
    assert gpu.held == []
    gpu.close()


def test_all_memory_is_taken_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeCuda(Random(1))
    left = 5 * LEAST_BYTES + 1000

    def allocate(size: int) -> SimpleNamespace:
        nonlocal left
        if size > left:
            raise EngineError("the GPU has no memory left")
        left -= size
        return SimpleNamespace(address=1, bytes=size)

    monkeypatch.setattr(FakeCuda, "allocate", lambda _, size: allocate(size))
    monkeypatch.setattr(FakeCuda, "free_bytes", lambda _: left)
    some = take_all(gpu, leave=3 * LEAST_BYTES)
    assert [each.bytes for each in some] == [2 * LEAST_BYTES]
    left += 2 * LEAST_BYTES
    taken = take_all(gpu)
    assert [each.bytes for each in taken] == [4 * LEAST_BYTES, LEAST_BYTES]
    assert left == 1000


def test_the_endless_model_is_python() -> None:
    for source in (ON_CPU, ON_GPU.format(ptx=PTX)):
        compile(source, "stuck.py", "exec")
    assert "bra AGAIN" in ON_GPU.format(ptx=PTX)


@pytest.mark.skipif(which("ptxas") is None, reason="CUDA's ptxas is not installed")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_the_endless_kernel_can_be_assembled(architecture: str, tmp_path: Path) -> None:
    source = tmp_path / "endless.ptx"
    source.write_text(PTX)
    command = ["ptxas", f"--gpu-name={architecture}", "-o", tmp_path / "endless.cubin", source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


@needs_compiler
@pytest.mark.parametrize("is_integrated", [False, True])
def test_images_made_both_ways_are_compared(*, is_integrated: bool) -> None:
    gpu = FakeCuda(Random(1), facts=evolve(FACTS, is_integrated=is_integrated))
    found = finding(on_gpu=False)
    preprocessing.compare(gpu, found, 1)
    assert found.state == GOOD
    named = {each.what: each for each in found.figures}
    off = [named[f"{name}: off by"] for name in preprocessing.PLANS]
    assert [each.verdict for each in off] == [GOOD] * 4
    assert [str(each.limit) for each in off] == ["<= 1.5", "<= 1.5", "<= 1.5", "<= 0"]
    assert named["8 of 640 x 480, kernel over CPU"].verdict == NOT_JUDGED
    gpu.close()


@needs_compiler
def test_a_kernel_that_is_wrong_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    right = images.kernel_text()
    wrong = right.replace("+ plan.shift[c]", "- plan.shift[c]")
    assert wrong != right
    monkeypatch.setattr(preprocessing, "kernel_text", lambda: wrong)
    found = finding(on_gpu=False)
    preprocessing.compare(FakeCuda(Random(1)), found, 1)
    assert found.state.startswith("bad: float32, planes: off by: ")
    assert {each.what for each in found.figures if each.verdict == BAD} == {
        f"{name}: off by" for name in preprocessing.PLANS if name != "uint8"
    }


def compared_in_half(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    rows: dict[str, tuple[int, ...]],
    precision: Precision,
    off: float = 0.0,
) -> Finding:
    """A model in float16, by ONNX Runtime on a GPU of numpy, whatever it is said to compute in.

    Args:
        rows: Of the input, then of the output.
        off: Its answers are off by this part.
    """
    models.make(root, [name], picture_side=64)
    [entry] = Repository(root).scan()
    with in_precision(entry.directory / "model.onnx", "fp16") as made:
        half = OnnxRuntimeEngine(made.parent)
    gpu = FakeCuda(Random(1))
    tensors = [
        Tensor(each, is_input=not index, dtype=DType.FLOAT32, shape=(-1, *row), axis=0)
        for index, (each, row) in enumerate(rows.items())
    ]

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        return {each: np.asarray(y) * np.float32(1 + off) for each, y in half.run(inputs).items()}

    def load(manifest: Manifest, _: object, __: object) -> TensorRTEngine:
        most = manifest.max_batch or 1
        executor = FakeExecutor(tensors, most, run, gpu)
        return TensorRTEngine(executor, gpu, precision=manifest.precision)

    monkeypatch.setitem(ENGINES, "tensorrt", load)  # type: ignore[arg-type]
    found = finding(on_gpu=True)
    lines = f'precision = "{precision}"\n' + outputs.fewer_sizes(entry, precision)
    outputs.compare(found, entry, Device("cuda:0", gpu), lines)
    gpu.close()
    return found


POLICY = {"state": (14,), "action": (112,)}
TEXT_FINDER = {"x": (3, 320, 320), "sigmoid_0.tmp_0": (1, 320, 320)}


@pytest.mark.parametrize(("precision", "limit"), [("fp16", "<= 0.05"), ("bf16", "<= 0.2")])
@pytest.mark.parametrize(("off", "verdict"), [(0.0, GOOD), (0.3, BAD)])
def test_half_precision_has_its_own_tolerance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    limit: str,
    off: float,
    verdict: str,
) -> None:
    found = compared_in_half(tmp_path, monkeypatch, "policy", POLICY, precision, off)
    [figure] = found.figures
    assert (figure.verdict, str(figure.limit)) == (verdict, limit)
    assert figure.value > 1e-5
    assert found.details["policy"]["computes in"] == precision


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="its wheel is for Python up to 3.12")
def test_a_model_with_a_number_that_float16_cannot_hold_is_good_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared_in_half(tmp_path, monkeypatch, "text_finder", TEXT_FINDER, "fp16")
    assert found.state == GOOD
    [figure] = found.figures
    assert figure.value > 1e-5


def test_in_half_precision_large_models_run_in_fewer_sizes(tmp_path: Path) -> None:
    models.make(tmp_path, ["policy", "text_finder"], picture_side=64)
    policy, finder = Repository(tmp_path).scan()
    assert outputs.fewer_sizes(policy, "fp16") == ""
    assert outputs.fewer_sizes(finder, "fp32") == ""
    lines = outputs.fewer_sizes(finder, "bf16")
    assert parse_manifest(lines + finder.manifest, "").buckets == (4,)


READ_HEALTH = """
import json, os, sys
from pathlib import Path
from random import Random

from attrs import evolve
from support.fake_driver import FakeDriver
from support.fake_gpu import FACTS, FakeCuda

from tools.gpu_check.finding import Finding
from tools.gpu_check.sections import health

libraries, file, name, used = sys.argv[1:]
driver = FakeDriver(Path(libraries), Path(file))
driver.says()


class Gpu(FakeCuda):
    def allocate(self, size):
        driver.says(memory_used=(40 << 30) + round(size * float(used)))
        return super().allocate(size)


facts = evolve(FACTS, name=name, memory_bytes=139 << 30)
found = Finding(on_gpu=True, on_figure=lambda _: None)
health.judge("cuda:0", Gpu(Random(1), facts=facts), found, 5)
print(json.dumps(found.document()))
"""


@needs_stand_ins
@pytest.mark.parametrize(
    ("name", "used", "state"),
    [
        ("Fake GPU 0", 1.0, "good"),
        ("Fake GPU 1", 1.0, "bad: the GPU is 'Fake GPU 0' to NVML, and 'Fake GPU 1' to CUDA"),
        ("Fake GPU 0", 0.0, "bad: 1024 MiB taken by CUDA, off by: 1 of it, limit <= 0.1"),
    ],
)
def test_what_is_told_of_a_gpu_is_judged(
    tmp_path: Path, name: str, used: float, state: str
) -> None:
    driver = FakeDriver(make_libraries(tmp_path), tmp_path / "says")
    ran = subprocess.run(
        [sys.executable, "-c", READ_HEALTH, str(tmp_path), str(driver.file), name, str(used)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **driver.environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["state"] == state
    assert found["details"]["at"] == "0000:3b:00.0"
    assert found["details"]["health"]["clock_mhz"] == 1755
    named = {each["what"]: each["value"] for each in found["figures"]}
    assert named["clock over the highest"] == pytest.approx(1755 / 1980, rel=1e-3)
    assert named["all memory, off from CUDA's by"] == pytest.approx(1 / 139, rel=1e-3)
    assert 0 < named["a reading, p50"] <= named["a reading, p99"]
