"""What there is: the GPU, the packages."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from tools.gpu_check.finding import Finding
from tools.gpu_check.setting import Setting

PACKAGES = (
    *("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-ml-py"),
    *("numpy", "pillow", "onnx", "onnxruntime"),
)
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu"


def check(setting: Setting, finding: Finding) -> None:
    """Find out."""
    finding.details |= {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "nvidia_smi": _nvidia_smi(),
    }
    if setting.on_gpu:
        with setting.opened() as device:
            assert device.cuda is not None
            finding.details["facts"] = str(device.cuda.facts)
            finding.add("free memory of the GPU", device.cuda.free_bytes() / 2**20, "MiB")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _nvidia_smi() -> str:
    try:
        return subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=4,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none: {error}"
