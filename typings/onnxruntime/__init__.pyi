"""What is used of onnxruntime, for the type checker: the package's own types are partial."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

class ExecutionMode(enum.Enum):
    ORT_SEQUENTIAL = 0

class GraphOptimizationLevel(enum.Enum):
    ORT_DISABLE_ALL = 0

class SessionOptions:
    graph_optimization_level: GraphOptimizationLevel
    intra_op_num_threads: int
    inter_op_num_threads: int
    execution_mode: ExecutionMode
    log_severity_level: int
    def add_session_config_entry(self, key: str, value: str, /) -> None: ...

class NodeArg:
    name: str
    type: str
    shape: list[int | str | None]

class InferenceSession:
    def __init__(self, path: str, options: SessionOptions, *, providers: list[str]) -> None: ...
    def get_inputs(self) -> list[NodeArg]: ...
    def get_outputs(self) -> list[NodeArg]: ...
    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]: ...
