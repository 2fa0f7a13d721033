from __future__ import annotations

import time

import trio

from appliance.io.slow_steps import SlowSteps

MS = 1_000_000


def test_only_a_step_that_holds_the_loop_is_reported() -> None:
    reports: list[tuple[str, int]] = []

    async def quick() -> None:
        await trio.lowlevel.checkpoint()

    async def slow() -> None:
        deadline = time.monotonic_ns() + 30 * MS
        while time.monotonic_ns() < deadline:
            pass
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        await quick()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)

    trio.run(main, instruments=[SlowSteps(20 * MS, lambda *what: reports.append(what))])
    slow_ones = [took_ns for name, took_ns in reports if "slow" in name]
    assert len(slow_ones) == 1
    assert slow_ones[0] >= 30 * MS
