"""Whole appliances with real models, workers, sockets and clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box, box
from support.fleet_models import add_poisonous, add_sleeper
from support.ports import free_ports
from support.repository import add_onnx_mlp

TWO_WORKERS = """
[[workers]]
name = "a"
models = ["poisonous", "sleeper"]

[[workers]]
name = "b"
models = ["mlp"]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mlp (onnxruntime), sleeper (20 ms), poisonous."""
    root = tmp_path_factory.mktemp("models")
    add_onnx_mlp(root, "mlp")
    add_sleeper(root, "sleeper", ms=20)
    add_poisonous(root)
    return root


@pytest.fixture
def two_workers(models: Path) -> Iterator[Box]:
    """An appliance whose slot a-0 serves what may fail, and b-0 the rest."""
    with box(models, config=TWO_WORKERS) as running:
        yield running


@pytest.fixture(name="free_ports")
def fixture_free_ports() -> tuple[int, int]:
    """Two ports that nobody gets who does not ask for them."""
    return free_ports()
