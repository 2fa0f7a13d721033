"""Which engine runs a model. Each is imported only where a model needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.engines.base import Engine
from appliance.errors import EngineError
from appliance.models.manifest import Manifest

MODEL_FILE = "model.onnx"


def load_engine(manifest: Manifest, directory: Path) -> Engine:
    """Load the model in `directory`, a version's, with the engine its manifest asks for.

    Raises:
        EngineError: The model cannot be loaded.
        Exception: Whatever a python model's own code raises.
    """
    return ENGINES[_chosen(manifest, directory)](manifest, directory)


def _chosen(manifest: Manifest, directory: Path) -> str:
    if manifest.engine != "auto":
        return manifest.engine
    if (directory / MODEL_FILE).exists():
        return "onnxruntime"
    if manifest.callable:
        return "python"
    raise EngineError(
        f"{directory}: expected {MODEL_FILE}, or in the manifest a callable such as 'policy:Policy'"
    )


def _onnxruntime(_: Manifest, directory: Path) -> Engine:
    from appliance.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  see above

    return OnnxRuntimeEngine(directory)


def _python(manifest: Manifest, directory: Path) -> Engine:
    from appliance.engines.python import PythonEngine  # noqa: PLC0415  likewise

    return PythonEngine(directory, manifest.callable)


ENGINES: Mapping[str, Callable[[Manifest, Path], Engine]] = {
    "onnxruntime": _onnxruntime,
    "python": _python,
}
