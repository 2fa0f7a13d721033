"""A fleet of another size whose classes of robots are in the same proportion."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from appliance.simulation.fleet import Fleet


def of_size(fleet: Fleet, robots: int) -> Fleet:
    """Return a fleet of so many robots; it must have some. Everything else stays."""
    total = sum(kind.count for kind in fleet.robots)
    counts = apportion(robots, [kind.count / total for kind in fleet.robots])
    classes = zip(fleet.robots, counts, strict=True)
    return evolve(fleet, robots=tuple(evolve(kind, count=count) for kind, count in classes))


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Split a number by shares; what rounding leaves goes to the largest remainders."""
    quotas = [share * total for share in shares]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda each: counts[each] - quotas[each])
    for each in by_remainder[: total - sum(counts)]:
        counts[each] += 1
    return counts
