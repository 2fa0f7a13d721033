"""Robots in a process of their own, each in its cadence, until they are told to end.

`python -m support.robots ADDRESS SPECIFICATION`: the latter is a list of robots in JSON, each the
arguments of `Robot`. Prints a line once each has had an answer or a refusal; ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from appliance import AsyncConnection

TESTS = Path(__file__).parent.parent


@frozen(kw_only=True)
class Robot:
    """One robot: what it asks, how often, and how soon it needs an answer."""

    id: str
    model: str
    hz: float
    key: str = "x"
    width: int = 4
    budget_ms: float = 100.0
    lateness: str = "soft"
    steps: int | None = None


@contextmanager
def fleet(address: str, robots: Sequence[dict[str, Any]]) -> Iterator[subprocess.Popen[str]]:
    """Let robots ask; return once all have heard something."""
    command = [sys.executable, "-m", "support.robots", address, json.dumps(list(robots))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "error"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "all asked\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


async def ask(robot: Robot, connection: AsyncConnection, delay_s: float) -> AsyncIterator[None]:
    """Ask in its cadence for ever; yield whenever something was heard."""
    loop = asyncio.get_running_loop()
    model = connection.model(
        robot.model,
        latency_budget_ms=robot.budget_ms,
        lateness=robot.lateness,
        step_period_ms=20.0 if robot.steps else None,
    )
    due = loop.time() + delay_s
    while True:
        await asyncio.sleep(due - loop.time())
        x = np.zeros(robot.width, np.float32)
        model.observe_at({robot.key: x}, steps_remaining=robot.steps)
        due += 1 / robot.hz
        if await model.wait((due - loop.time()) * 1000) is not None:
            yield


async def main(address: str, robots: Sequence[Robot]) -> None:
    ended, waiting = asyncio.Event(), {robot.id for robot in robots}
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)

    async def run(robot: Robot, delay_s: float) -> None:
        async with AsyncConnection(address, client_id=robot.id) as connection:
            async for _ in ask(robot, connection, delay_s):
                if robot.id in waiting:
                    waiting.discard(robot.id)
                    if not waiting:
                        print("all asked", flush=True)

    running = [asyncio.create_task(run(each, n / 97)) for n, each in enumerate(robots)]
    ending = asyncio.create_task(ended.wait())
    done, _ = await asyncio.wait([ending, *running], return_when=asyncio.FIRST_COMPLETED)
    for task in [ending, *running]:
        task.cancel()
    await asyncio.gather(ending, *running, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [Robot(**each) for each in json.loads(sys.argv[2])]))
