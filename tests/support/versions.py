"""Models whose version can be told from what they answer, and who asks them all the time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import numpy as np

from support.grpc import method, request
from support.repository import add_onnx_model, add_python_model

MANIFEST = """
engine = "python"
callable = "policy:run"
max_batch = 8

[[inputs]]
name = "state"
dtype = "float32"
shape = [{width}]
"""
X = np.arange(4, dtype=np.float32)[None]
BUDGET_S = 0.5
"""A deadline of each request: it is firm, and refused if it cannot be met."""


def add_version(
    models: Path, version: int, name: str = "policy", *, width: int = 4, source: str = ""
) -> None:
    """A version that adds its own number to what comes."""
    run = f"def run(batch):\n    return {{'action': batch['state'] + {version}}}\n"
    manifest = MANIFEST.format(width=width)
    add_python_model(models, name, source or run, manifest, str(version))


def add_onnx_version(models: Path, version: int, name: str = "policy") -> None:
    """The same as a network."""
    from onnx import TensorProto, helper, numpy_helper

    number = numpy_helper.from_array(np.full(1, version, np.float32), "number")
    graph = helper.make_graph(
        [helper.make_node("Add", ["state", "number"], ["action"])],
        "adds",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["n", 4])],
        [number],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    add_onnx_model(models, name, model.SerializeToString(), "max_batch = 8\n", str(version))


def infer(open_channel: grpc.Channel, model: str = "policy") -> tuple[str, float]:
    """Return which version answered, and what it added."""
    answer = method(open_channel, "ModelInfer")(request(model, X), timeout=BUDGET_S)
    added = np.frombuffer(answer.raw_output_contents[0], np.float32) - X[0]
    assert len(set(added.tolist())) == 1
    return answer.model_version, float(added[0])


class Asker(threading.Thread):
    """Asks all the time, until told to stop."""

    def __init__(self, open_channel: grpc.Channel, model: str) -> None:
        super().__init__()
        self.channel = open_channel
        self.model = model
        self.answers: list[tuple[str, float]] = []
        self.error: Exception | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                self.answers.append(infer(self.channel, self.model))
        except Exception as error:  # noqa: BLE001  it is looked at in the test's thread
            self.error = error


def wait_for(askers: list[Asker], version: str) -> None:
    """Wait until each has had more answers of a version."""
    before = [len(asker.answers) for asker in askers]
    deadline = time.monotonic() + 30
    while not all(
        asker.answers[count:] and asker.answers[-1][0] == version
        for asker, count in zip(askers, before, strict=True)
    ):
        assert all(asker.error is None for asker in askers), [each.error for each in askers]
        assert time.monotonic() < deadline
        time.sleep(0.01)
