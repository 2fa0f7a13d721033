"""Serve, ask one request of the model `mlp` by the SDK, stop: `ask_once.py APPLIANCE CONFIG`.

Runs with the Python of a release, on whatever machine that is; prints what that is, and the answer.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
from importlib.metadata import version

import numpy as np

from appliance import Connection

READY_S, ANSWER_MS, STOP_S = 300.0, 60_000.0, 120.0
ROW = np.linspace(-1.0, 1.0, 8, dtype=np.float32)


def main() -> int:
    """Do all that; 0 if it is served, answered and stopped as it should be."""
    appliance, configuration = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0appliance-ask-once")
        manager.settimeout(READY_S)
        process = subprocess.Popen(
            [appliance, "serve", "--config", configuration],
            env={**os.environ, "NOTIFY_SOCKET": "@appliance-ask-once"},
        )
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            with Connection("127.0.0.1:5555", client_id="arm-1") as connection:
                model = connection.model("mlp", latency_budget_ms=ANSWER_MS)
                model.observe(x=ROW)
                result = model.get_result(timeout_ms=ANSWER_MS)
                status = model.last_status
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_S)
    said = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "status": None if status is None else status.name,
        "y": [] if result is None else result["y"].tolist(),
        "exit_code": code,
    }
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
