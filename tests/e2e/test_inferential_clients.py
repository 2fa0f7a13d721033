"""Unmodified `inferential` clients get correct actions, and never an error envelope.

`make test` installs them, each in an environment of its own, and names their interpreters.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.box import Box, box
from support.repository import add_onnx_mlp


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_onnx_mlp(root, "mlp")
    return root


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[Box]:
    with box(repository, config='[transport]\nbind = ["tcp://127.0.0.1:*"]\n') as running:
        yield running


@pytest.mark.parametrize(
    ("variable", "faces"), [("APPLIANCE_PEER_010", 1), ("APPLIANCE_PEER_140", 2)]
)
def test_old_clients(running: Box, repository: Path, variable: str, faces: int) -> None:
    interpreter = os.environ.get(variable)
    if not interpreter:
        pytest.skip(f"{variable} names no interpreter")
    session = onnxruntime.InferenceSession(
        str(repository / "mlp" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (key,) = (each.name for each in session.get_inputs())
    (name,) = (each.name for each in session.get_outputs())
    rows = np.random.default_rng(3).standard_normal((20, 8)).astype(np.float32)
    wanted = session.run(None, {key: rows})[0]
    address = running.status()["binds"][0].removeprefix("tcp://")
    script = Path(__file__).with_name("inferential_client.py")
    done = subprocess.run(
        [interpreter, str(script), address, "mlp", key],
        input="\n".join(json.dumps(row.tolist()) for row in rows),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document) == faces
    for got in document.values():
        for answer, action in zip(got[:20], wanted, strict=True):
            np.testing.assert_allclose(answer[name], action, rtol=1e-5, atol=1e-6)
    wrong_shape, wrong_model, after = document["sync"][20:]
    assert wrong_shape is None
    assert wrong_model is None
    np.testing.assert_allclose(after[name], wanted[0], rtol=1e-5, atol=1e-6)
    outcomes = running.wait_settled()["outcomes"]
    assert outcomes["INVALID"] >= 1
    assert outcomes["UNKNOWN_MODEL"] >= 1
