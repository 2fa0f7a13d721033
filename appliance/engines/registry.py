"""Which engine runs a model. Each is imported only where a model needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.engines.base import Engine
from appliance.engines.device import Device
from appliance.errors import EngineError
from appliance.models.manifest import Manifest
from appliance.wire.pb import worker_pb2

MODEL_FILE = "model.onnx"


def load_engine(manifest: Manifest, path: worker_pb2.ModelPath, device: Device) -> Engine:
    """Load a version of a model with the engine that its manifest asks for.

    Raises:
        EngineError: The model cannot be loaded.
        DeviceLost: The process has to end.
        Exception: Whatever a python model's own code raises.
    """
    chosen = _chosen(manifest, Path(path.directory), device)
    return ENGINES[chosen](manifest, path, device)


def _chosen(manifest: Manifest, directory: Path, device: Device) -> str:
    if manifest.engine != "auto":
        return manifest.engine
    if (directory / MODEL_FILE).exists():
        # On a GPU it is an engine for that or none: the CPU would be slow, and nobody would know.
        return "onnxruntime" if device.cuda is None else "tensorrt"
    if manifest.callable:
        return "python"
    raise EngineError(
        f"{directory}: expected {MODEL_FILE}, or in the manifest a callable such as 'policy:Policy'"
    )


def _onnxruntime(_: Manifest, path: worker_pb2.ModelPath, __: Device) -> Engine:
    from appliance.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  see above

    return OnnxRuntimeEngine(Path(path.directory))


def _python(manifest: Manifest, path: worker_pb2.ModelPath, _: Device) -> Engine:
    from appliance.engines.python import PythonEngine  # noqa: PLC0415  likewise

    return PythonEngine(Path(path.directory), manifest.callable)


def _tensorrt(manifest: Manifest, path: worker_pb2.ModelPath, device: Device) -> Engine:
    if device.cuda is None:
        raise EngineError(
            f'engine "tensorrt" runs on a GPU, and this worker is on {device.name}; set '
            'device = "cuda:0" in its [[workers]] table'
        )
    from appliance.engines.tensorrt.loading import load_tensorrt  # noqa: PLC0415  likewise

    return load_tensorrt(manifest, path, device.cuda)


ENGINES: Mapping[str, Callable[[Manifest, worker_pb2.ModelPath, Device], Engine]] = {
    "onnxruntime": _onnxruntime,
    "python": _python,
    "tensorrt": _tensorrt,
}
