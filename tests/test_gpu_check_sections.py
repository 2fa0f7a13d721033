"""Sections of `python -m tools.gpu_check`: none calls good what is bad, or was not seen."""

from __future__ import annotations

import json
import weakref
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fake_gpu import FakeCuda
from support.image_plans import needs_compiler

from appliance.errors import EngineError
from appliance.wire.pb import worker_pb2
from tools.gpu_check import models
from tools.gpu_check.finding import BAD, GOOD, Finding, Limit
from tools.gpu_check.sections import endless, faults, in_flight, memory, preprocessing
from tools.gpu_check.setting import Failed, Setting
from tools.gpu_check.table import table
from tools.worker_client import WorkerClient, WorkerGone


def finding(*, on_gpu: bool = True) -> Finding:
    return Finding(on_gpu=on_gpu, on_figure=lambda _: None)


def setting_of(tmp_path: Path, *names: str, share: float = 0.05) -> Setting:
    setting = Setting(tmp_path, "cpu", share)
    models.make(setting.root, names, picture_side=64)
    return setting


# ------------------------------------------------------------------------------- figures


def test_a_figure_is_judged_before_it_is_rounded() -> None:
    found = finding()
    found.add("heard after", 20.00009, "s", Limit("<=", 20))
    assert found.state == "bad: heard after: 20.00009 s, limit <= 20"
    assert found.document()["figures"][0]["value"] == 20.00009


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("limit", [Limit("<=", 1), Limit(">=", 1)])
def test_what_is_no_number_is_bad_and_json_has_none(value: float, limit: Limit) -> None:
    found = finding()
    found.add("off by", value, "", limit)
    found.details["rounds"] = {"tail": [1.0, value]}
    document = found.document()
    assert document["state"] == f"bad: off by: {value:g} , limit {limit}"
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["figures"][0]["value"] is None
    assert document["details"]["rounds"]["tail"] == [1.0, None]
    assert table({"outputs": document}).splitlines()[2].split()[:3] == ["off", "by", "none"]


# ------------------------------------------------------------------------------- answers


def test_answers_that_are_no_numbers_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = WorkerClient.output

    def wrong(it: WorkerClient, done: worker_pb2.Done, key: str, rows: int) -> NDArray[Any]:
        answer = right(it, done, key, rows).copy()
        answer[-1, -1] = np.nan
        return answer

    setting = setting_of(tmp_path, "policy")
    found = finding()
    in_flight.check(setting, found)
    assert found.state == GOOD
    monkeypatch.setattr(WorkerClient, "output", wrong)
    found = finding()
    in_flight.check(setting, found)
    assert found.state.startswith("bad: answers of 20 batches are off by: inf of the largest")


@needs_compiler
def test_images_that_are_no_numbers_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    right, made = preprocessing._Both._fetched, 0

    def fetched(both: Any) -> NDArray[Any]:
        nonlocal made
        found = right(both)
        made += 1
        if made == 2 and found.dtype.kind == "f":  # of the first plan
            found.flat[0] = np.nan
        return found

    monkeypatch.setattr(preprocessing._Both, "_fetched", fetched)
    found = finding(on_gpu=False)
    preprocessing.compare(FakeCuda(Random(1)), found, 1)
    assert found.state.startswith("bad: float32, planes: off by: nan")
    assert [each.verdict for each in found.figures].count(BAD) == 1


@pytest.mark.parametrize("other_is_served", [True, False])
def test_the_other_model_has_to_answer_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, other_is_served: bool
) -> None:
    refused = SimpleNamespace(
        ok=False, status=SimpleNamespace(name="WORKER_LOST"), message="the worker was killed"
    )
    good = SimpleNamespace(ok=True, status=SimpleNamespace(name="OK"), message="")
    restarts = iter(range(10))

    def model(name: str, **_: object) -> SimpleNamespace:
        answer = good if name != "stuck" and other_is_served else refused
        return SimpleNamespace(observe=lambda **_: None, wait=lambda _: answer)

    @contextmanager
    def connection(*_: object, **__: object) -> Generator[SimpleNamespace, None, None]:
        yield SimpleNamespace(model=model)

    @contextmanager
    def serving(_: Path, __: str) -> Generator[SimpleNamespace, None, None]:
        def status() -> dict[str, Any]:
            return {"workers": [{"restarts": next(restarts), "pid": 7}]}

        yield SimpleNamespace(address="", status=status)

    monkeypatch.setattr(endless, "serving", serving)
    monkeypatch.setattr(endless, "Connection", connection)
    monkeypatch.setattr(endless, "MOST_S", 0.2)
    found = finding()
    endless.check(setting_of(tmp_path, "policy"), found)
    said = "the other model answered last: WORKER_LOST: the worker was killed"
    assert found.state.startswith(GOOD if other_is_served else f"bad: {said}; ")


# -------------------------------------------------------------------------------- memory

MIB = 1 << 20
NEEDED = {"policy": 300 * MIB, "resnet": 200 * MIB}


class Taken(SimpleNamespace):
    """Memory, which is given back when nobody has it any more."""


class MemoryOnly:
    """A GPU that has nothing but memory, and workers that take some of it."""

    def __init__(self, refusal: str) -> None:
        self.free = 4096 * MIB
        self.refusal = refusal
        self.seen: list[tuple[tuple[str, ...], int]] = []
        self.cuda = self

    def free_bytes(self) -> int:
        return self.free

    def allocate(self, size: int) -> SimpleNamespace:
        if size > self.free:
            raise EngineError("the GPU has no memory left")
        self.free -= size
        taken = Taken(bytes=size)
        weakref.finalize(taken, self.give_back, size)
        return taken

    def give_back(self, size: int) -> None:
        self.free += size

    @contextmanager
    def worker(self) -> Generator[SimpleNamespace, None, None]:
        failed: dict[str, str] = {}
        held = 0

        def load(root: Path, _: str) -> None:
            nonlocal held
            names = tuple(sorted(each.name for each in root.iterdir()))
            self.seen.append((names, self.free))
            for name in names:
                if NEEDED[name] <= self.free:
                    held += NEEDED[name]
                    self.free -= NEEDED[name]
                elif self.refusal.startswith("the worker has gone"):
                    raise WorkerGone(self.refusal)
                elif self.refusal:
                    failed[name] = self.refusal

        yield SimpleNamespace(
            load=load,
            failed=failed,
            ready={},
            rows=lambda *_: [],
            output_block=lambda *_: None,
            stage=lambda *_, **__: 1,
            done=lambda: SimpleNamespace(error=""),
        )
        self.free += held


@pytest.mark.parametrize(
    ("refusal", "state"),
    [
        ("the GPU has no memory left: CUDA_ERROR_OUT_OF_MEMORY", "good"),
        ("no engine of resnet was built", "bad: a model for which there is no memory: no engine"),
        ("", "bad: a model for which there is no memory: it was loaded"),
        ("the worker has gone: -6: terminate called after an instance of 'std::bad_alloc'", ""),
    ],
)
def test_a_model_for_which_there_is_no_memory_is_refused_by_a_worker_that_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, state: str
) -> None:
    gpu = MemoryOnly(refusal)
    monkeypatch.setattr(Setting, "opened", lambda _: nullcontext(gpu))
    monkeypatch.setattr(Setting, "empty_worker", lambda *_: gpu.worker())
    setting = Setting(tmp_path, "cuda:0", 1.0)
    models.make(setting.root, ["policy"], picture_side=64)
    (setting.root / "resnet").mkdir()
    found = finding()
    with nullcontext() if state else pytest.raises(WorkerGone):
        memory.check(setting, found)
    assert found.state.startswith(state or GOOD)
    assert gpu.seen[0] == (("policy",), 4096 * MIB)
    names, free = gpu.seen[1]
    assert names == ("policy", "resnet")
    assert NEEDED["policy"] + 32 * MIB <= free < NEEDED["policy"] + 34 * MIB


def test_memory_runs_out_on_the_cpu(tmp_path: Path) -> None:
    found = finding(on_gpu=False)
    memory.check(setting_of(tmp_path, "policy", "resnet"), found)
    assert found.state == GOOD


# -------------------------------------------------------------------------------- faults

NO_ENGINE = "policy: no engine of policy 1 was built; run: appliance models build policy 1"
NONE = "tensorrt 10.3 cannot load this engine: magic tag; build it anew: appliance models build"


@pytest.mark.parametrize(
    ("error", "is_good"),
    [
        (Failed(NONE), True),
        (Failed(NONE.replace("cannot load", "does not run")), True),
        (Failed(NO_ENGINE), False),
        (WorkerGone(f"the worker has gone: -11: {NONE}"), False),
        (None, False),
    ],
)
def test_another_refusal_is_none_of_an_engine_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, *, is_good: bool
) -> None:
    @contextmanager
    def worker(*_: object, **__: object) -> Generator[None, None, None]:
        if error is not None:
            raise error
        yield

    monkeypatch.setattr(Setting, "worker", worker)
    found = finding()
    words = (faults.HARMS["an engine that is none"][1], faults.REMEDY)
    faults.expect_refusal(
        Setting(tmp_path, "cuda:0", 1.0), found, "none", tmp_path, tmp_path, words
    )
    assert (found.state == GOOD) is is_good
