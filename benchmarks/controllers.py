"""The robots' side: 30 of the documented controllers in their own processes against one box."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.box import box
from benchmarks.children import role, roles
from benchmarks.controller import CONTROL_HZ, clock_policy
from benchmarks.report import Limit, Line

CONTROLLERS = 30
SECONDS = 60.0
MODEL_MS = 40.0
FEWER = 10
OUTAGE_S = 12.0
PERIOD_US = 1e6 / CONTROL_HZ


def measure() -> Iterator[str | Line]:
    """Let all control at the same time, and one loop beside them that only keeps time."""
    with ExitStack() as stack:
        appliance = stack.enter_context(box(clock_policy(ms=MODEL_MS)))
        controllers = roles(stack, CONTROLLERS, "controller", addresses=[appliance.address])
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
        measured="latest tick",
        unit="µs",
        ours=(max(late),),
        beside=(max(beside),),
        beside_name="one loop that only sleeps, at the same time",
        limit=Limit("figure", "<=", PERIOD_US),
        note=f"p99 {_quantile(late, 0.99):.0f} µs, alone {_quantile(beside, 0.99):.0f} µs",
    )
    yield Line(
        name="",
        measured="rows executed at another instant than theirs",
        unit="rows",
        ours=(sum(answer["wrong"] for answer in answers),),
        limit=Limit("figure", "<=", 0.0),
        note=f"of {executed:,}; ticks without a row after the first: {dry}",
    )


def outages() -> Iterator[str | Line]:
    """Take the box away in the middle, in three ways."""
    yield from _outage("outages", "killed, another takes over", boxes=2, limit_s=0.0)
    yield from _outage("", "replaced by one that stood by", boxes=1, limit_s=0.0)
    yield from _outage("", "killed and started again", boxes=1, limit_s=2.0)


def _outage(name: str, how: str, *, boxes: int, limit_s: float) -> Iterator[str | Line]:
    with ExitStack() as stack:
        policy = clock_policy(ms=MODEL_MS)
        appliances = [stack.enter_context(box(policy)) for _ in range(boxes)]
        addresses = [appliance.address for appliance in appliances]
        controllers = roles(stack, FEWER, "controller", addresses=addresses)
        yield how
        for child in controllers:
            child.tell(seconds=OUTAGE_S)
        time.sleep(OUTAGE_S / 3)
        if how.startswith("replaced"):
            appliances[0].upgrade()
        else:
            appliances[0].kill()
            if boxes == 1:
                appliances[0].start()
        answers = [child.hear() for child in controllers]
    dry = sorted(sum(answer["reasons"].values()) for answer in answers)
    yield Line(
        name=name,
        measured=f"longest time without an action; {FEWER} controllers, their box is {how}",
        unit="s",
        ours=(max(answer["longest_dry_s"] for answer in answers),),
        limit=Limit("figure", "<=", limit_s),
        note=f"dry ticks of each: {', '.join(map(str, dry))}; "
        f"{sum(answer['wrong'] for answer in answers)} rows at another instant than theirs",
    )


def _quantile(times: list[float], rank: float) -> float:
    return sorted(times)[int(rank * (len(times) - 1))]
