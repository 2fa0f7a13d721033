"""Sections of `python -m tools.gpu_check`: none calls good what is bad, or was not seen."""

from __future__ import annotations

import json
import weakref
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import slow_gatherer
from support.fake_gpu import FakeCuda
from support.image_plans import needs_compiler

from appliance.engines.tensorrt.engine import SWITCHED_OFF, WITHOUT_GRAPHS
from appliance.errors import EngineError, ExtraMissing
from appliance.wire.pb import worker_pb2
from benchmarks.scheduling import idle, real
from tools.gpu_check import models
from tools.gpu_check.finding import BAD, GOOD, NOT_DONE, Finding, Limit
from tools.gpu_check.sections import (
    device,
    endless,
    faults,
    fleet,
    in_flight,
    memory,
    outputs,
    preprocessing,
    priorities,
    speed,
    swap,
)
from tools.gpu_check.served import config_of, graphless, serving
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


# -------------------------------------------------------------------------------- device


@pytest.mark.parametrize("missing", ["find_flavour", "compile_text"])
def test_without_tensorrt_or_nvrtc_not_all_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def cannot(*_: object) -> None:
        raise ExtraMissing(f"{missing} has nothing to use")

    gpu = FakeCuda(Random(1))
    monkeypatch.setattr(Setting, "opened", lambda _: nullcontext(SimpleNamespace(cuda=gpu)))
    monkeypatch.setattr(device, "NEEDED_ON_GPU", ())
    for name in ("find_flavour", "compile_text"):
        monkeypatch.setattr(device, name, cannot if name == missing else lambda *_: None)
    found = finding()
    device.check(Setting(tmp_path, "cuda:0", 1.0), found)
    assert found.state == f"bad: {missing} has nothing to use"
    monkeypatch.setattr(device, missing, lambda *_: None)
    found = finding()
    device.check(Setting(tmp_path, "cuda:0", 1.0), found)
    assert found.state == GOOD


# ------------------------------------------------------------------------------- answers


def test_answers_that_are_no_numbers_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = WorkerClient.output

    def wrong(it: WorkerClient, done: worker_pb2.Done, key: str, rows: int) -> NDArray[Any]:
        answer = right(it, done, key, rows).copy()
        answer[-1, -1] = np.nan
        return answer

    monkeypatch.setattr(in_flight, "CASES", in_flight.CASES[:1])
    setting = setting_of(tmp_path, "policy")
    found = finding()
    in_flight.check(setting, found)
    assert found.state == GOOD
    monkeypatch.setattr(WorkerClient, "output", wrong)
    found = finding()
    in_flight.check(setting, found)
    assert found.state.startswith("bad: policy: answers of 20 batches are off by: inf of the")


def test_an_answer_of_another_batch_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, before = WorkerClient.output, dict[str, NDArray[Any]]()

    def late(it: WorkerClient, done: worker_pb2.Done, key: str, rows: int) -> NDArray[Any]:
        answer = right(it, done, key, rows)
        given, before[key] = before.get(key, answer), answer
        return np.resize(given, answer.shape)

    monkeypatch.setattr(WorkerClient, "output", late)
    found = finding(on_gpu=False)
    in_flight.check(setting_of(tmp_path, "policy", "resnet"), found)
    off = [each for each in found.figures if "are off by" in each.what]
    assert [each.verdict for each in off] == [BAD, BAD]


def test_batches_that_run_one_after_the_other_are_not_two_in_flight(tmp_path: Path) -> None:
    found = finding()
    in_flight.check(setting_of(tmp_path, "policy", "resnet"), found)
    assert found.state == "bad: resnet: batches that began while one ran: 0 , limit >= 0.5"


@pytest.mark.parametrize(
    ("spans", "part"),
    [
        ([(0, 10), (10, 20), (21, 30)], 0.0),
        ([(0, 10), (9, 20), (21, 30)], 0.5),
        ([(0, 10), (9, 20), (12, 30)], 1.0),
    ],
)
def test_batches_in_flight_are_counted(spans: list[tuple[int, int]], part: float) -> None:
    assert in_flight.overlapping(spans) == part


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


# -------------------------------------------------------------------- graphs, batches, W1


def test_nothing_is_good_before_anything_was_judged() -> None:
    found = finding()
    found.add("a reading", 1, "ms")
    assert found.state == NOT_DONE
    found.expect(True, "the reading is there")  # noqa: FBT003
    assert found.state == GOOD


@pytest.mark.parametrize("without", ["", "a stream cannot be captured"])
def test_a_worker_that_runs_without_graphs_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    right = WorkerClient.load

    def load(it: WorkerClient, *arguments: Any) -> None:
        right(it, *arguments)
        it.ready["policy"].without_graphs = without

    monkeypatch.setattr(WorkerClient, "load", load)
    monkeypatch.setattr(in_flight, "CASES", in_flight.CASES[:1])
    setting = setting_of(tmp_path, "policy")
    for check in (in_flight.check, partial(speed.check, model="policy", size=1, runs=5)):
        found = finding(on_gpu=False)
        check(setting, found)
        assert found.state == (f"bad: policy ran without graphs: {without}" if without else GOOD)


@pytest.mark.parametrize(
    ("on_cpu", "unpinned", "bad"),
    [
        ("no NVRTC", False, "images of policy were preprocessed on the CPU: no NVRTC"),
        ("", True, "policy ran of an arena that is not pinned"),
    ],
)
def test_a_worker_whose_rows_take_a_detour_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cpu: str, bad: str, *, unpinned: bool
) -> None:
    right = WorkerClient.load

    def load(it: WorkerClient, *arguments: Any) -> None:
        right(it, *arguments)
        it.ready["policy"].images_on_cpu, it.unpinned = on_cpu, unpinned

    monkeypatch.setattr(WorkerClient, "load", load)
    setting = setting_of(tmp_path, "policy", "resnet")
    for check in (in_flight.check, partial(speed.check, model="policy", size=1, runs=5)):
        found = finding(on_gpu=False)
        check(setting, found)
        assert found.state.startswith(f"bad: {bad}")


# --------------------------------------------------------------------------------- speed

AT_BEST = {
    "bare p50": 20.0,
    "bare without copies p50": 15.0,
    "overhead": 59.0,
    "overhead and copies": 60.0,
    "tail": 1.2,
    "tail without copies": 1.3,
    "ping p50": 15.0,
    "round trip p50": 100.0,
    "copies": 1.1,
    "throughput": 0.96,
    "throughput without copies": 0.95,
    "rows": 1e6,
}


@pytest.mark.parametrize(
    ("name", "value", "models"),
    [
        ("overhead", 61.0, {"policy", "camera", "resnet"}),
        ("overhead and copies", 61.0, {"policy"}),
        ("tail", 1.31, {"policy", "camera", "resnet"}),
        ("tail without copies", 1.31, {"policy"}),
        ("copies", 1.16, {"camera"}),
        ("throughput", 0.94, {"resnet"}),
        ("throughput without copies", 0.94, {"resnet"}),
    ],
)
@pytest.mark.parametrize("model", ["policy", "camera", "resnet"])
def test_what_is_too_slow_is_bad(model: str, name: str, value: float, models: set[str]) -> None:
    found = finding()
    speed.judge(found, model, AT_BEST)
    assert found.state == GOOD
    found = finding()
    speed.judge(found, model, {**AT_BEST, name: value})
    assert found.state.startswith(BAD) is (model in models)


def test_gathering_is_part_of_a_workers_overhead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: Setting, __: None) -> WorkerClient:
        path = {"PYTHONPATH": str(Path(__file__).parent)}
        return WorkerClient(module=slow_gatherer.__name__, environment=path)

    monkeypatch.setattr(Setting, "empty_worker", slow)
    found = finding()
    speed.check(setting_of(tmp_path, "policy"), found, model="policy", size=16, runs=400)
    figures = {each.what: each for each in found.figures}
    for name in ("worker's overhead, p50", "over the run without copies"):
        assert figures[name].value > slow_gatherer.GATHERS_S * 0.5e6
        assert figures[name].verdict == BAD
    for name in ("worker's p99 over bare p99", "over p99 without copies"):
        assert figures[name].verdict == BAD


# ------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("without", ["", SWITCHED_OFF, "a stream cannot be captured"])
@pytest.mark.parametrize("graphs", [True, False])
def test_outputs_are_those_of_graphs_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str, *, graphs: bool
) -> None:
    found = finding()
    ran = SimpleNamespace(without_graphs=without)
    monkeypatch.setattr(outputs, "compare", lambda *_: ran)
    outputs.check(setting_of(tmp_path, "policy"), found, graphs=graphs)
    assert (found.state == GOOD) is (without == ("" if graphs else SWITCHED_OFF))


SAYS_SO = """
import sys

print("{said}: no stream", file=sys.stderr)

class Model:
    def __call__(self, inputs):
        return inputs
"""


@pytest.mark.parametrize("said", [WITHOUT_GRAPHS, "runs"])
def test_an_appliance_whose_worker_runs_without_graphs_is_found(tmp_path: Path, said: str) -> None:
    setting = Setting(tmp_path, "cpu", 1.0)
    manifest = endless.MANIFEST.replace("stuck:Stuck", "model:Model")
    path = models.place(setting.root, "arm", manifest).with_name("model.py")
    path.write_text(SAYS_SO.format(said=said))
    with serving(setting.root, config_of(setting)) as box:
        box.status()
        found = graphless(box)
    assert len(found) == (said == WITHOUT_GRAPHS)
    assert all("runs without CUDA graphs: no stream" in line for line in found)


def test_a_swap_of_which_nothing_was_recorded_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap.idle, "recorded_batches", lambda _: [])
    found = finding(on_gpu=False)
    swap.check(Setting(tmp_path, "cpu", 0.1), found)
    said = "gaps between batches while somebody waits: 0 , limit >= 10"
    assert found.state == f"bad: {said}"


MS = 1_000_000


def batches_of(*spans_ms: tuple[int, int]) -> list[idle.Executed]:
    """Batches for which somebody always waits."""
    return [
        idle.Executed(
            began_ns=began * MS, finished_ns=ended * MS, first_ns=0, told_ns=0, model="arm", rows=8
        )
        for began, ended in spans_ms
    ]


@pytest.mark.parametrize(
    ("last", "bad"),
    [
        ((121, 131), set[str]()),
        ((121, 149), set[str]()),
        ((121, 152), {"answers held up at the longest, batches"}),
        ((139, 149), set[str]()),
        ((142, 152), {"of that, batches", "answers held up at the longest, batches"}),
    ],
)
def test_a_batch_that_is_stretched_by_a_swap_holds_answers_up(
    last: tuple[int, int], bad: set[str]
) -> None:
    found = finding()
    swap.judge(found, batches_of(*((10 * each, 10 * each + 10) for each in range(12)), last))
    assert {each.what for each in found.figures if each.verdict == BAD} == bad


@pytest.mark.parametrize(
    ("short", "long", "plenty", "bad"),
    [
        (199, 199, 1000, ""),
        (201, 199, 199, "limited: of that over alone: 2.01 times"),
        (199, 201, 199, "long batches: of that over alone: 2.01 times"),
    ],
)
def test_tier_0_may_not_take_twice_as_long_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int, long: int, plenty: int, bad: str
) -> None:
    p99_us = iter((100, short, long, plenty))

    @contextmanager
    def asking(*_: object, **__: object) -> Generator[SimpleNamespace, None, None]:
        def answered(seconds: float = 0.0) -> dict[str, Any]:
            took_us = {"p50": 90.0, "p99": float(next(p99_us))} if seconds else {}
            return {"asked": 1, "ended": {"OK": 1}, "per_second": 1.0, "round_trip_us": took_us}

        yield SimpleNamespace(ask=answered, tell=lambda **_: None, hear=answered)

    box = SimpleNamespace(status=lambda: {"models": []}, directory=tmp_path)
    (tmp_path / "log").touch()
    monkeypatch.setattr(priorities, "_asking", asking)
    monkeypatch.setattr(priorities, "serving", lambda *_: nullcontext(box))
    monkeypatch.setattr(priorities, "build_all", lambda _: [])
    monkeypatch.setattr(priorities, "write_models", lambda *_: None)
    found = finding()
    priorities.check(Setting(tmp_path, "cuda:0", 1.0), found)
    assert found.state == GOOD if not bad else found.state.startswith(f"bad: {bad}")


def ran_w1(asked: int, missed: int, simulated: int, *remarks: str) -> Any:
    def account(missed: int) -> real.Account:
        return real.Account({"arm": asked}, {"arm": missed})

    return SimpleNamespace(
        served=account(missed), simulated=account(simulated), remarks=list(remarks)
    )


@pytest.mark.parametrize(
    ("share", "missed", "simulated", "remarks", "bad"),
    [
        (1.0, 0.002, 0.001, (), ""),
        (1.0, 0.005, 0.001, (), "robots miss"),
        (1.0, 0.001, 0.1, (), "simulated"),
        (1.0, 0.5, 0.499, (), "robots miss"),
        (0.5, 0.0, 0.0, (), "of those that were due"),
        (0.0, 0.0, 0.0, (), "of those that were due"),
        (1.0, 0.0, 0.0, ("40 left out: RATE_LIMITED",), "40 left out: RATE_LIMITED"),
    ],
)
def test_w1_is_good_only_if_robots_were_served(
    share: float, missed: float, simulated: float, remarks: tuple[str, ...], bad: str
) -> None:
    case = real.Case(workload="w1", load=0.8, seed=1, seconds=10.0, scale=1.0)
    span = real.Span.settled(10 * real.SECOND_NS)
    due = sum(kind.count * kind.rate_hz for kind in case.fleet.robots) * span.length_s
    asked = round(due * share)
    found = finding()
    ran = ran_w1(asked, round(missed * asked), round(simulated * asked), *remarks)
    fleet.judge(found, case, ran)
    assert found.state == GOOD if not bad else bad in found.state
