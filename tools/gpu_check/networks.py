"""Networks to check a GPU with, made of random numbers on the spot: nothing large is carried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 8
_SEED = 1
_BLOCKS = ((3, 64), (4, 128), (6, 256), (3, 512))
_EXPANSION = 4


@define(eq=False)
class _Graph:
    """A graph that grows node by node; each method returns the name of what it gives."""

    random: np.random.Generator
    nodes: list[Any] = field(factory=list[Any])
    weights: list[Any] = field(factory=list[Any])

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, *shape: int, scale: float) -> str:
        values = self.random.standard_normal(shape, dtype=np.float32)
        return self.constant(values * np.float32(scale))

    def conv(self, x: str, channels: tuple[int, int], size: int, stride: int, *, relu: bool) -> str:
        given, made = channels
        weights = self.normal(made, given, size, size, scale=(2 / (given * size * size)) ** 0.5)
        bias = self.normal(made, scale=0.01)
        pads = [size // 2] * 4 if stride < size or size == 1 else [0] * 4
        x = self.node("Conv", x, weights, bias, strides=[stride] * 2, pads=pads)
        return self.node("Relu", x) if relu else x

    def dense(self, x: str, given: int, made: int) -> str:
        return self.node(
            "Gemm", x, self.normal(given, made, scale=given**-0.5), self.normal(made, scale=0.01)
        )

    def save(
        self, path: Path, inputs: list[Any], outputs: dict[str, tuple[str, list[Any]]]
    ) -> None:
        for name, (made, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [made], [name]))
        given = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
        gives = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, (_, shape) in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "g", given, gives, self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
        path.write_bytes(model.SerializeToString())


def policy(path: Path) -> None:
    """Joint states to a chunk of actions: less than a millisecond."""
    graph = _Graph(np.random.default_rng(_SEED))
    x = graph.node("Tanh", graph.dense("state", 14, 256))
    x = graph.node("Tanh", graph.dense(x, 256, 256))
    x = graph.dense(x, 256, 16 * 7)
    graph.save(path, [("state", TensorProto.FLOAT, ["n", 14])], {"action": (x, ["n", 112])})


def camera(path: Path) -> None:
    """A raw camera picture to eight numbers: copying it takes as long as the rest."""
    graph = _Graph(np.random.default_rng(_SEED))
    x = graph.node("Cast", "camera", to=TensorProto.FLOAT)
    x = graph.node("Mul", x, graph.constant(np.array(1 / 255, np.float32)))
    x = graph.node("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.conv(x, (3, 32), 8, 8, relu=True)
    x = graph.conv(x, (32, 64), 3, 2, relu=True)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    x = graph.dense(x, 64, 8)
    shape = ["n", 480, 640, 3]
    graph.save(path, [("camera", TensorProto.UINT8, shape)], {"found": (x, ["n", 8])})


def recurrent(path: Path) -> None:
    """State whose batch is not in front."""
    graph = _Graph(np.random.default_rng(_SEED))
    half = graph.constant(np.array(0.5, np.float32))
    new = graph.node("Tanh", graph.node("Add", graph.node("Mul", "state", half), "x"))
    mean = graph.node("ReduceMean", new, axes=[0], keepdims=0)
    graph.save(
        path,
        [("x", TensorProto.FLOAT, ["n", 64]), ("state", TensorProto.FLOAT, [2, "n", 64])],
        {"y": (mean, ["n", 64]), "stateN": (new, [2, "n", 64])},
    )


def resnet(path: Path, *, side: int) -> None:
    """The size and shape of a ResNet-50, its normalisations folded away; pictures of any side."""
    graph = _Graph(np.random.default_rng(_SEED))
    x = graph.conv("image", (3, 64), 7, 2, relu=True)
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    given = 64
    for stage, (blocks, width) in enumerate(_BLOCKS):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            made = width * _EXPANSION
            aside = x if block else graph.conv(x, (given, made), 1, stride, relu=False)
            y = graph.conv(x, (given, width), 1, 1, relu=True)
            y = graph.conv(y, (width, width), 3, stride, relu=True)
            y = graph.conv(y, (width, made), 1, 1, relu=False)
            x, given = graph.node("Relu", graph.node("Add", y, aside)), made
            # Without normalisation each block would double what it gets.
            x = graph.node("Mul", x, graph.constant(np.array(0.5, np.float32)))
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    x = graph.dense(x, given, 1000)
    shape = ["n", 3, side, side]
    graph.save(path, [("image", TensorProto.FLOAT, shape)], {"scores": (x, ["n", 1000])})


def busy(path: Path, *, layers: int, channels: int, side: int, seed: int = _SEED) -> None:
    """Write a network that gives its four numbers back, after as much work as is wanted.

    Args:
        layers: Convolutions, `channels` to `channels`, of pictures of `side` times `side`.
    """
    graph = _Graph(np.random.default_rng(seed))
    x = graph.dense("state", 4, channels * 4)
    x = graph.node("Reshape", x, graph.constant(np.array([-1, channels, 2, 2], np.int64)))
    scales = graph.constant(np.array([1, 1, side / 2, side / 2], np.float32))
    x = graph.node("Resize", x, "", scales, mode="nearest")
    weights = graph.normal(channels, channels, 3, 3, scale=(2 / (channels * 9)) ** 0.5)
    bounds = (graph.constant(np.array(value, np.float32)) for value in (0, 6))
    least, most = bounds
    for _ in range(layers):
        x = graph.node("Conv", x, weights, pads=[1] * 4)
        x = graph.node("Clip", x, least, most)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    x = graph.dense(x, channels, 4)
    # Too small to change a number, and too much for a builder to see that.
    x = graph.node("Mul", x, graph.constant(np.array(1e-30, np.float32)))
    x = graph.node("Add", x, "state")
    graph.save(path, [("state", TensorProto.FLOAT, ["n", 4])], {"action": (x, ["n", 4])})
