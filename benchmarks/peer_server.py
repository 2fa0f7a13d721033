"""Runs under the peer's interpreter: its server with a model in its own process.

The no-op gives back what it is given; the slow ones serve one at a time, as a device does, without
blocking the server's loop. Unless the options say otherwise, the queue is so large that nothing is
dropped.

The options are those of its scheduling, and two more: `engines`, by model how long the device takes
for an observation, nanoseconds; `budgets_ms`, by client.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable

from inferential.config.schema import ClientEntry, InferentialConfig
from inferential.dispatch.local import LocalDispatcher
from inferential.server import Server

from benchmarks.scheduling.accelerator import occupy


def noop(observation: dict) -> dict:
    """Return the input."""
    return {"action": observation["state"]}


DEVICE = asyncio.Lock()


async def slow(observation: dict) -> dict:
    """Take 50 ms, one at a time."""
    async with DEVICE:
        await asyncio.sleep(0.05)
    return {"action": observation["state"]}


def occupying(busy_ns: int) -> Callable[[dict], Awaitable[dict]]:
    """Return a model that has the device for so long."""

    async def run(observation: dict) -> dict:
        async with DEVICE:
            await asyncio.to_thread(occupy, busy_ns)
        return {"action": observation["state"]}

    return run


def _leave() -> None:
    sys.stdin.read()
    os._exit(0)


async def main() -> None:
    """Serve until standard input ends."""
    address, model, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    config = InferentialConfig()
    config.transport.bind = address
    engines, budgets_ms = options.pop("engines", {}), options.pop("budgets_ms", {})
    config.clients.known = [
        ClientEntry(id=client, model=model, latency_budget_ms=budget_ms)
        for client, budget_ms in budgets_ms.items()
    ]
    scheduling = config.scheduling
    scheduling.max_queue_size = 100_000
    for key, value in options.items():
        setattr(scheduling, key, value)
    models = {name: occupying(busy_ns) for name, busy_ns in engines.items()}
    dispatcher = LocalDispatcher({"noop": noop, "busy": slow, **models})
    server = Server(models=[model, *models], config=config, dispatcher=dispatcher)
    threading.Thread(target=_leave, daemon=True).start()
    serving = asyncio.create_task(server.run())
    await asyncio.sleep(0.2)
    print("{}", flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main())
