"""The door between its socket and the dispatcher."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
import zmq

from appliance.config import Transport
from appliance.sessions.door import SLICE_NS, ZmqDoor
from appliance.wire.session import encode_observation
from appliance.wire.types import Observation


class Dispatcher:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def turn(self) -> None:
        self.log.append("turn")


class Intake:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.dispatcher = Dispatcher(self.log)

    @property
    def admission(self) -> Any:
        return SimpleNamespace(draining=False)

    @property
    def endings(self) -> Any:
        return SimpleNamespace(witness=None)

    def offer(self, observation: Observation, *rest: Any, **named: Any) -> None:
        self.log.append(str(observation.sequence))


async def test_a_long_burst_lets_the_dispatcher_in(tmp_path: Path) -> None:
    sent = 6
    intake = Intake()
    ticks = count(1)
    address = f"ipc://{tmp_path}/door"
    door: Any = ZmqDoor(
        Transport(bind=(address,), fast_path=False),
        intake,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        clock=lambda: next(ticks) * (SLICE_NS // 2 + 1),
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as robot:
        robot.set(zmq.LINGER, 0)
        robot.connect(address)
        for number in range(1, sent + 1):
            observation = Observation(model_id="m", protocol_version=1, sequence=number)
            robot.send_multipart([b"", encode_observation(observation), b""])
        async with trio.open_nursery() as nursery:
            await nursery.start(door.run)
            with trio.fail_after(10):
                while not {str(sent)} <= set(intake.log):
                    await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    taken = [entry for entry in intake.log if entry != "turn"]
    assert taken == [str(number) for number in range(1, sent + 1)]
    # The clock makes every second message end a slice, however they came in.
    assert "turn" in intake.log[: intake.log.index("4")]
