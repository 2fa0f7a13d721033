"""Many robots in one process, for load: `python -m support.robots ADDRESS PLANS`, until EOF.

Each is a DEALER that sends an array of float32 by its plan and reads what comes; PLANS is a list in
JSON. A line is printed once each has heard something.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import zmq

from appliance.wire.session import encode_observation
from appliance.wire.types import DType, Lateness, Observation, Tensor

TESTS = Path(__file__).resolve().parent.parent


@attrs.frozen
class Plan:
    """What a robot does.

    Attributes:
        jitter: Of its period, uniform, as a share of it.
        steps: It has so many of its `step_ms` left when it asks; None: it does not say.
        leaves_s: It goes after so long; 0 is never.
    """

    name: str
    model: str
    hz: float
    kind: str = "arm"
    key: str = "state"
    width: int = 4
    jitter: float = 0.05
    budget_ms: float = 100.0
    steps: int | None = None
    step_ms: float = 20.0
    firm: bool = False
    leaves_s: float = 0.0


class Robot:
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, plan: Plan) -> None:
        self.plan = plan
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.connect(address)
        self.random = random.Random(plan.name)
        self.observation = Observation(
            client_id=plan.name,
            client_type=plan.kind,
            model_id=plan.model,
            tensors=(Tensor(plan.key, DType.FLOAT32, (plan.width,), 0, 4 * plan.width),),
            protocol_version=1,
            wants_status=True,
            latency_budget_us=round(plan.budget_ms * 1000),
            steps_remaining=plan.steps,
            step_period_us=None if plan.steps is None else round(plan.step_ms * 1000),
            lateness=Lateness.FIRM if plan.firm else Lateness.SOFT,
        )
        self.sequence = 0
        self.has_heard = False

    def turn(self) -> float:
        """Read what came, ask again; return in how many seconds the next is due."""
        with suppress(zmq.Again):
            while True:
                self.socket.recv_multipart(zmq.NOBLOCK)
                self.has_heard = True
        self.sequence += 1
        envelope = encode_observation(attrs.evolve(self.observation, sequence=self.sequence))
        with suppress(zmq.Again):  # the box is away
            self.socket.send_multipart([b"", envelope, bytes(4 * self.plan.width)], zmq.NOBLOCK)
        share = self.plan.jitter
        return (1 + self.random.uniform(-share, share)) / self.plan.hz


def main(address: str, plans: Sequence[Plan]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    robots = [Robot(context, address, plan) for plan in plans]
    told, began = False, time.monotonic()
    due = [(began + robot.random.random() / robot.plan.hz, n) for n, robot in enumerate(robots)]
    heapq.heapify(due)
    while due:
        at, number = heapq.heappop(due)
        robot, now = robots[number], time.monotonic()
        if select.select([sys.stdin], [], [], max(0.0, at - now))[0]:
            break
        if robot.plan.leaves_s and now - began > robot.plan.leaves_s:
            robot.socket.close()
        else:
            heapq.heappush(due, (at + robot.turn(), number))
            if not told and all(each.has_heard for each in robots):
                told = True
                print("all have heard", flush=True)
    context.destroy(linger=0)


@contextmanager
def robots(address: str, plans: Sequence[Plan]) -> Iterator[None]:
    """Run them in a process of their own, from when each has heard something."""
    words = json.dumps([attrs.asdict(plan) for plan in plans])
    process = subprocess.Popen(
        [sys.executable, "-m", "support.robots", address, words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"all have heard\n"
        yield
    finally:
        process.stdout.close()
        process.stdin.close()
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(sys.argv[1], [Plan(**plan) for plan in json.loads(sys.argv[2])])
