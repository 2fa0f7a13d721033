"""The robots' side: 30 of the documented controllers in their own processes against one box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.box import box
from benchmarks.children import role, roles
from benchmarks.controller import CONTROL_HZ, clock_policy
from benchmarks.report import Limit, Line

CONTROLLERS = 30
SECONDS = 10.0
MODEL_MS = 40.0
PERIOD_US = 1e6 / CONTROL_HZ


def measure() -> Iterator[str | Line]:
    """Let all control at the same time, and one loop beside them that only keeps time."""
    with ExitStack() as stack:
        appliance = stack.enter_context(box(clock_policy(ms=MODEL_MS)))
        controllers = roles(stack, CONTROLLERS, "controller", address=appliance.address)
        bare = stack.enter_context(role("bare_loop"))
        yield f"{SECONDS:.0f} s"
        for child in (*controllers, bare):
            child.tell(seconds=SECONDS)
        answers = [child.hear() for child in controllers]
        beside = bare.hear()["late_us"]
    late = [time_us for answer in answers for time_us in answer["late_us"]]
    spent = [time_us for answer in answers for time_us in answer["spent_us"]]
    executed = sum(answer["executed"] for answer in answers)
    reasons: Counter[str] = Counter()
    for answer in answers:
        reasons.update(answer["reasons"])
    dry = ", ".join(f"{name} {count:,}" for name, count in reasons.items()) or "none"
    yield Line(
        name="controllers",
        measured=f"longest that the SDK took of a tick; {CONTROLLERS} controllers, {SECONDS:.0f} s",
        unit="µs",
        ours=(max(spent),),
        limit=Limit("figure", "<=", PERIOD_US),
        note=f"median {sorted(spent)[len(spent) // 2]:.0f} µs; "
        f"{sum(answer['missed'] for answer in answers)} ticks missed",
    )
    yield Line(
        name="",
        measured="lateness of a tick, p99.9",
        unit="µs",
        ours=(_quantile(late, 0.999),),
        beside=(_quantile(beside, 0.999),),
        beside_name="a loop that only sleeps, at the same time",
    )
    yield Line(
        name="",
        measured="rows executed at another instant than theirs",
        unit="rows",
        ours=(sum(answer["wrong"] for answer in answers),),
        limit=Limit("figure", "<=", 0.0),
        note=f"of {executed:,}; ticks without a row after the first: {dry}",
    )


def _quantile(times: list[float], rank: float) -> float:
    return sorted(times)[int(rank * (len(times) - 1))]
