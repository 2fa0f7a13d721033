"""Large tensors: what the box adds to the copies that nobody can avoid."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from math import prod

from benchmarks.box import box, image
from benchmarks.children import role
from benchmarks.report import Limit, Line

ROUNDS = 11
ROUND_S = 0.8
SHAPE = (480, 640, 3)


def measure() -> Iterator[str | Line]:
    """Alternate between the bare copies and the appliance."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        floor = f"ipc://{directory}/floor"
        stack.enter_context(role("bare_copies", address=floor, size=prod(SHAPE)))
        appliance = stack.enter_context(box(image()))
        sends = {"model": "image", "key": "camera", "dtype": "UINT8", "shape": SHAPE}
        bare = stack.enter_context(role("ping", address=floor, checked=False, **sends))
        ours = stack.enter_context(role("ping", address=appliance.address, **sends))
        p50: tuple[list[float], list[float]] = ([], [])
        for client in (bare, ours):
            client.ask(seconds=0.3)
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            for client, figures in zip((bare, ours), p50, strict=True):
                figures.append(client.ask(seconds=ROUND_S)["p50_us"])
    yield Line(
        name="images",
        measured="p50, 640x480x3 raw over ipc, one outstanding",
        unit="µs",
        ours=p50[1],
        beside=p50[0],
        beside_name="the bare copies",
        limit=Limit("ratio", "<=", 2.0),
    )
