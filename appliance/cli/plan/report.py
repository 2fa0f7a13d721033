"""What was found of a fleet: the document, and the table for people."""

from __future__ import annotations

import math
from typing import TypedDict

from appliance.cli.plan.description import Description
from appliance.cli.plan.search import Largest
from appliance.cli.plan.trials import Found, Trials
from appliance.cli.text import optional
from appliance.simulation import Span
from appliance.simulation.fleet import SECOND_NS

FEWEST_MISSES = 1
"""A target says something only if so many misses would still be within it."""


class Size(TypedDict):
    """How a fleet of one size was served: means over all seeds. Null: there was nothing to see.

    `requests` are those looked at, of all seeds together. `full_batch_percent` is how busy workers
    would have been with what was in time, had every batch been full. `p99_ms` is from capture to
    answer, of those in time. `unanswered` never ended, which breaks the scheduler's promise.
    """

    robots: int
    scale: float
    classes: dict[str, int]
    within: bool
    requests: int
    tier_0_requests: int
    miss_percent: float | None
    tier_0_miss_percent: float | None
    miss_percent_of: dict[str, float | None]
    busy_percent: float
    full_batch_percent: float
    p99_ms: float | None
    unanswered: int


class Document(TypedDict):
    """What `appliance plan --json` prints.

    `within` says it of the fleet as it is described. `largest` is the largest fleet within the
    target; `is_bound`: larger ones were not looked at. `sizes` are all that were simulated.
    """

    file: str
    seconds: float
    looked_at_s: float
    seeds: list[int]
    advice: bool
    miss_percent: float
    tier_0_miss_percent: float
    tiers: dict[str, int]
    robots: int
    within: bool
    largest: int
    is_bound: bool
    around: list[int]
    sizes: list[Size]


def document(
    file: str, description: Description, trials: Trials, largest: Largest, around: list[int]
) -> Document:
    """Return everything there is to be told."""
    target, size = description.target, description.size
    horizon_ns = round(description.seconds * SECOND_NS)
    return Document(
        file=file,
        seconds=description.seconds,
        looked_at_s=round(Span.settled(horizon_ns).length_s, 3),
        seeds=list(description.seeds),
        advice=trials.obeys,
        miss_percent=target.miss_percent,
        tier_0_miss_percent=target.tier_0_miss_percent,
        tiers={kind.name: kind.tier for kind in description.robots},
        robots=size,
        within=trials.found[size].within,
        largest=largest.robots,
        is_bound=largest.is_bound,
        around=around,
        sizes=[_size(found, robots, size) for robots, found in sorted(trials.found.items())],
    )


def _size(found: Found, robots: int, described: int) -> Size:
    return Size(
        robots=robots,
        scale=round(robots / described, 3),
        classes={kind.name: kind.count for kind in found.fleet.robots},
        within=found.within,
        requests=sum(each.requests for each in found.scores),
        tier_0_requests=sum(each.critical_requests for each in found.scores),
        miss_percent=_known(100 * found.mean("miss")),
        tier_0_miss_percent=_known(100 * found.mean("critical_miss")),
        miss_percent_of={
            kind.name: _known(100 * found.miss_of(kind.name)) for kind in found.fleet.robots
        },
        busy_percent=round(100 * found.mean("utilisation"), 2),
        full_batch_percent=round(100 * found.mean("useful_work") / len(found.fleet.workers), 2),
        p99_ms=_known(found.mean("hit_p99_ns") / 1e6),
        unanswered=sum(each.unanswered for each in found.scores),
    )


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else round(figure, 4)


def show(result: Document) -> None:
    """Print it for people: a column for each size around the described one, and the largest."""
    from rich.console import Console
    from rich.table import Table

    shown = [
        each for each in result["sizes"] if each["robots"] in (*result["around"], result["largest"])
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("robots")
    for each in shown:
        table.add_column(str(each["robots"]), justify="right")
    table.add_row("of the described", *(f"{each['scale']:.2f}x" for each in shown))
    table.add_row("workers busy %", *(f"{each['busy_percent']:.0f}" for each in shown))
    table.add_row("  with full batches", *(f"{each['full_batch_percent']:.0f}" for each in shown))
    table.add_row("p99 ms", *(optional(each["p99_ms"]) for each in shown))
    table.add_row("missed % of", end_section=True)
    for name in result["tiers"]:
        cells = [optional(each["miss_percent_of"][name], 2) for each in shown]
        table.add_row(f"  {name}", *cells)
    table.add_row("  all", *(optional(each["miss_percent"], 2) for each in shown))
    if 0 in result["tiers"].values():
        cells = [optional(each["tier_0_miss_percent"], 2) for each in shown]
        table.add_row("  tier 0", *cells)
    table.add_row("within the target", *("yes" if each["within"] else "no" for each in shown))
    Console(highlight=False, markup=False, emoji=False).print(table)
    print()
    for line in _conclusions(result):
        print(line)


def _conclusions(result: Document) -> list[str]:
    by_robots = {each["robots"]: each for each in result["sizes"]}
    described = by_robots[result["robots"]]
    verdict = "is within" if result["within"] else "is not within"
    tier_0 = f", of tier 0 {result['tier_0_miss_percent']:g} %" if _has_tier_0(result) else ""
    target = f"at most {result['miss_percent']:g} % missed{tier_0}"
    lines = [f"The described fleet, {result['robots']} robots, {verdict} the target: {target}."]
    largest = by_robots.get(result["largest"])
    if largest is None:
        lines.append("No fleet of this mix is.")
    else:
        classes = ", ".join(f"{count} {name}" for name, count in largest["classes"].items())
        more = " or more; larger ones were not simulated" if result["is_bound"] else ""
        lines.append(f"The largest fleet that is: {result['largest']} robots ({classes}){more}.")
    lines += _doubts(result, described)
    if described["unanswered"]:
        lines.append(f"{described['unanswered']} observations were never answered: report this.")
    return lines


def _has_tier_0(result: Document) -> bool:
    return 0 in result["tiers"].values()


def _doubts(result: Document, described: Size) -> list[str]:
    """Say where too few observations were looked at for the target to mean anything."""
    pairs = [("", described["requests"], result["miss_percent"])]
    if _has_tier_0(result):
        pairs.append((" of tier 0", described["tier_0_requests"], result["tier_0_miss_percent"]))
    return [
        f"Only {requests} observations{what} were looked at, so one miss is beyond {percent:g} %: "
        "simulate longer or with more seeds."
        for what, requests, percent in pairs
        if 0 < percent * requests / 100 < FEWEST_MISSES
    ]
