"""Runs under the peer's interpreter: a closed-loop robot on its own client, as `sdk_loop` is."""

from __future__ import annotations

import json
import sys
import time

import inferential.client
import numpy as np


def main() -> None:
    """Answer each `{"seconds": N}` with the replies of N seconds."""
    address, number, wait_ms = sys.argv[1], sys.argv[2], float(sys.argv[3])
    inferential.client._normalize_server = str  # noqa: SLF001  it knows tcp only; ipc does as well
    connection = inferential.client.Connection(address, client_id=f"robot-{number}")
    model = connection.model("busy", latency_budget_ms=wait_ms)
    state = np.zeros(256, np.float32)
    print("{}", flush=True)
    for line in sys.stdin:
        replies = 0
        end = time.monotonic() + json.loads(line)["seconds"]
        while time.monotonic() < end:
            model.observe(state=state)
            replies += model.get_result(timeout_ms=round(wait_ms)) is not None
        print(json.dumps({"replies": replies}), flush=True)


if __name__ == "__main__":
    main()
