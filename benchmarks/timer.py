"""How late the scheduler's timer fires while a model is busy half of the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.box import box, busy
from benchmarks.children import role
from benchmarks.report import Limit, Line

ROUNDS = 4
ROUND_S = 5.0
HZ = 200.0
LOAD = 0.5
TTL_MS = 50.0
"""Each observation's time to live ends in a wake-up; jitter spreads them over the period."""


def measure() -> Iterator[str | Line]:
    """Let the appliance under load and a bare timerfd process wake up side by side."""
    ours: list[float] = []
    beside: list[float] = []
    fired: list[int] = []
    with role("bare_timer") as bare:
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            with ExitStack() as stack:
                model = busy(ms=LOAD / HZ * 1000, spinning=True)
                settings = (f"scheduling.request_ttl_ms={TTL_MS}",)
                appliance = stack.enter_context(box(model, settings=settings))
                load = stack.enter_context(
                    role("pace", address=appliance.address, hz=HZ, jitter=True, model="busy")
                )
                load.tell(seconds=ROUND_S)
                beside.append(bare.ask(seconds=ROUND_S, hz=HZ)["p99_us"])
                load.hear()
                lateness = appliance.status()["timer_lateness_us"]
                ours.append(lateness["p99"])
                fired.append(lateness["count"])
    yield Line(
        name="timer",
        measured=f"p99 lateness of the scheduler's timer at {LOAD:.0%} load",
        unit="µs",
        ours=ours,
        beside=beside,
        beside_name="a bare timerfd process at the same time",
        limit=Limit("ratio", "<=", 2.0),
        note=f"fired {min(fired):,} times or more in each round",
    )
