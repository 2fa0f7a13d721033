"""What there is: the GPU, the packages; and whether all that is needed can be used."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from appliance.engines.cuda.compiler import compile_text
from appliance.engines.tensorrt.flavour import find_flavour
from appliance.errors import ApplianceError
from benchmarks.children import ROOT
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Setting

NEEDED = ("numpy", "PIL", "onnx", "onnxruntime")
NEEDED_ON_GPU = ("pycuda", "cuda", "pynvml")
KERNEL = 'extern "C" __global__ void nothing() {}'
"""NVRTC compiles it, if it is there and knows such GPUs."""
MOSTLY_FREE = Limit(">=", 0.5)
"""Or else somebody has the GPU already."""
PACKAGES = (
    "appliance",
    *("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-ml-py"),
    *("numpy", "pillow", "onnx", "onnxruntime"),
)
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu"


def check(setting: Setting, finding: Finding) -> None:
    """Find out."""
    finding.details |= {
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "nvidia_smi": _nvidia_smi(),
    }
    if setting.on_gpu:
        with setting.opened() as device:
            assert device.cuda is not None
            finding.details["facts"] = str(device.cuda.facts)
            free, has = device.cuda.free_bytes(), device.cuda.facts.memory_bytes
            finding.add("free memory of the GPU", free / 2**20, "MiB")
            finding.add("of all that it has", free / has, "", MOSTLY_FREE)
            architecture = f"--gpu-architecture=sm_{device.cuda.facts.capability.replace('.', '')}"
        _expect(finding, find_flavour)
        _expect(finding, lambda: compile_text(KERNEL, (architecture,)))
    for module in (*NEEDED, *(NEEDED_ON_GPU if setting.on_gpu else ())):
        finding.expect(find_spec(module) is not None, f"{module} is not installed")


def _expect(finding: Finding, use: Callable[[], object]) -> None:
    """Take in what is said where something cannot be used."""
    problem = ""
    try:
        use()
    except ApplianceError as error:
        problem = str(error)
    finding.expect(not problem, problem)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return of which commit the sources are; what was staged has it in its contents."""
    contents = ROOT / "contents.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(contents.read_text())["commit"])
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=4,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not known"


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
