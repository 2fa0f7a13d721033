"""Model repositories for tests against a whole appliance."""

from __future__ import annotations

from pathlib import Path

from support.repository import add_python_model

STATE = """
[[inputs]]
name = "state"
dtype = "float32"
shape = [{width}]
"""


def add_sleeper(root: Path, name: str = "sleeper", *, ms: float, max_batch: int = 1) -> None:
    """A model that takes `ms` per batch and returns its input plus one."""
    add_python_model(
        root,
        name,
        f"""
import time

def run(batch):
    time.sleep({ms} / 1000)
    return {{"action": batch["state"] + 1}}
""",
        f'engine = "python"\ncallable = "policy:run"\nmax_batch = {max_batch}\n'
        + STATE.format(width=4),
    )


CAMERA_POLICY = """
engine = "python"
callable = "policy:run"
max_batch = 4

[[inputs]]
name = "state"
dtype = "float32"
shape = [7]

[[inputs]]
name = "image"
from = "camera"
dtype = "uint8"
decode = ["jpeg", "png"]
resize = [96, 96]

[[inputs]]
name = "prompt"
from = "metadata:prompt"
optional = true

[chunk]
horizon = 16
step_period_ms = 20
"""


def add_camera_policy(root: Path, name: str = "policy") -> None:
    """A policy with a camera: chunks of 16 actions, each the mean of every color of the image."""
    add_python_model(
        root,
        name,
        """
import numpy as np

def run(batch):
    colors = batch["image"].mean((1, 2)).astype(np.float32)
    return {"action": np.repeat(colors[:, None], 16, axis=1)}
""",
        CAMERA_POLICY,
    )


def add_poisonous(root: Path, name: str = "poisonous", *, max_batch: int = 8) -> None:
    """A model that is slow, kills its process on 666, and raises on 13."""
    add_python_model(
        root,
        name,
        """
import os
import signal
import time

def run(batch):
    time.sleep(0.02)
    state = batch["state"]
    if (state == 666).any():
        os.kill(os.getpid(), signal.SIGKILL)
    if (state == 13).any():
        raise ValueError("thirteen brings bad luck")
    return {"action": state * 2}
""",
        f'engine = "python"\ncallable = "policy:run"\nmax_batch = {max_batch}\n'
        + STATE.format(width=4),
    )
