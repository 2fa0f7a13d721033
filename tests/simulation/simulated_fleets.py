"""Small fleets."""

from __future__ import annotations

from appliance.simulation import (
    Burst,
    Chunks,
    Fleet,
    LinearEngine,
    Network,
    RobotClass,
    WorkerSlot,
)

MS = 1_000_000
SECOND = 1000 * MS
EXACT = Network(least_ns=MS, spread_ns=0, straggler_share=0.0, return_ns=MS)
"""1 ms each way."""


def engine(name: str = "policy", base_ms: int = 5, row_ms: int = 1) -> LinearEngine:
    return LinearEngine(
        name=name,
        base_ns=base_ms * MS,
        row_ns=row_ms * MS,
        max_batch=4,
        sigma=0.0,
        spike_share=0.0,
    )


def kind(name: str = "arm", **different: object) -> RobotClass:
    """10 Hz robots without jitter and drift, on a network that takes 1 ms."""
    given = {
        "model": "policy",
        "rate_hz": 10.0,
        "budget_ns": 50 * MS,
        "count": 1,
        "network": EXACT,
        "jitter_ns": 0,
        "drift": 0.0,
        "in_phase": True,
    }
    return RobotClass(name=name, **(given | different))


def fleet(*robots: RobotClass, workers: int = 1) -> Fleet:
    return Fleet(
        engines=(engine(), engine("vision", 1, 1)),
        workers=tuple(WorkerSlot(f"w-{n}", ("policy", "vision")) for n in range(workers)),
        robots=robots,
        switch_ns=MS,
    )


def mixed(workers: int = 1) -> Fleet:
    """Everything at once, a little more than one worker can do."""
    random = {"network": Network(), "jitter_ns": MS, "drift": 50e-6, "in_phase": False}
    return fleet(
        kind("arm", count=4, rate_hz=20.0, **random),
        kind(
            "critical", count=2, model="vision", rate_hz=50.0, budget_ns=20 * MS, tier=0, **random
        ),
        kind("soft", count=2, firm=False, declares_period=False, **random),
        kind("chunked", count=3, rate_hz=5.0, budget_ns=None, chunks=CHUNKS, **random),
        kind("flood", counted=False, burst=Burst(rate_hz=400, on_ns=SECOND // 2, cycle_ns=SECOND)),
        workers=workers,
    )


CHUNKS = Chunks(steps=16, step_period_ns=20 * MS, episode_ns=2 * SECOND)
