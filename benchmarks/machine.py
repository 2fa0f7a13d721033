"""On what the figures were taken."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import zmq
from google.protobuf.internal import api_implementation

import appliance
from appliance.sessions import fastpath

PACKAGES = ("trio", "pyzmq", "protobuf", "numpy", "onnxruntime")


def describe() -> dict[str, str]:
    """Return machine, kernel, Python and packages, one line of text each."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    packages = [f"{name} {_version(name)}" for name in PACKAGES]
    packages.append(f"libzmq {zmq.zmq_version()}, protobuf in {api_implementation.Type()}")
    packages.append(
        f"no fast path: {fastpath.missing}" if fastpath.missing else "fast path compiled"
    )
    return {
        "machine": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores; load average {load}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": f"appliance {appliance.__version__}, {', '.join(packages)}",
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
