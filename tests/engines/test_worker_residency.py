"""A real worker with more models than memory: they leave for each other, and answer the same."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose
from support.repository import PLAIN_MANIFEST, add_onnx_mlp, add_python_model, rows
from support.worker_process import Start, WorkerProcess

from appliance.errors import Outcome

HIDDEN = 1 << 19
"""Of a network whose file has 24 MiB."""

MIB = 1 << 20

COUNTS_ITSELF = """
    import gc

    class Policy:
        def __init__(self):
            self.itself = self
            self.weights = bytearray(b"1" * (16 << 20))

        def __call__(self, inputs):
            alive = sum(type(each).__name__ == "Policy" for each in gc.get_objects())
            return {"y": inputs["x"] * 0 + alive}
"""


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Path]:
    """Two networks, a budget for one of them."""
    return {
        name: add_onnx_mlp(tmp_path, name, seed=seed, hidden=HIDDEN)
        for seed, name in enumerate(("first", "second"))
    }


def budget_for_one(start: Start, root: Path) -> int:
    worker = start(root)
    taken = sorted(ready.memory_bytes for ready in worker.ready.values())
    assert taken[0] >= 24 * MIB
    assert sorted(worker.resident) == sorted(worker.ready)
    worker.kill()
    return taken[-1] + taken[0] // 2


def tight(start: Start, root: Path) -> WorkerProcess:
    memory_bytes = budget_for_one(start, root)
    worker = start()
    worker.load(root, memory_bytes=memory_bytes)
    assert worker.failed == {}
    return worker


def test_models_leave_for_each_other_and_answer_as_before(
    tmp_path: Path, two: dict[str, Path], start: Start
) -> None:
    worker = tight(start, tmp_path)
    assert worker.resident == ["second"]
    x = np.random.default_rng(3).standard_normal((3, 8), dtype=np.float32)
    named = [{"x": row} for row in x]
    expected = {
        name: onnxruntime.InferenceSession(str(path / "model.onnx")).run(None, {"x": x})[0]
        for name, path in two.items()
    }
    for turn, name in enumerate(["second", "first", "first", "second", "second", "first"]):
        done = worker.run(name, *named)
        assert_allclose(worker.output(done, "y", 3), expected[name], rtol=1e-5)
        assert bool(done.load_ns) == (turn in (1, 3, 5))
        assert worker.resident == [name]
        assert done.gather_ns + done.finished_ns - done.execute_started_ns > 0
    assert worker.ledger("first") == (9, 9, 0)
    assert worker.ledger("second") == (9, 9, 0)


@pytest.mark.usefixtures("two")
def test_a_staged_batch_keeps_its_model_and_loads_none_before_it_may_go(
    tmp_path: Path, start: Start
) -> None:
    worker = tight(start, tmp_path)
    x = np.zeros((1, 8), np.float32)
    staged = worker.stage("second", worker.rows("second", {"x": x}), go=False)
    waiting = worker.stage("first", worker.rows("first", {"x": x}), go=False)
    failed = worker.run("first", {"x": x[0]})  # there is no room beside what is staged
    (error,) = failed.row_errors
    assert (error.row, error.code) == (0, Outcome.ENGINE_FAILED)
    assert "beside the models that hold batches" in error.message
    assert worker.resident == ["second"]
    worker.go(staged)
    done = worker.done()
    assert (done.batch_id, done.load_ns, done.error) == (staged, 0, "")
    worker.go(waiting)
    done = worker.done()
    assert (done.batch_id, len(done.row_errors)) == (waiting, 0)
    assert done.load_ns > 0
    assert worker.resident == ["first"]


def test_a_model_that_alone_takes_more_fails_and_says_how_much(
    tmp_path: Path, start: Start
) -> None:
    add_onnx_mlp(tmp_path, "large", hidden=HIDDEN)
    add_python_model(
        tmp_path,
        "small",
        "def policy(inputs): return {'y': inputs['x']}",
        PLAIN_MANIFEST.replace("policy:Policy", "policy:policy"),
    )
    worker = start()
    worker.load(tmp_path, memory_bytes=20 * MIB)
    assert list(worker.failed) == ["large"]
    assert "takes 25 MiB of memory, and the worker's budget is 20 MiB" in worker.failed["large"]
    assert list(worker.ready) == ["small"]
    done = worker.run("small", {"x": rows(5)[0]})
    assert worker.output(done, "y", 1)[0, 0] == 5


@pytest.mark.usefixtures("two")
def test_files_that_have_gone_fail_the_rows_and_no_other_model(
    tmp_path: Path, two: dict[str, Path], start: Start
) -> None:
    worker = tight(start, tmp_path)
    file = two["first"] / "model.onnx"
    kept = file.read_bytes()
    file.unlink()
    x = {"x": np.zeros(8, np.float32)}
    done = worker.run("first", x, x)
    assert [error.row for error in done.row_errors] == [0, 1]
    assert all("expected model.onnx" in error.message for error in done.row_errors)
    assert worker.run("second", x).error == ""
    file.write_bytes(kept)
    done = worker.run("first", x)
    assert (done.error, len(done.row_errors)) == ("", 0)
    assert worker.ledger("first") == (1, 1, 0)


@pytest.mark.usefixtures("two")
def test_files_that_have_changed_are_not_taken_for_the_model(
    tmp_path: Path, two: dict[str, Path], start: Start
) -> None:
    worker = tight(start, tmp_path)
    add_onnx_mlp(tmp_path, "first", inputs=8, outputs=5)
    done = worker.run("first", {"x": np.zeros(8, np.float32)})
    (error,) = done.row_errors
    assert "its files have changed" in error.message


def test_a_python_model_that_refers_to_itself_is_gone_when_it_leaves(
    tmp_path: Path, start: Start
) -> None:
    assert gc.isenabled()
    for name in ("first", "second"):
        add_python_model(tmp_path, name, COUNTS_ITSELF)
    worker = start()
    worker.load(tmp_path, memory_bytes=24 * MIB)
    assert worker.failed == {}
    for name in ("first", "second", "first"):
        done = worker.run(name, {"x": rows(1)[0]})
        assert worker.output(done, "y", 1)[0, 0] == 1  # of both, one is there
