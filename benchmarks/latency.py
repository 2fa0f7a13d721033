"""One observation outstanding: what the box adds to two hops of ZeroMQ."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack

from attrs import evolve

from benchmarks.box import box, noop
from benchmarks.children import role
from benchmarks.report import Limit, Line

ROUNDS = 7
ROUND_S = 1.0


def measure() -> Iterator[str | Line]:
    """Alternate between the echo, the appliance and the appliance through its SDK."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        door, inner = f"ipc://{directory}/echo", f"ipc://{directory}/inner"
        stack.enter_context(role("echo_router", address=door, inner=inner))
        stack.enter_context(role("echo_worker", inner=inner))
        appliance = stack.enter_context(box(noop()))
        asking = {
            "echo": stack.enter_context(role("ping", address=door, checked=False)),
            "ours": stack.enter_context(role("ping", address=appliance.address)),
            "sdk": stack.enter_context(role("sdk_ping", address=appliance.address)),
        }
        for client in asking.values():
            client.ask(seconds=0.3)
        p50: dict[str, list[float]] = {name: [] for name in asking}
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            for name, client in asking.items():
                p50[name].append(client.ask(seconds=ROUND_S)["p50_us"])
    line = Line(
        name="latency",
        measured="p50, no-op, 1 KB, one outstanding",
        unit="µs",
        ours=p50["ours"],
        beside=p50["echo"],
        beside_name="two-hop ZeroMQ echo",
        limit=Limit("ratio", "<=", 3.0),
    )
    yield line
    yield evolve(line, name="", measured="the same through the SDK", ours=p50["sdk"], limit=None)
