"""How late the scheduler's timer fires while every model is busy half of the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.box import box, busy
from benchmarks.children import role
from benchmarks.report import Limit, Line

ROUNDS = 3
ROUND_S = 8.0
MODELS = 4
MODEL_MS = 10.0
LOAD = 0.5
ARRIVALS_HZ = MODELS * LOAD / MODEL_MS * 1000
BARE_HZ = 130.0
"""About as often as the scheduler's timer fires under this load: whenever somebody has to wait, a
little before the worker is free."""


def measure() -> Iterator[str | Line]:
    """Let the appliance under load and a bare timerfd process wake up side by side."""
    names = [f"busy-{number}" for number in range(MODELS)]
    models = [busy(ms=MODEL_MS, name=name) for name in names]
    ours: list[float] = []
    beside: list[float] = []
    fired: list[int] = []
    with role("bare_timer") as bare:
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            with ExitStack() as stack:  # a new box: its histogram only ever grows
                appliance = stack.enter_context(box(*models, config=_workers(names)))
                load = stack.enter_context(
                    role("rain", address=appliance.address, hz=ARRIVALS_HZ, models=names)
                )
                load.tell(seconds=ROUND_S)
                beside.append(bare.ask(seconds=ROUND_S, hz=BARE_HZ)["p99_us"])
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


def _workers(names: list[str]) -> str:
    """Return the configuration that gives each model a worker of its own."""
    return "\n".join(f'[[workers]]\nname = "{name}"\nmodels = ["{name}"]\n' for name in names)
