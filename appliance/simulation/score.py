"""What a record says of its scheduler: who was served in time, who was not, what it cost.

Looked at are the requests that arrived within a span of time, those of classes that are not
`counted` left out. benchmarks/README.md has the formulas.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from attrs import frozen

from appliance.simulation.chunked import ChunkedRobot, Dry
from appliance.simulation.execution import least_row_ns
from appliance.simulation.fleet import SECOND_NS, Fleet
from appliance.simulation.record import Asked, Record

HOUR_NS = 3600 * SECOND_NS
SETTLING = 15 / 40
"""Share of the time that is not looked at: cadences and estimates are learnt in it."""

TAIL_NS = SECOND_NS // 2
"""Who arrives so shortly before the end is not looked at either."""

FEWEST = 5
"""A client with fewer requests is not the worst one."""


@frozen
class Span:
    """A span of virtual time: from, to (excluded)."""

    from_ns: int
    to_ns: int

    @classmethod
    def settled(cls, horizon_ns: int) -> Span:
        """Return what is looked at of a simulation until `horizon_ns`."""
        return cls(round(horizon_ns * SETTLING), horizon_ns - TAIL_NS)

    @property
    def length_s(self) -> float:
        """How long it is."""
        return (self.to_ns - self.from_ns) / SECOND_NS


@frozen(kw_only=True)
class Dryness:
    """How chunk-executing robots fared.

    Attributes:
        ticks_per_robot_hour: Control ticks without an action, the beginnings of episodes aside.
        starts: Episodes that began.
        start_waits_ns: How long each waited for its first action, ascending.
    """

    ticks_per_robot_hour: float
    starts: int
    start_waits_ns: tuple[int, ...]

    def start_wait_ns(self, share: float) -> float:
        """Return a quantile of them; nan of none."""
        return quantile(self.start_waits_ns, share)


@frozen(kw_only=True)
class Score:
    """See benchmarks/README.md. Shares are between 0 and 1; nan: of nothing.

    Attributes:
        miss, critical_miss: Share of requests that were not answered in time; of tier 0.
        miss_of: The same of each class or client.
        critical_requests: How many are of tier 0.
        utilisation: Share of the workers' time in which they execute.
        goodput_hz, bound_hz: Answers in time, and how many no scheduler could exceed.
        useful_work: Accelerator time that hits would take in full batches, per time.
        worst_client: Least share of hits of a client.
        longest_streak: Most misses of one client on end.
        hit_p50_ns, hit_p99_ns: From capture to answer, of hits.
        unanswered: Requests of the whole record that never ended.
        decision_p50_ns, decision_p99_ns: How long deciding took; nan: it was not measured.
        dryness: Of robots that execute chunks; None: there are none.
    """

    requests: int
    critical_requests: int
    miss: float
    critical_miss: float
    miss_of: dict[str, float]
    goodput_hz: float
    bound_hz: float
    utilisation: float
    useful_work: float
    worst_client: float
    longest_streak: int
    hit_p50_ns: float
    hit_p99_ns: float
    unanswered: int
    mean_batch: float
    decision_p50_ns: float
    decision_p99_ns: float
    dryness: Dryness | None


def score(record: Record, span: Span) -> Score:
    """Sum a record up."""
    asked = [
        each
        for each in record.asked
        if span.from_ns <= each.arrival.arrived_ns < span.to_ns and each.arrival.counted
    ]
    hits = [each for each in asked if each.hit]
    costs_ns = {each.name: least_row_ns(each) for each in record.fleet.engines}
    waits_ns = sorted(each.answered_ns - each.arrival.captured_ns for each in hits)
    decisions_ns = sorted(record.decision_ns)
    by_class: dict[str, list[Asked]] = defaultdict(list)
    for each in asked:
        by_class[each.robot.kind.name if each.robot else each.arrival.client].append(each)
    critical = [each for each in asked if each.arrival.tier == 0]
    work_ns = sum(costs_ns[each.arrival.model] for each in hits)
    return Score(
        requests=len(asked),
        critical_requests=len(critical),
        miss=_miss(asked),
        critical_miss=_miss(critical),
        miss_of={name: _miss(each) for name, each in by_class.items()},
        goodput_hz=len(hits) / span.length_s,
        bound_hz=bound_hz(record.fleet, (each.arrival.model for each in asked), span),
        utilisation=_utilisation(record, span),
        useful_work=work_ns / SECOND_NS / span.length_s,
        worst_client=_worst_client(asked),
        longest_streak=_longest_streak(asked),
        hit_p50_ns=quantile(waits_ns, 0.5),
        hit_p99_ns=quantile(waits_ns, 0.99),
        unanswered=sum(each.outcome is None for each in record.asked),
        mean_batch=record.batched_rows / len(record.busy_ns) if record.busy_ns else math.nan,
        decision_p50_ns=quantile(decisions_ns, 0.5),
        decision_p99_ns=quantile(decisions_ns, 0.99),
        dryness=_dryness(record, span),
    )


def bound_hz(fleet: Fleet, models: Iterable[str], span: Span) -> float:
    """Return how many requests a second could be answered at most, of those that came.

    By a clairvoyant that runs only full batches, never switches or waits, and drops those that
    cost most first.

    Args:
        models: Of each request.
    """
    offered: dict[str, int] = defaultdict(int)
    for model in models:
        offered[model] += 1
    left_ns = len(fleet.workers) * span.length_s * SECOND_NS
    answered = 0.0
    for engine in sorted(fleet.engines, key=least_row_ns):
        cost_ns = least_row_ns(engine)
        count = min(offered[engine.name], left_ns / cost_ns)
        answered += count
        left_ns -= count * cost_ns
    return answered / span.length_s


def quantile(ascending: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values; nan of none."""
    if not ascending:
        return math.nan
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def _miss(asked: Sequence[Asked]) -> float:
    return 1 - sum(each.hit for each in asked) / len(asked) if asked else math.nan


def _utilisation(record: Record, span: Span) -> float:
    busy_ns = sum(
        max(0, min(to_ns, span.to_ns) - max(from_ns, span.from_ns))
        for from_ns, to_ns in record.busy_ns
    )
    return busy_ns / (len(record.fleet.workers) * span.length_s * SECOND_NS)


def _worst_client(asked: Iterable[Asked]) -> float:
    hits: dict[str, list[bool]] = defaultdict(list)
    for each in asked:
        hits[each.arrival.client].append(each.hit)
    shares = [sum(each) / len(each) for each in hits.values() if len(each) >= FEWEST]
    return min(shares, default=math.nan)


def _longest_streak(asked: Iterable[Asked]) -> int:
    longest = 0
    current: dict[str, int] = defaultdict(int)
    for each in asked:
        client = each.arrival.client
        current[client] = 0 if each.hit else current[client] + 1
        longest = max(longest, current[client])
    return longest


def _dryness(record: Record, span: Span) -> Dryness | None:
    robots = [robot for robot in record.robots if isinstance(robot, ChunkedRobot)]
    if not robots:
        return None
    dry = [(robot, *robot.dry_until(span.to_ns)) for robot in robots]
    waits_ns = sorted(
        start.to_ns - start.from_ns
        for _, starts, _ in dry
        for start in starts
        if span.from_ns <= start.from_ns < span.to_ns
    )
    ticks = sum(_ticks(robot, gap, span) for robot, _, gaps in dry for gap in gaps)
    hours = len(robots) * (span.to_ns - span.from_ns) / HOUR_NS
    return Dryness(
        ticks_per_robot_hour=ticks / hours,
        starts=len(waits_ns),
        start_waits_ns=tuple(waits_ns),
    )


def _ticks(robot: ChunkedRobot, dry: Dry, span: Span) -> int:
    """Return the control ticks of a time without actions, as far as it lies in the span."""
    length_ns = min(dry.to_ns, span.to_ns) - max(dry.from_ns, span.from_ns)
    return max(0, math.ceil(length_ns / robot.chunks.step_period_ns))
