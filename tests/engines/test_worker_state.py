"""Recurrent state through a real worker process: in, out, and where the batch dimension sits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from support.repository import add_onnx_model, add_python_model, onnx_file
from support.worker_process import Start, WorkerProcess

from appliance.wire.pb import worker_pb2

ROW_STATE = (2, 3)


def recurrent(axis: int) -> bytes:
    """A model y = sum(h), h' = h + x, whose state [.., N, ..] has its batch dimension at `axis`."""
    from onnx import TensorProto, helper, numpy_helper

    shape: list[int | str] = [*ROW_STATE[:axis], "N", *ROW_STATE[axis:]]
    target = [size if isinstance(size, int) else -1 for size in shape]
    other = [at for at in range(3) if at != axis]
    # x is [N, 1]: bring N to its place and let it spread over the state.
    spread = [1 if at != axis else -1 for at in range(3)]
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "spread"], ["placed"]),
            helper.make_node("Add", ["h", "placed"], ["sum"]),
            helper.make_node("Reshape", ["sum", "target"], ["h2"]),
            helper.make_node("ReduceSum", ["h2", "axes"], ["total"], keepdims=0),
            helper.make_node("Unsqueeze", ["total", "one"], ["y"]),
        ],
        "recurrent",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, shape),
        ],
        [
            numpy_helper.from_array(np.array(spread, np.int64), "spread"),
            numpy_helper.from_array(np.array(target, np.int64), "target"),
            numpy_helper.from_array(np.array(other, np.int64), "axes"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    return onnx_file(graph)


class Episode:
    """One client's state in the arena: old and new, swapped after each answer."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.old: worker_pb2.Block | None = None
        self.new = worker.allocate(24)

    def row(self, x: float) -> worker_pb2.Row:
        return worker_pb2.Row(
            feeds=[self.worker.feed(np.array([x], np.float32))],
            state_in=[self.old] if self.old else [],
            state_out=[self.new],
        )

    def advance(self) -> NDArray[np.float32]:
        self.old, self.new = self.new, self.worker.allocate(24)
        return np.frombuffer(self.worker.read(self.old), np.float32).reshape(ROW_STATE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_row_carries_its_own_state(tmp_path: Path, start: Start, axis: int) -> None:
    state = f'[[state]]\ninput = "h"\noutput = "h2"\nbatch_axis = {axis}\n'
    directory = add_onnx_model(tmp_path, "rnn", recurrent(axis), f"max_batch = 4\n{state}")
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"))
    worker = start(tmp_path)
    assert worker.failed == {}
    assert worker.specs["rnn"].state_bytes == (24,)
    assert [output.name for output in worker.specs["rnn"].outputs] == ["y"]

    episodes = [Episode(worker) for _ in range(3)]
    direct = [np.zeros((1, *ROW_STATE), np.float32) for _ in range(3)]
    for step, taking_part in enumerate([[0, 1], [2, 0], [1], [0, 1, 2]]):
        x = [10 * step + who for who in taking_part]
        batch = zip(taking_part, x, strict=True)
        worker.stage("rnn", [episodes[who].row(value) for who, value in batch])
        y = worker.output(worker.done(), "y", len(x))
        for position, who in enumerate(taking_part):
            feeds = {
                "x": np.array([[x[position]]], np.float32),
                "h": np.moveaxis(direct[who], 0, axis),
            }
            expected, new = session.run(["y", "h2"], feeds)
            direct[who] = np.moveaxis(new, axis, 0)
            assert_array_equal(y[position], expected[0])
            assert_array_equal(episodes[who].advance(), direct[who][0])


PYTHON = """
    def Policy(inputs):
        if inputs["x"].max() > 100:
            raise ValueError("too much")
        new = inputs["h"] + inputs["x"].reshape(RESHAPE)
        return {"y": inputs["x"], "h2": new}
"""


def python_manifest(axis: int, max_batch: int) -> str:
    return f"""
        engine = "python"
        callable = "policy:Policy"
        max_batch = {max_batch}
        [[inputs]]
        name = "x"
        dtype = "float32"
        shape = [1]
        [[state]]
        input = "h"
        output = "h2"
        batch_axis = {axis}
        shape = [2, 3]
        dtype = "float32"
    """


def test_a_batch_that_fails_leaves_state_as_it_was(tmp_path: Path, start: Start) -> None:
    source = PYTHON.replace("RESHAPE", "-1, 1, 1")
    add_python_model(tmp_path, "rnn", source, python_manifest(0, 4))
    worker = start(tmp_path)
    assert worker.failed == {}
    episode = Episode(worker)
    worker.stage("rnn", [episode.row(2)])
    assert not worker.done().error
    assert_array_equal(episode.advance(), np.full(ROW_STATE, 2))
    worker.memory[episode.new.offset : episode.new.offset + 24] = b"\x55" * 24
    worker.stage("rnn", [episode.row(101)])
    assert worker.done().error == "ValueError: too much"
    assert worker.read(episode.new) == b"\x55" * 24
    worker.stage("rnn", [episode.row(3)])
    worker.done()
    assert_array_equal(episode.advance(), np.full(ROW_STATE, 5))


def test_a_state_without_a_batch_dimension(tmp_path: Path, start: Start) -> None:
    source = PYTHON.replace("RESHAPE", "1, 1")
    add_python_model(tmp_path, "rnn", source, python_manifest(-1, 1))
    worker = start(tmp_path)
    assert worker.failed == {}
    episode = Episode(worker)
    for step in (1, 2):
        worker.stage("rnn", [episode.row(1)])
        assert not worker.done().error
        assert_array_equal(episode.advance(), np.full(ROW_STATE, step))


def test_a_state_of_another_shape_fails_the_batch(tmp_path: Path, start: Start) -> None:
    source = """
        def Policy(inputs):
            h = inputs["h"]
            return {"y": inputs["x"], "h2": h[:, :1] if inputs["x"].any() else h}
    """
    add_python_model(tmp_path, "rnn", source, python_manifest(0, 4))
    worker = start(tmp_path)
    worker.stage("rnn", [Episode(worker).row(1)])
    error = worker.done().error
    assert error == "state 'h2': expected float32 [1, 2, 3]; came float32 [1, 1, 3]"
