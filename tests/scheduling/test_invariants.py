"""What holds for every fleet of periodic robots, in every decision. One rule, one function."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from math import ceil

import pytest
from attrs import define, field
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.fleets import MS, POLICY, SECOND, VISION, Books, busy_fleet

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.choice import Choice, Contender, Decided
from appliance.scheduling.critical import Critical
from appliance.scheduling.deadline_aware import DeadlineAware
from appliance.scheduling.events import Arrived, Lane, ModelRef, Request
from appliance.simulation import Burst, Chunks, Fleet, Record, RobotClass, simulate

HORIZON_NS = 2 * SECOND

EXCESS, DEPTH = 1.25, 3
LARGEST_ADVICE = 0.08
"""What is promised: the part of what a client says that it may send, and how many more; of advice,
the part of the period."""


@st.composite
def kinds(draw: st.DrawFn, number: int) -> RobotClass:
    """A class of up to a dozen robots that need their answers within a period or so."""
    rate_hz = draw(st.sampled_from((5.0, 10.0, 15.0, 30.0, 50.0)))
    chunked = draw(st.sampled_from((False, False, False, True)))
    flooding = draw(st.sampled_from((False, False, False, True)))
    return RobotClass(
        name=f"kind {number}",
        model=draw(st.sampled_from((POLICY.name, VISION.name))),
        rate_hz=rate_hz,
        budget_ns=None if chunked else round(draw(st.floats(0.4, 1.5)) * SECOND / rate_hz),
        count=draw(st.integers(1, 12)),
        tier=draw(st.sampled_from((0, 1, 1, 2))),
        firm=draw(st.sampled_from((True, True, True, False))),
        declares_period=draw(st.sampled_from((True, True, False))),
        jitter_ns=draw(st.sampled_from((0, MS // 2, 3 * MS))),
        in_phase=draw(st.booleans()),
        obedience=draw(st.sampled_from((0.0, 0.5, 1.0))),
        chunks=Chunks(steps=16, step_period_ns=20 * MS, episode_ns=SECOND) if chunked else None,
        burst=Burst(rate_hz=300, on_ns=SECOND // 4, cycle_ns=SECOND // 2) if flooding else None,
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    robots = tuple(draw(kinds(number)) for number in range(draw(st.integers(1, 4))))
    return busy_fleet(robots=robots, workers=draw(st.sampled_from((1, 1, 2, 3))))


unhurried = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a smaller fleet is hardly found, and takes long
    suppress_health_check=[HealthCheck.too_slow],
)


def served(
    fleet: Fleet, *rules: Callable[[Books], None], seed: int = 1, horizon_ns: int = HORIZON_NS
) -> Record:
    return simulate(fleet, Books(Scheduler(), rules), seed=seed, horizon_ns=horizon_ns)


# --------------------------------------------------------------------------------- requests


def no_firm_request_is_started_late(books: Books) -> None:
    for batch in books.started:
        rows = len(batch.requests)
        assert batch.expected_ns >= books.scheduler.planned_ns(batch.lane.model, rows)
        finish_ns = books.now_ns + batch.expected_ns
        assert all(not each.firm or finish_ns <= each.deadline_ns for each in batch.requests)


def the_latest_of_each_client_waits_alone(books: Books) -> None:
    waiting = Counter((each.client, each.lane.model) for each in books.waiting.values())
    assert all(count == 1 for count in waiting.values())


@define
class RefusedAtOnce:
    """A firm request hears no as soon as nobody could answer it in time."""

    least_ns: dict[ModelRef, int] = field(factory=dict)

    def __call__(self, books: Books) -> None:
        for request in books.waiting.values():
            model = request.lane.model
            planned_ns = books.scheduler.planned_ns(model, 1)
            least_ns = self.least_ns[model] = min(planned_ns, self.least_ns.get(model, planned_ns))
            assert not request.firm or books.now_ns + least_ns <= request.deadline_ns
        for answer in books.answers:
            if answer.outcome is Outcome.INFEASIBLE:
                assert books.now_ns <= max(answer.request.deadline_ns, answer.request.arrived_ns)


def last_start_ns(request: Request, books: Books) -> int:
    """Return when a worker that ran another model has to begin with it, alone."""
    model = request.lane.model
    switch_ns = books.scheduler._workers.estimate(model).switch_ns
    return request.deadline_ns - books.scheduler.planned_ns(model, 1) - switch_ns


def could_run(request: Request, books: Books) -> bool:
    in_time = books.now_ns <= last_start_ns(request, books)
    return not request.background and (in_time or not request.firm)


def a_worker_idles_only_for_tier_0(books: Books) -> None:
    """And no longer than until somebody who waits has to be started."""
    forecasts = books.scheduler._queue.streams.forecasts
    for worker, executing in books.executing.items():
        models = books.hosted[worker]
        waiting = [
            each
            for each in books.waiting.values()
            if each.lane.model in models and could_run(each, books)
        ]
        if executing is None and waiting:
            assert any(forecasts[model].arrivals for model in models if model in forecasts)
            wakeup_ns = books.decision.next_wakeup_ns
            assert wakeup_ns is not None
            assert wakeup_ns > books.now_ns
            for request in waiting:
                last_ns = last_start_ns(request, books)
                assert last_ns < books.now_ns or wakeup_ns <= last_ns


RULES = (
    no_firm_request_is_started_late,
    the_latest_of_each_client_waits_alone,
    a_worker_idles_only_for_tier_0,
)


@settings(unhurried, max_examples=30)
@given(fleets(), st.integers(0, 1000))
def test_the_rules_hold_for_every_fleet(fleet: Fleet, seed: int) -> None:
    record = served(fleet, RefusedAtOnce(), *RULES, seed=seed)
    assert all(each.outcome is not None for each in record.asked)  # twice fails in the world


@st.composite
def tense_fleets(draw: st.DrawFn) -> Fleet:
    """A device that often waits for its tier 0: that is due soon, and others take long."""
    critical = RobotClass(
        name="critical",
        model=VISION.name,
        rate_hz=draw(st.sampled_from((15.0, 20.0, 30.0))),
        budget_ns=2 * MS + round(draw(st.floats(1.1, 2.5)) * VISION.mean_ns(2)),
        count=draw(st.integers(1, 4)),
        tier=0,
        jitter_ns=draw(st.sampled_from((0, MS // 2))),
    )
    arm = RobotClass(
        name="arm",
        model=POLICY.name,
        rate_hz=draw(st.sampled_from((5.0, 10.0, 15.0))),
        budget_ns=2 * MS + round(draw(st.floats(1.1, 4.0)) * POLICY.mean_ns(4)),
        count=draw(st.integers(1, 8)),
        firm=draw(st.booleans()),
    )
    return busy_fleet(robots=(critical, arm))


@define
class Waits:
    """How often a worker was idle for tier 0 while somebody else could run."""

    count: int = 0

    def __call__(self, books: Books) -> None:
        a_worker_idles_only_for_tier_0(books)
        is_idle = any(executing is None for executing in books.executing.values())
        self.count += is_idle and any(could_run(each, books) for each in books.waiting.values())


def test_waiting_for_tier_0_ends_before_it_costs_a_deadline() -> None:
    waits = Waits()

    @settings(unhurried, max_examples=30)
    @given(tense_fleets(), st.integers(0, 1000))
    def holds(fleet: Fleet, seed: int) -> None:
        served(fleet, waits, seed=seed)

    holds()
    assert waits.count > 100


# --------------------------------------------------------------------------------- clients


@define
class Clients:
    """What each client was allowed, refused and advised."""

    conforming: dict[tuple[str, ModelRef], dict[int, Request]] = field(
        factory=lambda: defaultdict(dict)
    )
    refused: Counter[tuple[str, ModelRef]] = field(factory=Counter)
    least: dict[ModelRef, float] = field(factory=dict)
    sheds: int = 0

    def __call__(self, books: Books) -> None:
        queue = books.scheduler._queue
        for event in books.events:
            if isinstance(event, Arrived):
                self._arrived(event.request, books)
        for model in self.least:
            self.least[model] = min(self.least[model], queue.shedding.passing(model))
        for answer in books.answers:
            request = answer.request
            key = (request.client, request.lane.model)
            if answer.outcome is Outcome.SUPERSEDED:
                self.conforming[key].pop(request.id, None)  # its place is the newer one's
            if answer.advice_ns:
                stream = queue.streams.find(request)
                assert stream is not None
                assert abs(answer.advice_ns) <= 1.05 * LARGEST_ADVICE * stream.cadence.period_ns

    def _arrived(self, request: Request, books: Books) -> None:
        key = (request.client, request.lane.model)
        shed = any(a.request is request and a.outcome is Outcome.SHED for a in books.answers)
        if shed:
            assert request.firm
            assert request.tier > 0
            self.sheds += 1
            self.refused[key] += 1
        elif request.firm and not request.background:
            self.refused[key] = 0
        model = request.lane.model
        passing = books.scheduler._queue.shedding.passing(model)
        least = self.least[model] = min(passing, self.least.get(model, 1.0))
        assert self.refused[key] <= ceil(1 / least + 1e-9) - 1
        if not request.background:
            self.conforming[key][request.id] = request

    def check(self) -> None:
        """Nobody got more than it declared, a little more, and one that waited."""
        for requests in self.conforming.values():
            declared = [each for each in requests.values() if each.period_ns]
            for first, one in enumerate(declared):
                for count, other in enumerate(declared[first:], 1):
                    time_ns = other.arrived_ns - one.arrived_ns
                    assert count <= EXCESS * time_ns / one.period_ns + DEPTH + 1


@settings(unhurried, max_examples=20)
@given(fleets(), st.integers(0, 1000))
def test_no_client_gets_more_than_it_said_or_is_refused_too_often(fleet: Fleet, seed: int) -> None:
    clients = Clients()
    served(fleet, clients, seed=seed)
    clients.check()


def test_where_there_is_far_too_much_refusals_are_spread() -> None:
    kind = RobotClass(name="arm", model="policy", rate_hz=20, budget_ns=60 * MS, count=60)
    clients = Clients()
    served(busy_fleet(robots=(kind,)), clients, horizon_ns=5 * SECOND)
    assert clients.sheds > 500
    assert clients.least[ModelRef("policy", "1")] < 0.9


# -------------------------------------------------------------------------------- tier 0


@define
class Weighed:
    """What each batch that one decision weighed would lose of tier 0."""

    losses: list[tuple[int, list[Request]]] = field(factory=list)
    choices: int = 0


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> Weighed:
    """Check every decision of the strategy in which somebody of tier 0 was looked for."""
    seen = Weighed()
    lost_by, choose = Critical.lost_by, DeadlineAware.choose

    def watched_lost_by(self: Critical, finish_ns: int, chosen: Lane, taken: list[Request]) -> int:
        lost = lost_by(self, finish_ns, chosen, taken)
        seen.losses.append((lost, list(taken)))
        return lost

    def watched_choose(self: DeadlineAware, contenders: list[Contender], start_ns: int) -> Decided:
        seen.losses.clear()
        decided = choose(self, contenders, start_ns)
        if seen.losses and isinstance(decided, Choice):
            least = min(lost for lost, _ in seen.losses)
            of_it = [  # who rides in it comes behind
                lost for lost, taken in seen.losses if decided.requests[: len(taken)] == taken
            ]
            assert min(of_it) == least
            seen.choices += 1
        return decided

    monkeypatch.setattr(Critical, "lost_by", watched_lost_by)
    monkeypatch.setattr(DeadlineAware, "choose", watched_choose)
    return seen


@settings(
    unhurried,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(fleet=fleets(), seed=st.integers(0, 1000))
def test_no_batch_is_chosen_that_loses_more_of_tier_0_than_another(
    weighed: Weighed, fleet: Fleet, seed: int
) -> None:
    before = weighed.choices
    served(fleet, seed=seed)
    periodic = (kind for kind in fleet.robots if not (kind.burst or kind.chunks))
    if any(kind.tier == 0 and kind.count > 4 for kind in periodic):
        assert weighed.choices > before
