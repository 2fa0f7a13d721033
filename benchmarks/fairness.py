"""Eight identical robots share a model that can serve only so many: each gets its eighth."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks import peer
from benchmarks.box import box, busy
from benchmarks.children import Child, roles
from benchmarks.report import Limit, Line

ROBOTS = 8
SECONDS = 20.0
WAIT_MS = 1000.0
MODEL_MS = 50.0


def measure() -> Iterator[str | Line]:
    """Run the appliance and the peer's server side by side: both mostly sleep."""
    note = ""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        appliance = stack.enter_context(box(busy(ms=MODEL_MS)))
        ours = roles(stack, ROBOTS, "sdk_loop", address=appliance.address, wait_ms=WAIT_MS)
        theirs: list[Child] = []
        try:
            python = peer.interpreter()
        except peer.PeerUnavailable as error:
            note = str(error)
        else:
            address = f"ipc://{directory}/peer"
            stack.enter_context(peer.server(python, address, "busy"))
            theirs = [
                stack.enter_context(peer.robot(python, address, number, WAIT_MS))
                for number in range(ROBOTS)
            ]
        yield f"{SECONDS:.0f} s"
        for robot in (*ours, *theirs):
            robot.tell(seconds=SECONDS)
        replies = [robot.hear()["replies"] for robot in ours]
        others = [robot.hear()["replies"] for robot in theirs]
    yield Line(
        name="fairness",
        measured=f"{ROBOTS} closed-loop robots, {MODEL_MS:.0f} ms model: worst share off the mean",
        unit="%",
        ours=(_worst(replies),),
        beside=(_worst(others),) if others else (),
        beside_name=f"inferential {peer.VERSION}: {_listed(others)}",
        limit=Limit("figure", "<=", 5.0),
        note=note or f"replies: {_listed(replies)}",
    )


def _worst(replies: Sequence[int]) -> float:
    mean = statistics.mean(replies)
    return max(abs(count - mean) for count in replies) / max(mean, 1) * 100


def _listed(replies: Sequence[int]) -> str:
    return ", ".join(map(str, replies))
