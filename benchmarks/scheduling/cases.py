"""One case: a workload at a load, a seed, and who schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import thread_time_ns
from typing import Any

from attrs import field, frozen

from appliance.scheduling import Scheduler
from appliance.simulation import Fleet, Schedules, Score, Span, score, simulate
from benchmarks.scheduling import peers, planners
from benchmarks.scheduling.workloads import WORKLOADS, Variation, fleet_of

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
MICROSECOND_NS = 1_000
SECONDS = 40.0

Maker = Callable[[Fleet], Schedules]

OURS = "appliance"
POLICIES: dict[str, tuple[Maker, ...]] = {
    OURS: (lambda _: Scheduler(),),
    "symphony": (planners.SymphonyEager,),
    "edf": (planners.EarliestFeasible,),
    "clockwork": (planners.Clockwork,),
    "triton": (peers.Triton, peers.Triton2, peers.Triton5),
    "ray-serve": (peers.RayServe,),
    "inferential-ideal": (peers.InferentialIdealised,),
    "inferential": (peers.InferentialDefault,),
    "triton-0": (peers.Triton,),
    "triton-2": (peers.Triton2,),
    "triton-5": (peers.Triton5,),
}
"""By name; of several, the one that misses least counts."""
TUNINGS = ("triton-0", "triton-2", "triton-5")
"""Not in the table, where the best of them is."""


@frozen(kw_only=True)
class Case:
    """What is simulated."""

    workload: str
    load: float
    seed: int
    policy: str
    variation: Variation = field(factory=Variation)
    seconds: float = SECONDS


def run(case: Case) -> Score:
    """Simulate a case; of a policy with several tunings, the best."""
    fleet = fleet_of(WORKLOADS[case.workload], case.load, case.variation)
    scores = [_run(case, fleet, maker) for maker in POLICIES[case.policy]]
    return min(scores, key=lambda each: each.miss)


def _run(case: Case, fleet: Fleet, maker: Maker) -> Score:
    horizon_ns = round(case.seconds * SECOND_NS)
    record = simulate(
        fleet,
        maker(fleet),
        seed=case.seed,
        horizon_ns=horizon_ns,
        clock_ns=thread_time_ns,  # whoever else wants the processor does not count
    )
    return score(record, Span.settled(horizon_ns))


def document(score: Score) -> dict[str, Any]:
    """Return a score as JSON knows it: percent, milliseconds, microseconds; null of nothing."""
    found: dict[str, Any] = {
        "requests": score.requests,
        "unanswered": score.unanswered,
        "miss": _rounded(100 * score.miss),
        "critical_miss": _rounded(100 * score.critical_miss),
        "miss_of": {name: _rounded(100 * miss) for name, miss in score.miss_of.items()},
        "goodput": _rounded(score.goodput_hz),
        "bound": _rounded(score.bound_hz),
        "useful_work": _rounded(score.useful_work),
        "worst_client": _rounded(score.worst_client),
        "longest_streak": score.longest_streak,
        "p50_hit_ms": _rounded(score.hit_p50_ns / MILLISECOND_NS),
        "p99_hit_ms": _rounded(score.hit_p99_ns / MILLISECOND_NS),
        "mean_batch": _rounded(score.mean_batch),
        "decision_us": {
            "p50": _rounded(score.decision_p50_ns / MICROSECOND_NS),
            "p99": _rounded(score.decision_p99_ns / MICROSECOND_NS),
        },
    }
    dryness = score.dryness
    if dryness is not None:
        found["dry_ticks_per_robot_hour"] = _rounded(dryness.ticks_per_robot_hour)
        found["dry_starts"] = dryness.starts
        found["dry_start_ms"] = {
            "p50": _rounded(dryness.start_wait_ns(0.5) / MILLISECOND_NS),
            "p99": _rounded(dryness.start_wait_ns(0.99) / MILLISECOND_NS),
            "max": _rounded(dryness.start_wait_ns(1.0) / MILLISECOND_NS),
        }
    return found


def _rounded(figure: float) -> float | None:
    return None if math.isnan(figure) else round(figure, 4)
