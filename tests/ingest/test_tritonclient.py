"""An unmodified `tritonclient` gets what onnxruntime gives, by all of its ways.

`make test` installs it in an environment of its own and names its interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from attrs import frozen
from numpy.typing import NDArray
from support.box import box
from support.grpc import OVERRIDE, grpc_address
from support.repository import add_onnx_mlp

INVALID, NOT_FOUND = "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"


@frozen
class Run:
    """What the client found in one run, and what onnxruntime gives.

    Attributes:
        key: The model's input.
        wanted, extra: For all rows, of the model; for the first, of the one that is loaded.
    """

    said: dict[str, Any]
    status: dict[str, Any]
    key: str
    wanted: NDArray[Any]
    extra: NDArray[Any]

    def same(self, got: object) -> None:
        np.testing.assert_allclose(
            np.reshape(got, (len(self.wanted), -1)), self.wanted, rtol=1e-5, atol=1e-6
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    interpreter = os.environ.get("APPLIANCE_TRITONCLIENT")
    if not interpreter:
        pytest.skip("APPLIANCE_TRITONCLIENT names no interpreter")
    root = tmp_path_factory.mktemp("models")
    add_onnx_mlp(root, "mlp")
    session = _session(root, "mlp")
    key, name = session.get_inputs()[0].name, session.get_outputs()[0].name
    rows = np.random.default_rng(3).standard_normal((10, 8)).astype(np.float32)
    script = Path(__file__).with_name("triton_client.py")
    allowed = ("ingest.grpc.shared_memory=true", "ingest.grpc.model_control=true")
    with box(root, overrides=(OVERRIDE, *allowed)) as running:
        add_onnx_mlp(root, "extra", seed=5)  # which is not served yet
        done = subprocess.run(
            [interpreter, str(script), grpc_address(running), "mlp", key, name],
            input="\n".join(json.dumps(row.tolist()) for row in rows),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        status = running.wait_settled()
    wanted = session.run(None, {key: rows})[0]
    extra = _session(root, "extra").run(None, {key: rows[:1]})[0]
    return Run(json.loads(done.stdout), dict(status), key, np.asarray(wanted), np.asarray(extra))


def _session(root: Path, model: str) -> onnxruntime.InferenceSession:
    path = str(root / model / "1" / "model.onnx")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_unary_asynchronous_and_streaming_calls_get_what_onnxruntime_gives(run: Run) -> None:
    sync, stream, aio = run.said["sync"], run.said["stream"], run.said["aio"]
    for got in (sync["unary"], sync["async"], stream["outputs"][:10], aio["unary"], aio["stream"]):
        run.same(got)
    np.testing.assert_allclose(sync["batch"], run.wanted[:8], rtol=1e-5, atol=1e-6)
    assert sync["batch_id"] == "batch"
    best = np.argsort(-run.wanted[0], kind="stable")[:2]
    assert [text.split(":")[1] for text in sync["classes"]] == [str(index) for index in best]
    assert stream["ids"] == [*(str(index) for index in range(10)), "after"]
    assert stream["finals"]


def test_shared_memory(run: Run) -> None:
    shared = run.said["shared"]
    np.testing.assert_allclose(shared["batch"], run.wanted[:8], rtol=1e-5, atol=1e-6)
    assert shared["status"] == ["source", "target"]
    assert shared["twice"] == "StatusCode.ALREADY_EXISTS"
    assert shared["unknown"] == NOT_FOUND
    assert shared["beyond"] == INVALID


def test_what_it_asks_of_the_server_and_its_models(run: Run) -> None:
    sync = run.said["sync"]
    assert (sync["live"], sync["ready"], sync["model_ready"]) == (True, True, True)
    assert "statistics" in sync["server"]["extensions"]
    inputs = [{"name": run.key, "datatype": "FP32", "shape": ["-1", "8"]}]
    assert sync["metadata"]["inputs"] == inputs
    assert sync["config"]["max_batch_size"] == 8
    assert sync["index"] == [{"name": "mlp", "version": "1", "state": "READY"}]
    statistics = sync["statistics"]
    assert statistics["version"] == "1"
    assert int(statistics["inference_count"]) == 8 + 10 + 8 + 1 + 10
    assert int(statistics["inference_stats"]["success"]["count"]) == 1 + 10 + 1 + 1 + 10


def test_models_are_loaded_and_unloaded(run: Run) -> None:
    repository = run.said["repository"]
    assert repository["loaded"] == {"mlp": "READY", "extra": "READY"}
    np.testing.assert_allclose(repository["answered"], run.extra, rtol=1e-5, atol=1e-6)
    assert repository["unloaded"] == {"mlp": "READY"}
    assert repository["gone"] == repository["nowhere"] == NOT_FOUND


def test_refusals(run: Run) -> None:
    sync = run.said["sync"]
    assert sync["other_ready"] == sync["wrong_model"] == NOT_FOUND
    bad = ("wrong_shape", "wrong_type", "wrong_output", "too_many")
    assert [sync[each] for each in bad] == [INVALID] * 4
    (error,) = run.said["stream"]["errors"]
    assert "[NOT_FOUND] model 'nonesuch' is not served" in error
    assert run.status["ledger"]["balanced"]
    assert run.status["outcomes"]["INVALID"] == 4 + 2
    assert run.status["outcomes"]["UNKNOWN_MODEL"] == 2 + 1
