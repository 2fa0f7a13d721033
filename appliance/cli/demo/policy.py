"""A small policy network, built rather than downloaded: joint states in, a chunk of actions out.

A transformer with fixed random weights: one token for each step of the chunk, two layers, four
heads. It has learnt nothing, but it costs what a small policy costs, and the same joints always
give the same actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from attrs import define, field
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

JOINTS = 7
HORIZON = 16
WIDTH = 64
HEADS = 4
LAYERS = 2
SEED = 20_24
OPSET = 17
IR_VERSION = 8
"""What onnxruntime 1.18, the oldest we run on, reads without question."""


@define(eq=False)
class _Graph:
    """An ONNX graph as it grows; each method adds a node and returns its output's name."""

    nodes: list[onnx.NodeProto] = field(factory=list[onnx.NodeProto], init=False)
    constants: list[onnx.TensorProto] = field(factory=list[onnx.TensorProto], init=False)
    _random: np.random.Generator = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = np.random.default_rng(SEED)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def shape(self, dimensions: Sequence[int]) -> str:
        return self.constant(np.array(dimensions, dtype=np.int64))

    def weights(self, *shape: int, scale: float = 1.0) -> str:
        values = self._random.normal(0.0, scale / np.sqrt(shape[0]), shape)
        return self.constant(values.astype(np.float32))

    def linear(self, x: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        product = self.add("MatMul", x, self.weights(inputs, outputs, scale=scale))
        return self.add("Add", product, self.weights(outputs))

    def normalized(self, x: str) -> str:
        gain = self.constant(np.ones(WIDTH, dtype=np.float32))
        return self.add("LayerNormalization", x, gain, axis=-1)

    def heads(self, x: str, order: Sequence[int]) -> str:
        split = self.add("Reshape", x, self.shape([0, HORIZON, HEADS, WIDTH // HEADS]))
        return self.add("Transpose", split, perm=order)

    def attention(self, x: str) -> str:
        query = self.heads(self.linear(x, WIDTH, WIDTH), (0, 2, 1, 3))
        key = self.heads(self.linear(x, WIDTH, WIDTH), (0, 2, 3, 1))
        value = self.heads(self.linear(x, WIDTH, WIDTH), (0, 2, 1, 3))
        scale = self.constant(np.array(1 / np.sqrt(WIDTH / HEADS), dtype=np.float32))
        scores = self.add("Mul", self.add("MatMul", query, key), scale)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        joined = self.add("Transpose", mixed, perm=(0, 2, 1, 3))
        flat = self.add("Reshape", joined, self.shape([0, HORIZON, WIDTH]))
        return self.linear(flat, WIDTH, WIDTH)

    def feed_forward(self, x: str) -> str:
        hidden = self.add("Relu", self.linear(x, WIDTH, 4 * WIDTH))
        return self.linear(hidden, 4 * WIDTH, WIDTH)


def build_policy(path: Path) -> None:
    """Write the network: `joints` float32 [N, 7] -> `actions` float32 [N, 16, 7] within ±1."""
    graph = _Graph()
    state = graph.add("Tanh", graph.linear("joints", JOINTS, WIDTH, scale=3.0))
    token = graph.add("Unsqueeze", state, graph.shape([1]))
    x = graph.add("Add", token, graph.weights(1, HORIZON, WIDTH))
    for _ in range(LAYERS):
        x = graph.add("Add", x, graph.attention(graph.normalized(x)))
        x = graph.add("Add", x, graph.feed_forward(graph.normalized(x)))
    actions = graph.add("Tanh", graph.linear(graph.normalized(x), WIDTH, JOINTS, scale=0.5))
    graph.nodes.append(helper.make_node("Identity", [actions], ["actions"]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [helper.make_tensor_value_info("joints", TensorProto.FLOAT, ["N", JOINTS])],
            [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["N", HORIZON, JOINTS])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="appliance demo",
    )
    model.ir_version = IR_VERSION
    path.write_bytes(model.SerializeToString())
