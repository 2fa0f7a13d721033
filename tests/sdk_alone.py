"""Run by a Python that has the base install and nothing else: is the SDK whole?

make test-sdk
"""

import importlib.util
import subprocess
import sys
import time

import numpy as np

from appliance import AsyncConnection, Connection, Encoded

OTHERS = ("trio", "structlog", "cattrs", "h11", "rich", "onnxruntime", "PIL")

present = [name for name in OTHERS if importlib.util.find_spec(name)]
assert not present, f"this is no base install: it has {', '.join(present)}"

# Nobody listens there; asking must neither wait nor fail.
with Connection("127.0.0.1:9", client_id="alone") as connection:
    policy = connection.model("policy")
    began = time.monotonic()
    for _ in range(300):
        policy.observe(joints=np.zeros(7, np.float32), image=Encoded(b"\xff\xd8", "jpeg"))
    assert time.monotonic() - began < 5, "asking waits for a server that is not there"
    assert policy.get_result(timeout_ms=0) is None
    statistics = connection.statistics()
assert statistics.asked == 300
assert statistics.asked == statistics.ended + statistics.outstanding
assert AsyncConnection is not None

# The command says what is missing instead of showing a traceback.
command = [sys.executable, "-m", "appliance", "serve"]
said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
assert said.returncode == 2, said
assert "pip install 'appliance[server]'" in said.stderr, said.stderr
assert "Traceback" not in said.stderr, said.stderr
print("the SDK works alone")
