"""ONNX Runtime on the CPU: the embedded default.

One thread, no spinning: several workers share the cores, and a spinning pool costs more tail
latency than a second thread saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engines.base import Arrays
from appliance.errors import EngineError
from appliance.models.plans import Signature, TensorSignature
from appliance.wire.spec import FREE
from appliance.wire.types import DType

MODEL = "model.onnx"
QUIET = 4  # fatal only: what a user needs to know is raised

TYPES: Mapping[str, DType] = {
    "tensor(float16)": DType.FLOAT16,
    "tensor(float)": DType.FLOAT32,
    "tensor(double)": DType.FLOAT64,
    "tensor(uint8)": DType.UINT8,
    "tensor(int8)": DType.INT8,
    "tensor(int16)": DType.INT16,
    "tensor(uint16)": DType.UINT16,
    "tensor(int32)": DType.INT32,
    "tensor(uint32)": DType.UINT32,
    "tensor(int64)": DType.INT64,
    "tensor(uint64)": DType.UINT64,
    "tensor(bool)": DType.BOOL,
    "tensor(string)": DType.STRING,
}


class OnnxRuntimeEngine:
    """A `model.onnx` in a version's directory."""

    keeps_inputs = False

    def __init__(self, directory: Path, *, optimised: bool = True) -> None:
        """Load it.

        Args:
            optimised: The runtime may replace operations by others that give about the same.

        Raises:
            EngineError: The file is missing, unreadable or no model that the runtime can run.
        """
        path = directory / MODEL
        if not path.is_file():
            raise EngineError(f"{path}: is missing")
        try:
            self._session = ort.InferenceSession(
                str(path), _options(optimised), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime has a class of its own for each reason
            raise EngineError(f"{path}: no usable ONNX model: {error}") from error
        self.signature = Signature(
            inputs=tuple(_tensor(path, node) for node in self._session.get_inputs()),
            outputs=tuple(_tensor(path, node) for node in self._session.get_outputs()),
        )
        self._outputs = [tensor.name for tensor in self.signature.outputs or ()]

    def run(self, inputs: dict[str, NDArray[Any]]) -> Arrays:
        """Run the model once."""
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def close(self) -> None:
        """Let the session go."""
        del self._session


def _options(optimised: bool) -> ort.SessionOptions:  # noqa: FBT001  passed on
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = QUIET
    return options


def _tensor(path: Path, node: ort.NodeArg) -> TensorSignature:
    dtype = TYPES.get(node.type)
    if dtype is None:
        raise EngineError(
            f"{path}: {node.name!r} is a {node.type}; supported: {', '.join(sorted(TYPES))}"
        )
    # An open dimension is None, or a name.
    shape = tuple(size if isinstance(size, int) and size >= 0 else FREE for size in node.shape)
    return TensorSignature(node.name, dtype, shape)
