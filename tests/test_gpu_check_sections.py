"""Sections of `python -m tools.gpu_check`: none calls good what is bad, or was not seen."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fake_gpu import FakeCuda
from support.image_plans import needs_compiler

from appliance.wire.pb import worker_pb2
from tools.gpu_check import models
from tools.gpu_check.finding import BAD, GOOD, Finding, Limit
from tools.gpu_check.sections import endless, in_flight, preprocessing
from tools.gpu_check.setting import Setting
from tools.gpu_check.table import table
from tools.worker_client import WorkerClient


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
