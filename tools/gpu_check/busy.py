"""Models whose work is as large as is wanted, for robots that send four numbers."""

from __future__ import annotations

from pathlib import Path

from tools.gpu_check import networks
from tools.gpu_check.models import place
from tools.gpu_check.setting import Setting

ON_GPU = {"channels": 256, "side": 128}
ON_CPU = {"channels": 16, "side": 16}
"""Of one layer and row: 19 GFLOP, and 1.2 MFLOP."""


def busy_model(
    setting: Setting,
    root: Path,
    name: str,
    *,
    layers: int,
    manifest: str,
    seed: int = 1,
    version: str = "1",
) -> Path:
    """Write a model that takes a time in proportion to `layers`; return its file."""
    path = place(root, name, manifest, version)
    size = ON_GPU if setting.on_gpu else ON_CPU
    networks.busy(path, layers=layers, seed=seed, **size)
    return path
