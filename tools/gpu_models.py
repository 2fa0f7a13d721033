"""Models to check a GPU with, made of random numbers on the spot: nothing large is carried."""

from __future__ import annotations

from collections.abc import Callable
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


def _policy(path: Path) -> None:
    """Joint states to a chunk of actions: less than a millisecond."""
    graph = _Graph(np.random.default_rng(_SEED))
    x = graph.node("Tanh", graph.dense("state", 14, 256))
    x = graph.node("Tanh", graph.dense(x, 256, 256))
    x = graph.dense(x, 256, 16 * 7)
    graph.save(path, [("state", TensorProto.FLOAT, ["n", 14])], {"action": (x, ["n", 112])})


def _camera(path: Path) -> None:
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


def _recurrent(path: Path) -> None:
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


def _resnet(path: Path) -> None:
    """The size and shape of a ResNet-50, its normalisations folded away."""
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
    shape = ["n", 3, 224, 224]
    graph.save(path, [("image", TensorProto.FLOAT, shape)], {"scores": (x, ["n", 1000])})


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "policy": (_policy, "max_batch = 16\n"),
    "camera": (_camera, "max_batch = 8\n"),
    "recurrent": (
        _recurrent,
        'max_batch = 8\n[[state]]\ninput = "state"\noutput = "stateN"\nbatch_axis = 1\n',
    ),
    "resnet": (_resnet, "max_batch = 16\n"),
}


def make(root: Path, names: list[str]) -> None:
    """Write a model repository."""
    for name in names:
        build, manifest = MODELS[name]
        version = root / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version.parent / "model.toml").write_text(manifest)
        if not (version / "model.onnx").exists():
            build(version / "model.onnx")
