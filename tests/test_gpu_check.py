"""`python -m tools.gpu_check`: how it judges, and a short run of it on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from support.fake_gpu import FACTS, FakeCuda, FakeExecutor
from support.fake_gpu_worker import MAX_BATCH, TENSORS, compute

from appliance.engines.tensorrt import loading
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.flavour import DEFAULT_TARGET, RTX, Flavour
from appliance.errors import EngineError
from appliance.models.engine_cache import (
    CACHE_VARIABLE,
    EngineCache,
    EngineRecipe,
    version_sha256,
)
from appliance.models.manifest import parse_manifest
from appliance.wire.pb import worker_pb2
from tools.gpu_check import models, program
from tools.gpu_check.bare import OnGpu
from tools.gpu_check.finding import BAD, GOOD, INFORMATION, NOT_JUDGED, Finding, Limit
from tools.gpu_check.program import SECTIONS, Order
from tools.gpu_check.sections.endless import ON_CPU, ON_GPU, PTX
from tools.gpu_check.sections.faults import HARMS, REMEDY
from tools.gpu_check.sections.memory import LEAST_BYTES, take_all
from tools.gpu_check.table import table
from tools.gpu_check.wheels import SHIPPED, ShippedModel

ROOT = Path(__file__).parent.parent
HAS_GPU = Path("/dev/nvidiactl").exists()


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
    assert found.state == ("bad: waits: 3 ms, limit <= 2" if verdict == BAD else "good")


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
    chosen = order(tmp_path, device="cuda:0").chosen()
    assert chosen == SECTIONS
    # They end sooner; one that does not leaves those behind it, which matter less, without time.
    assert max(each.most_s for each in chosen.values()) < program.BUDGET_S / 4
    assert program.BUDGET_S < 8 * 60


def test_only_what_can_be_run_is_chosen(tmp_path: Path) -> None:
    assert "outputs, graphs off" not in order(tmp_path).chosen()
    assert list(order(tmp_path, words=["speed"], models=["camera"]).chosen()) == [
        "speed of camera, 4"
    ]


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
    sections = ("device", "outputs", "in flight", "swap")
    words = [word for each in sections for word in ("--only", each)]
    words += ["--models", "policy", "--models", "recurrent", "--share", "0.05"]
    ran = check(results, "--engine", "onnxruntime", *words)
    found = json.loads(results.read_text())
    assert ran.returncode == 0, found
    assert found["good"]
    assert [*found["sections"]] == ["device", "outputs, graphs on", "in flight", "swap under load"]
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
    assert "answers of 20 batches are off by" in ran.stdout


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
    monkeypatch.setattr(program, "SECTIONS", {"swap": program.Section(0.2, "swap")})
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert not program.run(order(tmp_path, models=["policy"]))
    [line] = json.loads((tmp_path / "results.json").read_text())["sections"].values()
    assert line["state"] == "stopped: its 0 s were over"


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
    cache.add(recipe, b"engine" * 100, b"", {"model": "policy", "version": "1"})
    monkeypatch.setitem(os.environ, CACHE_VARIABLE, str(cache.directory))
    flavour = Flavour(RTX, "1.7.1", None)
    facts = SimpleNamespace(name="a GPU", capability="8.9")
    path = worker_pb2.ModelPath(name="policy", version="1", directory=str(directory))

    def load() -> bytes:
        return loading._plan(
            flavour, parse_manifest("max_batch = 16", ""), path, SimpleNamespace(facts=facts)
        )

    assert load() == b"engine" * 100
    harm, words = HARMS[name]
    harm(cache.directory / recipe.key)
    with pytest.raises(EngineError) as error:
        load()
    assert words in str(error.value)
    assert REMEDY in str(error.value)


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
    assert loop.kept_busy_ns(3) > 0
    given = {name: place.of_batch(4) for name, place in loop.buffers.inputs.items()}
    for name, wanted in compute(given).items():
        np.testing.assert_allclose(loop.buffers.outputs_[name].of_batch(4), wanted, rtol=1e-5)
    assert np.ptp(given["x"]) > 0
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
    taken = take_all(gpu)
    assert [each.bytes for each in taken] == [4 * LEAST_BYTES, LEAST_BYTES]
    assert left == 1000


def test_the_endless_model_is_python() -> None:
    for source in (ON_CPU, ON_GPU.format(ptx=PTX)):
        compile(source, "stuck.py", "exec")
    assert "bra AGAIN" in ON_GPU.format(ptx=PTX)
