"""The model repository that a GPU is checked with: made on the spot, or out of wheels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.gpu_check import networks
from tools.gpu_check.wheels import SHIPPED

MADE: dict[str, Callable[[Path], None]] = {
    "policy": networks.policy,
    "camera": networks.camera,
    "recurrent": networks.recurrent,
}
MANIFESTS = {
    "policy": "max_batch = 16\n",
    "camera": "max_batch = 8\n",
    "resnet": "max_batch = 16\n",
    "recurrent": """\
max_batch = 8
[[state]]
input = "state"
output = "stateN"
batch_axis = 1
""",
    "voice": """\
max_batch = 1
[[state]]
input = "state"
output = "stateN"
batch_axis = 1
""",
    "text_direction": """\
max_batch = 8
[[inputs]]
name = "x"
shape = [3, 48, 192]
""",
    "text_finder": """\
max_batch = 4
output_bytes = 409600
[[inputs]]
name = "x"
shape = [3, 320, 320]
""",
    "file_type": "max_batch = 8\n",
    "resnet_light": "max_batch = 1\n",
}
"""All models by name: what they take, and up to which batch. Those that most sections need come
first."""


def make(root: Path, names: Sequence[str], *, picture_side: int) -> list[str]:
    """Write a model repository.

    Args:
        picture_side: Of what `resnet` takes.

    Returns:
        What could not be had, and how to get it.
    """
    missing: list[str] = []
    for name in names:
        try:
            source = SHIPPED[name].locate() if name in SHIPPED else None
        except FileNotFoundError as error:
            missing.append(f"{name}: {error}")
            continue
        path = place(root, name, MANIFESTS[name])
        if source is not None:
            shutil.copyfile(source, path)
        elif name == "resnet":
            networks.resnet(path, side=picture_side)
        else:
            MADE[name](path)
    return missing


def place(root: Path, name: str, manifest: str, version: str = "1") -> Path:
    """Write a model's manifest; return where the file of a version belongs."""
    directory = root / name / version
    directory.mkdir(parents=True, exist_ok=True)
    (directory.parent / "model.toml").write_text(manifest)
    return directory / "model.onnx"
