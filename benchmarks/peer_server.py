"""Runs under the peer's interpreter: its server with a model in its own process.

The no-op gives back what it is given; the slow one serves one at a time, as a device does, without
blocking the server's loop. The queue is so large that nothing is dropped.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading

from inferential.config.schema import InferentialConfig
from inferential.dispatch.local import LocalDispatcher
from inferential.server import Server


def noop(observation: dict) -> dict:
    """Return the input."""
    return {"action": observation["state"]}


DEVICE = asyncio.Lock()


async def slow(observation: dict) -> dict:
    """Take 50 ms, one at a time."""
    async with DEVICE:
        await asyncio.sleep(0.05)
    return {"action": observation["state"]}


def _leave() -> None:
    sys.stdin.read()
    os._exit(0)


async def main() -> None:
    """Serve until standard input ends."""
    address, model, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    config = InferentialConfig()
    config.transport.bind = address
    scheduling = config.scheduling
    scheduling.max_queue_size = 100_000
    for key, value in options.items():
        setattr(scheduling, key, value)
    dispatcher = LocalDispatcher({"noop": noop, "busy": slow})
    server = Server(models=[model], config=config, dispatcher=dispatcher)
    threading.Thread(target=_leave, daemon=True).start()
    serving = asyncio.create_task(server.run())
    await asyncio.sleep(0.2)
    print("{}", flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main())
