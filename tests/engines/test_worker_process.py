"""Real worker processes: models loaded, batches run, results compared with the model itself."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from support.repository import (
    EXITS,
    KILLED,
    PLAIN_MANIFEST,
    RAISES,
    WRONG_SHAPE,
    add_echo,
    add_exits_at_import,
    add_faulty,
    add_noop,
    add_onnx_mlp,
    add_onnx_model,
    add_python_model,
    add_raises_at_import,
    add_sleep,
    mlp,
    rows,
)
from support.worker_process import Start, WorkerGone

from appliance.errors import Outcome
from appliance.wire.arrays import decode_strings
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import OutputSpec
from appliance.wire.types import DType


def named(x: NDArray[np.float32]) -> list[dict[str, NDArray[np.float32]]]:
    return [{"x": row} for row in x]


def test_results_are_those_of_the_model(tmp_path: Path, start: Start) -> None:
    directory = add_onnx_mlp(tmp_path, "policy")
    worker = start(tmp_path)
    assert worker.failed == {}
    spec = worker.specs["policy"]
    assert (spec.max_batch, spec.outputs) == (8, (OutputSpec("y", DType.FLOAT32, (4,)),))
    times = {time.batch_size: time.ns for time in worker.ready["policy"].times}
    assert sorted(times) == [1, 2, 4, 8]
    assert all(0 < ns < 1_000_000_000 for ns in times.values())
    assert worker.ready["policy"].load_ns > times[8]
    assert worker.loading == [
        ("policy", "reading"),
        *(("policy", f"warm-up batch {size}") for size in (1, 2, 4, 8)),
    ]

    session = onnxruntime.InferenceSession(str(directory / "model.onnx"))
    x = np.random.default_rng(1).standard_normal((8, 8), dtype=np.float32)
    for count in (1, 3, 8):
        done = worker.run("policy", *named(x[:count]))
        (direct,) = session.run(None, {"x": x[:count]})
        assert_array_equal(worker.output(done, "y", count), direct)
        assert done.gather_ns > 0
        assert done.execute_started_ns <= done.finished_ns
    assert worker.ledger("policy") == (12, 12, 0)


def test_a_staged_batch_waits_for_go(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    staged = worker.stage("echo", [[worker.feed(row)] for row in rows(1, 2)], go=False)
    first = worker.stage("echo", [[worker.feed(row)] for row in rows(3)])
    done = worker.done()
    assert done.batch_id == first
    assert worker.ledger("echo") == (1, 1, 0)
    worker.go(staged)
    done = worker.done()
    assert done.batch_id == staged
    assert_array_equal(worker.output(done, "y", 2), rows(1, 2))


def test_a_revoked_batch_never_runs(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    revoked = worker.stage("echo", [[worker.feed(row)] for row in rows(1)], go=False)
    worker.revoke(revoked)
    after = worker.stage("echo", [[worker.feed(row)] for row in rows(2)])
    assert worker.done().batch_id == after
    assert worker.ledger("echo") == (1, 1, 0)
    worker.go(revoked)  # the core has lost track: the worker gives up rather than guess
    with pytest.raises(WorkerGone, match="gone: 1"):
        worker.receive()


@pytest.mark.parametrize("staged", [True, False])
def test_a_batch_that_is_too_late_to_start_is_skipped(
    tmp_path: Path, start: Start, *, staged: bool
) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    feeds = [[worker.feed(row)] for row in rows(1, 2)]
    now_ns = time.monotonic_ns()
    if staged:
        late = worker.stage("echo", feeds, go=False)
        worker.go(late, latest_start_ns=now_ns - 1)
    else:
        late = worker.stage("echo", feeds, latest_start_ns=now_ns - 1)
    done = worker.done()
    assert (done.batch_id, done.skipped, len(done.outputs)) == (late, True, 0)
    assert worker.ledger("echo") == (0, 0, 0)
    in_time = worker.stage("echo", feeds, latest_start_ns=now_ns + 3600 * 10**9)
    done = worker.done()
    assert (done.batch_id, done.skipped) == (in_time, False)
    assert_array_equal(worker.output(done, "y", 2), rows(1, 2))


def test_a_bad_row_fails_alone(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    good = [worker.feed(row) for row in rows(1, 2)]
    wrong_dtype = worker.feed(np.zeros(4, np.float64))
    wrong_shape = worker.feed(np.zeros(5, np.float32))
    worker.stage("echo", [[wrong_dtype], [good[0]], [wrong_shape], [good[1]]])
    done = worker.done()
    assert [(error.row, error.code) for error in done.row_errors] == [
        (0, Outcome.INVALID),
        (2, Outcome.INVALID),
    ]
    assert done.row_errors[0].message == "tensor 'x': expected dtype FLOAT32, came FLOAT64"
    assert done.row_errors[1].message == "tensor 'x': expected shape [4], came [5]"
    # Each row's output lies at its own place.
    assert_array_equal(worker.output(done, "y", 4)[[1, 3]], rows(1, 2))
    assert worker.ledger("echo") == (2, 2, 0)


def test_a_batch_of_bad_rows_does_not_run(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    worker.stage("echo", [[worker.feed(np.zeros(5, np.float32))]])
    done = worker.done()
    assert (len(done.row_errors), len(done.outputs), done.error) == (1, 0, "")
    assert worker.ledger("echo") == (0, 0, 0)


@pytest.mark.parametrize(
    ("poison", "error"),
    [
        (RAISES, "ValueError: poisoned"),
        (WRONG_SHAPE, "output 'y': expected float32 [2, 4]; came float32 [2, 3]"),
    ],
)
def test_a_batch_on_which_the_model_fails(
    tmp_path: Path, start: Start, poison: float, error: str
) -> None:
    add_faulty(tmp_path)
    worker = start(tmp_path)
    done = worker.run("faulty", *named(rows(9, poison)))
    assert done.error == error
    assert not done.outputs
    assert worker.ledger("faulty") == (2, 0, 2)
    done = worker.run("faulty", *named(rows(9, 8)))
    assert_array_equal(worker.output(done, "y", 2), rows(9, 8))
    assert worker.ledger("faulty") == (4, 2, 2)


@pytest.mark.parametrize(("poison", "status"), [(EXITS, "3"), (KILLED, "-9")])
def test_what_ends_the_process_leaves_its_count(
    tmp_path: Path, start: Start, poison: float, status: str
) -> None:
    add_faulty(tmp_path)
    worker = start(tmp_path)
    with pytest.raises(WorkerGone, match=f"gone: {status}"):
        worker.run("faulty", *named(rows(9, poison)))
    assert worker.ledger("faulty") == (2, 0, 0)


def test_a_model_that_cannot_be_loaded_leaves_the_others_served(
    tmp_path: Path, start: Start
) -> None:
    add_raises_at_import(tmp_path, "a-raises")
    add_exits_at_import(tmp_path, "b-exits")
    add_onnx_model(tmp_path, "c-corrupt", mlp()[:-100])
    add_onnx_model(tmp_path, "d-text", b"this is no model")
    add_onnx_model(tmp_path, "e-missing", b"").joinpath("model.onnx").unlink()
    add_onnx_model(tmp_path, "f-wrong", mlp(), "[[inputs]]\nname = 'camera'\n")
    add_python_model(tmp_path, "g-nameless", "Other = 1\n")
    add_python_model(tmp_path, "h-value", "Policy = 1\n")
    add_python_model(tmp_path, "i-list", "def Policy(inputs):\n    return [1]\n")
    add_python_model(
        tmp_path, "j-dtype", "def Policy(inputs):\n    return {'y': inputs['x'] + 1j}\n"
    )
    add_python_model(tmp_path, "k-batch", "def Policy(inputs):\n    return {'y': inputs['x'][0]}\n")
    add_python_model(tmp_path, "l-tensor", "def Policy(inputs):\n    return {'y': 1.0}\n")
    add_python_model(tmp_path, "m-nothing", "", 'engine = "python"\ncallable = "absent:Policy"\n')
    add_echo(tmp_path, "z-good")
    worker = start(tmp_path)
    expected = {
        "a-raises": "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        "b-exits": "SystemExit: 7",
        "c-corrupt": "no usable ONNX model: ",
        "d-text": "no usable ONNX model: ",
        "e-missing": "expected model.onnx, or in the manifest a callable",
        "f-wrong": "inputs: found 'camera'; the model's inputs are 'x'",
        "g-nameless": "has no 'Policy'",
        "h-value": "expected a function, or a class whose instances can be called; came int",
        "i-list": "expected a dict of arrays by output name; came list",
        "j-dtype": "output 'y': expected numbers of ",
        "k-batch": "output 'y': expected the batch, 8, as dimension 0; came float32 [4]",
        "l-tensor": "output 'y': expected a numpy array; came float",
        "m-nothing": "no module 'absent', neither in ",
    }
    assert worker.failed.keys() == expected.keys()
    for name, message in expected.items():
        assert message in worker.failed[name]
    done = worker.run("z-good", *named(rows(1)))
    assert_array_equal(worker.output(done, "y", 1), rows(1))


def test_a_batch_for_a_model_that_is_not_loaded(tmp_path: Path, start: Start) -> None:
    add_raises_at_import(tmp_path, "broken")
    worker = start(tmp_path)
    worker.stage("broken", [[worker.feed(rows(1)[0])]], output=worker.allocate(64))
    assert worker.done().error == "model 0 is not loaded"


def test_outputs_larger_than_their_room(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    worker.stage(
        "echo", [[worker.feed(row)] for row in rows(*range(8))], output=worker.allocate(64)
    )
    assert "outputs of 8 rows take 128 bytes, there is room for 64" in worker.done().error


def test_a_handle_beyond_the_arena_fails_the_batch(tmp_path: Path, start: Start) -> None:
    add_echo(tmp_path)
    worker = start(tmp_path)
    feed = worker_pb2.Feed(offset=worker.arena_bytes - 8, length=16, dtype=2, encoding=1, shape=[4])
    worker.stage("echo", [[feed]])
    assert "leaves the arena" in worker.done().error
    done = worker.run("echo", *named(rows(1)))
    assert_array_equal(worker.output(done, "y", 1), rows(1))


def test_a_long_error_is_cut(tmp_path: Path, start: Start) -> None:
    source = """
        import numpy as np

        def Policy(inputs):
            if inputs["x"].any():
                raise ValueError("\u00e4" * 100_000)
            return {"y": inputs["x"]}
    """
    add_python_model(tmp_path, "loud", source)
    worker = start(tmp_path)
    error = worker.run("loud", *named(rows(1))).error
    assert error.startswith("ValueError: \u00e4\u00e4")
    assert 2000 < len(error.encode()) <= 2048


def test_what_a_model_prints_harms_nothing(tmp_path: Path, start: Start) -> None:
    source = """
        import sys
        print("at import")

        class Policy:
            def __call__(self, inputs):
                print("in a run", flush=True)
                print("in a run", file=sys.stderr)
                return {"y": inputs["x"]}
    """
    add_python_model(tmp_path, "chatty", source)
    worker = start(tmp_path)
    done = worker.run("chatty", *named(rows(1)))
    assert_array_equal(worker.output(done, "y", 1), rows(1))


def test_models_may_share_module_names_and_have_helpers(tmp_path: Path, start: Start) -> None:
    for factor in (2, 3):
        source = """
            from .helper import FACTOR

            class Policy:
                def __init__(self, directory):
                    self.version = int(directory.name)

                def __call__(self, inputs):
                    return {"y": inputs["x"] * FACTOR * self.version}
        """
        directory = add_python_model(tmp_path, f"times{factor}", source, version="10")
        (directory / "helper.py").write_text(f"FACTOR = {factor}\n")
    worker = start(tmp_path)
    for factor in (2, 3):
        done = worker.run(f"times{factor}", *named(rows(1)))
        assert_array_equal(worker.output(done, "y", 1), rows(1) * factor * 10)


def test_an_installed_module_serves_too(tmp_path: Path, start: Start) -> None:
    add_python_model(
        tmp_path, "installed", "", PLAIN_MANIFEST.replace("policy:Policy", "copy:copy")
    )
    worker = start(tmp_path)
    done = worker.run("installed", *named(rows(1, 2)))
    assert_array_equal(worker.output(done, "x", 2), rows(1, 2))


def test_a_model_may_keep_and_change_its_inputs(tmp_path: Path, start: Start) -> None:
    source = """
        class Policy:
            def __init__(self):
                self.last = None

            def __call__(self, inputs):
                x = inputs["x"]
                before, self.last = self.last, x
                x += 1
                return {"y": x if before is None or len(before) != len(x) else before}
    """
    add_python_model(tmp_path, "keeper", source)
    worker = start(tmp_path)
    feed = worker.feed(rows(5)[0])
    worker.stage("keeper", [[feed]])
    worker.done()
    worker.memory[feed.offset : feed.offset + 16] = bytes(16)
    done = worker.run("keeper", *named(rows(7)))
    assert_array_equal(worker.output(done, "y", 1), rows(5) + 1)


LENT = """
    import numpy as np

    class Policy:
        keeps_inputs = False

        def __call__(self, inputs):
            x = inputs["x"]
            return {"y": x, "changeable": np.full(len(x), x.flags.writeable)}
"""


def test_a_model_that_keeps_no_inputs_reads_them_where_they_are(
    tmp_path: Path, start: Start
) -> None:
    add_python_model(tmp_path, "reader", LENT)
    add_python_model(tmp_path, "writer", LENT.replace('x = inputs["x"]', 'x = inputs["x"]; x += 1'))
    worker = start(tmp_path)
    # It breaks its promise, which is found before anybody is served.
    assert worker.failed == {"writer": "ValueError: output array is read-only"}
    for count in (1, 3):
        x = rows(*range(5, 5 + count))
        done = worker.run("reader", *named(x))
        assert_array_equal(worker.output(done, "y", count), x)
        assert_array_equal(worker.output(done, "changeable", count), [count > 1] * count)


def test_strings_in_and_out(tmp_path: Path, start: Start) -> None:
    source = """
        import numpy as np

        def Policy(inputs):
            texts = [f"{text}/{size}" for text, size in zip(inputs["prompt"], inputs["size"])]
            return {"answer": np.array(texts, dtype=object), "n": np.arange(len(texts))}
    """
    manifest = """
        engine = "python"
        callable = "policy:Policy"
        max_batch = 3
        output_bytes = 1024
        [[inputs]]
        name = "prompt"
        from = "metadata:prompt"
        optional = true
        [[inputs]]
        name = "size"
        dtype = "int64"
        shape = []
    """
    add_python_model(tmp_path, "writer", source, manifest)
    worker = start(tmp_path)
    assert worker.specs["writer"].outputs == (
        OutputSpec("answer", DType.STRING, ()),
        OutputSpec("n", DType.INT64, ()),
    )
    feeds = [
        [worker.feed("gr\u00fcn"), worker.feed(np.array(1))],
        [worker_pb2.Feed(absent=True), worker.feed(np.array(2))],
        [worker.feed("x" * 50), worker.feed(np.array(3))],
    ]
    worker.stage("writer", feeds)
    done = worker.done()
    assert_array_equal(worker.output(done, "n", 3), [0, 1, 2])
    answer = next(output for output in done.outputs if output.key == "answer")
    texts = []
    offset = answer.offset
    for length in answer.row_lengths:
        block = worker_pb2.Block(offset=offset, length=length)
        texts += [text.decode() for text in decode_strings(worker.read(block), 1)]
        offset += length
    assert texts == ["gr\u00fcn/1", "/2", "x" * 50 + "/3"]


def test_an_input_that_was_left_out_is_zeros(tmp_path: Path, start: Start) -> None:
    manifest = """
        engine = "python"
        callable = "policy:Policy"
        max_batch = 2
        [[inputs]]
        name = "x"
        dtype = "float32"
        shape = [4]
        optional = true
    """
    add_python_model(
        tmp_path, "lenient", "def Policy(inputs):\n    return {'y': inputs['x']}", manifest
    )
    worker = start(tmp_path)
    worker.stage("lenient", [[worker.feed(rows(3)[0])], [worker_pb2.Feed(absent=True)]])
    assert_array_equal(worker.output(worker.done(), "y", 2), rows(3, 0))


def test_slow_models_are_measured(tmp_path: Path, start: Start) -> None:
    add_sleep(tmp_path, base_ms=4, per_row_ms=2)
    add_noop(tmp_path)
    times = {t.batch_size: t.ns for t in start(tmp_path).ready["sleep"].times}
    assert times[1] >= 6_000_000
    assert times[8] >= 20_000_000


def test_stop_ends_the_process(tmp_path: Path, start: Start) -> None:
    source = """
        import pathlib

        class Policy:
            def __init__(self, directory):
                self.directory = directory

            def __call__(self, inputs):
                return {"y": inputs["x"]}

            def close(self):
                (self.directory / "closed").touch()
    """
    directory = add_python_model(tmp_path, "tidy", source)
    worker = start(tmp_path)
    worker.send(worker_pb2.ToWorker(stop=worker_pb2.Stop()))
    with pytest.raises(WorkerGone, match="gone: 0"):
        worker.receive()
    assert (directory / "closed").exists()
