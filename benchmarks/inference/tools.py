"""perf_analyzer and Triton, as `make bench-grpc` unpacks them below `.build/peers/`.

perf_analyzer lies in tritonclient's wheel for Linux, Triton with its python backend in PyTriton's.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.children import ROOT

PEERS = ROOT / ".build" / "peers"
ANALYZER = PEERS / "perf" / "perf_analyzer"
LIBRARIES = PEERS / "perf" / "lib"
TRITON = PEERS / "triton" / "pytriton" / "tritonserver"
TRITON_PYTHON = PEERS / "triton" / "python"


class ToolMissing(Exception):
    """It is not there; the message says what to do."""


def analyzer() -> tuple[Path, dict[str, str]]:
    """Return perf_analyzer and its environment.

    Raises:
        ToolMissing: It is not there.
    """
    if not ANALYZER.exists():
        raise ToolMissing(f"{ANALYZER} is not there: `make bench-grpc` fetches it")
    return ANALYZER, {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES)}


def triton() -> tuple[Path, dict[str, str]]:
    """Return Triton's directory, and the environment in which its python backend has numpy.

    Raises:
        ToolMissing: It is not there.
    """
    if not (TRITON / "bin" / "tritonserver").exists():
        raise ToolMissing(f"{TRITON} is not there: `make bench-grpc` fetches it")
    found = {"PATH": f"{TRITON_PYTHON}/bin:{os.environ['PATH']}", "VIRTUAL_ENV": str(TRITON_PYTHON)}
    return TRITON, {**os.environ, **found}
