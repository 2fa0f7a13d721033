"""Runs an unmodified `inferential` client against an address; prints what it got as JSON.

Executed by that client's own interpreter: `python inferential_client.py ADDRESS MODEL KEY`.
Reads float32 rows as JSON lists from standard input, one a line.
"""

from __future__ import annotations

import asyncio
import json
import sys

import inferential
import numpy as np

address, model_id, key = sys.argv[1:]
rows = [np.asarray(json.loads(line), np.float32) for line in sys.stdin]


def arrays(result: dict | None) -> dict | None:
    if result is None:
        return None
    return {name: v.tolist() for name, v in result.items() if isinstance(v, np.ndarray)}


def sync() -> list:
    connection = inferential.Connection(server=address, client_id="old-arm", client_type="arm")
    model = connection.model(model_id, latency_budget_ms=1000)
    got = []
    for row in rows:
        model.observe(urgency=0.5, steps_remaining=3, prompt="pick", **{key: row})
        got.append(arrays(model.get_result(timeout_ms=5000)))
    # A mistake: the answer never comes, and no error envelope either.
    model.observe(**{key: np.zeros(3, np.float32)})
    got.append(arrays(model.get_result(timeout_ms=300)))
    other = connection.model("nonesuch")
    other.observe(**{key: rows[0]})
    got.append(arrays(other.get_result(timeout_ms=300)))
    model.observe(**{key: rows[0]})
    got.append(arrays(model.get_result(timeout_ms=5000)))
    connection.close()
    return got


async def asynchronously() -> list:
    connection = inferential.AsyncConnection(server=address, client_id="old-async")
    model = connection.model(model_id, latency_budget_ms=1000)
    got = []
    for row in rows:
        await model.observe(**{key: row})
        got.append(arrays(await model.get_result(timeout_ms=5000)))
    connection.close()
    return got


document = {"sync": sync()}
if hasattr(inferential, "AsyncConnection"):
    document["async"] = asyncio.run(asynchronously())
print(json.dumps(document))
