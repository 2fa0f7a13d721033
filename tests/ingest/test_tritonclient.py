"""An unmodified `tritonclient` gets what onnxruntime gives, by all of its ways.

`make test` installs it in an environment of its own and names its interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.box import box
from support.grpc import OVERRIDE, grpc_address
from support.repository import add_onnx_mlp


def test_tritonclient(tmp_path: Path) -> None:
    interpreter = os.environ.get("APPLIANCE_TRITONCLIENT")
    if not interpreter:
        pytest.skip("APPLIANCE_TRITONCLIENT names no interpreter")
    add_onnx_mlp(tmp_path, "mlp")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "mlp" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (key,) = (each.name for each in session.get_inputs())
    (name,) = (each.name for each in session.get_outputs())
    rows = np.random.default_rng(3).standard_normal((10, 8)).astype(np.float32)
    wanted = session.run(None, {key: rows})[0]
    script = Path(__file__).with_name("triton_client.py")
    with box(tmp_path, overrides=(OVERRIDE, "ingest.grpc.shared_memory=true")) as running:
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
    found = json.loads(done.stdout)
    shared = found["shared"]
    np.testing.assert_allclose(shared["batch"], wanted[:8], rtol=1e-5, atol=1e-6)
    assert shared["status"] == ["source", "target"]
    assert shared["twice"] == "StatusCode.ALREADY_EXISTS"
    assert shared["unknown"] == "StatusCode.NOT_FOUND"
    assert shared["beyond"] == "StatusCode.INVALID_ARGUMENT"
    sync, stream, aio = found["sync"], found["stream"], found["aio"]

    def same(got: object) -> None:
        np.testing.assert_allclose(np.reshape(got, (len(rows), -1)), wanted, rtol=1e-5, atol=1e-6)

    for got in (sync["unary"], sync["async"], stream["outputs"][:10], aio["unary"], aio["stream"]):
        same(got)
    np.testing.assert_allclose(sync["batch"], wanted[:8], rtol=1e-5, atol=1e-6)
    assert sync["batch_id"] == "batch"
    best = np.argsort(-wanted[0], kind="stable")[:2]
    assert [text.split(":")[1] for text in sync["classes"]] == [str(index) for index in best]
    assert (sync["live"], sync["ready"], sync["model_ready"]) == (True, True, True)
    assert "statistics" in sync["server"]["extensions"]
    assert sync["metadata"]["inputs"] == [{"name": key, "datatype": "FP32", "shape": ["-1", "8"]}]
    assert sync["config"]["max_batch_size"] == 8
    assert sync["index"] == [{"name": "mlp", "version": "1", "state": "READY"}]
    statistics = sync["statistics"]
    assert statistics["version"] == "1"
    assert int(statistics["inference_count"]) == 8 + 10 + 8 + 1 + 10
    assert int(statistics["inference_stats"]["success"]["count"]) == 1 + 10 + 1 + 1 + 10
    assert sync["other_ready"] == sync["wrong_model"] == "StatusCode.NOT_FOUND"
    bad = ("wrong_shape", "wrong_type", "wrong_output", "too_many")
    assert [sync[each] for each in bad] == ["StatusCode.INVALID_ARGUMENT"] * 4
    assert stream["ids"] == [*(str(index) for index in range(10)), "after"]
    assert stream["finals"]
    (error,) = stream["errors"]
    assert "[NOT_FOUND] model 'nonesuch' is not served" in error
    assert status["ledger"]["balanced"]
    assert status["outcomes"]["INVALID"] == 4 + 2
    assert status["outcomes"]["UNKNOWN_MODEL"] == 2
