"""Writes small model repositories into a directory: real files for real worker processes.

Every helper returns the version's directory. `policy.py` holds one class `Policy`, made by
`python_source`, unless a source is given.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PLAIN_MANIFEST = """
engine = "python"
callable = "policy:Policy"
max_batch = 8
buckets = [1, 8]

[[inputs]]
name = "x"
dtype = "float32"
shape = [4]

[warmup]
iterations = 1
"""
"""For every python model here: float32[N, 4] in; the faults' poison is `x[row, 0]`."""


def add_python_model(
    root: Path,
    name: str,
    source: str,
    manifest_toml: str = PLAIN_MANIFEST,
    version: str = "1",
) -> Path:
    """Write a model whose `policy.py` is `source`."""
    directory = _add(root, name, manifest_toml, version)
    (directory / "policy.py").write_text(textwrap.dedent(source))
    return directory


def add_onnx_model(
    root: Path, name: str, model: bytes, manifest_toml: str = "", version: str = "1"
) -> Path:
    """Write a model whose `model.onnx` is `model`, which need not be ONNX at all."""
    directory = _add(root, name, manifest_toml, version)
    (directory / "model.onnx").write_bytes(model)
    return directory


def add_onnx_mlp(
    root: Path,
    name: str,
    manifest_toml: str = "max_batch = 8\n[warmup]\niterations = 1\n",
    version: str = "1",
    *,
    inputs: int = 8,
    outputs: int = 4,
    seed: int = 0,
    hidden: int = 16,
) -> Path:
    """Write a two-layer network: input `x` float32[N, inputs], output `y` float32[N, outputs]."""
    made = mlp(inputs, outputs, seed, hidden)
    return add_onnx_model(root, name, made, manifest_toml, version)


def mlp(inputs: int = 8, outputs: int = 4, seed: int = 0, hidden: int = 16) -> bytes:
    """Return a network y = tanh(x a) b, of seeded random weights, as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "a": random.standard_normal((inputs, hidden), dtype=np.float32),
        "b": random.standard_normal((hidden, outputs), dtype=np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "b"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    return onnx_file(graph)


def onnx_file(graph: object) -> bytes:
    """Return a graph as an ONNX file that old and new runtimes read."""
    from onnx import checker, helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


# ------------------------------------------------------------------------- python models


def add_noop(root: Path, name: str = "noop", *, max_batch: int = 8, floats: int = 256) -> Path:
    """Write a model that gives one float for each row and does nothing (1 KB in)."""
    source = """
        import numpy as np

        class Policy:
            def __call__(self, inputs):
                return {"action": np.zeros((len(inputs["x"]), 1), np.float32)}
    """
    manifest = _manifest(max_batch=max_batch, shape=[floats])
    return add_python_model(root, name, source, manifest)


def add_echo(root: Path, name: str = "echo", *, max_batch: int = 8, floats: int = 4) -> Path:
    """Write a model that gives back `x` as `y`."""
    source = """
        class Policy:
            def __call__(self, inputs):
                return {"y": inputs["x"]}
    """
    return add_python_model(root, name, source, _manifest(max_batch=max_batch, shape=[floats]))


def add_sleep(
    root: Path,
    name: str = "sleep",
    *,
    base_ms: float = 5.0,
    per_row_ms: float = 1.0,
    max_batch: int = 8,
) -> Path:
    """Write a model that sleeps `base_ms + per_row_ms * rows` and echoes `x` as `y`."""
    source = f"""
        import time

        class Policy:
            def __call__(self, inputs):
                time.sleep(({base_ms} + {per_row_ms} * len(inputs["x"])) / 1000)
                return {{"y": inputs["x"]}}
    """
    return add_python_model(root, name, source, _manifest(max_batch=max_batch, shape=[4]))


RAISES, STALLS, WRONG_SHAPE, EXITS, KILLED = 1.0, 2.0, 3.0, 4.0, 5.0
"""What a row's first element does to `add_faulty`'s worker; any other value is echoed."""


def add_faulty(root: Path, name: str = "faulty", *, max_batch: int = 8) -> Path:
    """Write an echo that fails on poison rows: see `RAISES` and its neighbours."""
    source = f"""
        import os
        import signal
        import sys

        class Policy:
            def __call__(self, inputs):
                x = inputs["x"]
                poison = set(x[:, 0].tolist())
                if {RAISES} in poison:
                    raise ValueError("poisoned")
                while {STALLS} in poison:
                    pass
                if {WRONG_SHAPE} in poison:
                    return {{"y": x[:, :-1]}}
                if {EXITS} in poison:
                    sys.exit(3)
                if {KILLED} in poison:
                    os.kill(os.getpid(), signal.SIGKILL)
                return {{"y": x}}
    """
    return add_python_model(root, name, source, _manifest(max_batch=max_batch, shape=[4]))


def add_raises_at_import(root: Path, name: str = "broken") -> Path:
    """Write a model that cannot be imported."""
    return add_python_model(root, name, "import a_module_that_is_not_there\n")


def add_exits_at_import(root: Path, name: str = "exits", *, hard: bool = False) -> Path:
    """Write a model that leaves at import: by SystemExit, or `hard` so that the process ends."""
    leave = "os._exit(7)" if hard else "raise SystemExit(7)"
    return add_python_model(root, name, f"import os\n{leave}\n")


def add_stalls_at_import(root: Path, name: str = "stuck") -> Path:
    """Write a model whose import never ends."""
    return add_python_model(root, name, "while True:\n    pass\n")


def rows(*first: float) -> NDArray[np.float32]:
    """Return float32[len(first), 4]: rows for the models above, with these first elements."""
    array = np.zeros((len(first), 4), np.float32)
    array[:, 0] = first
    return array


def _manifest(*, max_batch: int, shape: list[int]) -> str:
    buckets = sorted({1, max_batch})
    return (
        PLAIN_MANIFEST.replace("max_batch = 8", f"max_batch = {max_batch}")
        .replace("buckets = [1, 8]", f"buckets = {buckets}")
        .replace("shape = [4]", f"shape = {shape}")
    )


def _add(root: Path, name: str, manifest_toml: str, version: str) -> Path:
    directory = root / name / version
    directory.mkdir(parents=True, exist_ok=True)
    (root / name / "model.toml").write_text(manifest_toml)
    return directory
