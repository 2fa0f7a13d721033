"""`python -m tools.gpu_check.robots OPTIONS`: a client that asks through the SDK, again and again.

So many observations are outstanding at any time; each answer is followed by another one. For each
question on standard input it goes on for `seconds`, or `until` a file is there, and answers with
a line of JSON: what was asked, what came.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from appliance import Connection
from benchmarks.stdio import answer
from tools.gpu_check.finding import summary_us

PATIENCE_MS = 30_000.0
SETS = 8
"""Of other numbers, which take turns."""


def ask(
    *,
    address: str,
    client_id: str,
    model: str,
    inputs: dict[str, tuple[str, list[int]]],
    window: int,
    budget_ms: float,
) -> None:
    """Answer questions until there are no more.

    Args:
        inputs: By key: dtype and shape.
    """
    random = np.random.default_rng()
    sets = [
        {
            key: (random.random(shape) * (255 if dtype == "uint8" else 1)).astype(dtype)
            for key, (dtype, shape) in inputs.items()
        }
        for _ in range(SETS)
    ]
    connection = Connection(address, client_id=client_id)
    handle = connection.model(
        model, latency_budget_ms=budget_ms, lateness="soft", keep="all", window=window
    )
    if not connection.wait_reachable(PATIENCE_MS):
        raise SystemExit(f"{address} does not answer")

    def run(seconds: float, until: str = "") -> dict[str, Any]:
        end = time.monotonic() + seconds
        times_ns: list[int] = []
        answered_ns = [time.monotonic_ns()]
        ended: Counter[str] = Counter()
        versions: Counter[str] = Counter()
        refusal = ""
        asked = 0
        for _ in range(window):
            handle.observe_at(sets[asked % SETS])
            asked += 1
        for result in handle.results(seconds * 1000 + PATIENCE_MS):
            now_ns = time.monotonic_ns()
            ended[result.status.name] += 1
            if result.ok:
                times_ns.append(result.elapsed_ns)
                versions[result.model_version] += 1
                answered_ns.append(now_ns)
            else:
                refusal = f"{result.status.name}: {result.message}"
            if time.monotonic() < end and not (until and Path(until).exists()):
                handle.observe_at(sets[asked % SETS])
                asked += 1
        took_s = (answered_ns[-1] - answered_ns[0]) / 1e9
        return {
            "asked": asked,
            "ended": ended,
            "lost": asked - ended.total(),
            "refusal": refusal,
            "versions": versions,
            "per_second": round(len(times_ns) / took_s, 1) if took_s else 0.0,
            "round_trip_us": summary_us(times_ns or [0]),
            "longest_gap_ms": round(max(np.diff(answered_ns), default=0) / 1e6, 2),
        }

    answer(run)


if __name__ == "__main__":
    ask(**json.loads(sys.argv[1]))
