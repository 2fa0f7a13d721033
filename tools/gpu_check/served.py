"""A whole appliance, and robots that ask it through the SDK: each a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.engines.tensorrt.engine import WITHOUT_GRAPHS
from benchmarks.box import Box
from benchmarks.children import Child
from tools.gpu_check.setting import ARENA_BYTES, Setting

CONFIG = """
[[workers]]
name = "gpu"
device = "{device}"
hang_floor_ms = {hang_floor_ms}

[arena]
bytes = {arena_bytes}

[clients.defaults]
arena_bytes = {client_bytes}
"""
CRITICAL = """
[[clients.known]]
id = "critical"
tier = 0
"""
"""A client that comes before all others."""


def config_of(setting: Setting, *, hang_floor_ms: int = 10_000) -> str:
    """Return a configuration with one worker on the device."""
    return CONFIG.format(
        device=setting.device,
        hang_floor_ms=hang_floor_ms,
        arena_bytes=ARENA_BYTES,
        client_bytes=ARENA_BYTES // 4,
    )


@contextmanager
def serving(root: Path, config: str) -> Generator[Box, None, None]:
    """Serve a repository.

    Raises:
        RuntimeError: It does not start: why.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-box-") as name:
        box = Box(Path(name))
        (box.directory / "models").symlink_to(root)
        (box.directory / "appliance.toml").write_text(config)
        box.start()
        try:
            yield box
        finally:
            box.stop()


def graphless(box: Box) -> list[str]:
    """Return what the log of an appliance says of models that run without CUDA graphs."""
    lines = (box.directory / "log").read_text(errors="replace").splitlines()
    return [line for line in lines if WITHOUT_GRAPHS in line]


def robot(
    box: Box,
    model: str,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    client_id: str,
    window: int,
    budget_ms: float = 2000.0,
) -> Child:
    """Start a robot; see `robots`.

    Args:
        inputs: By key: dtype and shape.
        window: So many observations are outstanding at any time.
        budget_ms: Of latency; late answers count as well.
    """
    options: dict[str, Any] = {
        "address": box.address,
        "client_id": client_id,
        "model": model,
        "inputs": inputs,
        "window": window,
        "budget_ms": budget_ms,
    }
    return Child([sys.executable, "-m", "tools.gpu_check.robots", json.dumps(options)])


STATE = {"state": ("float32", (4,))}
"""What `networks.busy` takes."""
