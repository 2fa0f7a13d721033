"""Nobody starves another of its tier by claiming to be dry, and who is dry is served first."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.simulation import (
    MS,
    Ask,
    Death,
    Model,
    Record,
    Simulation,
    Start,
    Trace,
    Turn,
    simulate,
    simulation,
)

from appliance.errors import Outcome
from appliance.scheduling.events import Answer, Withdrawn
from appliance.scheduling.turns import SELDOM

ONE = Model(name="policy", row_ns=10 * MS)
FOUR = Model(name="policy", max_batch=4, base_ns=8 * MS, row_ns=2 * MS)
TTL_NS = 3_600_000 * MS


@frozen(kw_only=True)
class Robot:
    """Someone who sends an observation each period; a liar says each time that it is dry.

    Attributes:
        sometimes: It is dry only every other time.
    """

    name: str
    period_ms: int
    phase_ms: int = 0
    budget_ms: int = 50
    keep_latest: bool = True
    dry: bool = False
    sometimes: bool = False
    tier: int = 1

    def asks(self, until_ms: int) -> list[Ask]:
        return [
            Ask(
                at_ns=at_ms * MS,
                session=self.name,
                budget_ns=self.budget_ms * MS,
                ttl_ns=TTL_NS,
                keep_latest=self.keep_latest,
                dry=self.dry and not (self.sometimes and number % 2),
                tier=self.tier,
                queue_limit=8,
            )
            for number, at_ms in enumerate(range(self.phase_ms, until_ms, self.period_ms))
        ]


def run(*robots: Robot, model: Model = ONE, until_ms: int = 1000, **more: Any) -> Record:
    asks = tuple(ask for robot in robots for ask in robot.asks(until_ms))
    return simulate(Trace(models=(model,), asks=asks, **more))


def outcomes(record: Record, session: str) -> Counter[tuple[Outcome, bool]]:
    return Counter((a.outcome, a.late) for _, a in record.answers if a.request.session == session)


# -------------------------------------------------------------------------------- the promises

robots = st.lists(
    st.builds(
        Robot,
        name=st.just(""),
        period_ms=st.sampled_from((2, 5, 20, 50)),
        phase_ms=st.integers(0, 60),
        budget_ms=st.sampled_from((-20, 0, 5, 30, 80, 800)),
        keep_latest=st.booleans(),
        dry=st.booleans(),
        sometimes=st.booleans(),
        tier=st.sampled_from((0, 1, 1, 1)),
    ),
    min_size=2,
    max_size=5,
).map(lambda some: [evolve(robot, name=f"robot {n}") for n, robot in enumerate(some)])

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def starts_in_turns(record: Record) -> list[tuple[Turn, Start]]:
    return [(turn, start) for turn in record.turns for start in turn.starts]


def waiting_honestly(turn: Turn, tier: int) -> set[str]:
    """The sessions of a tier that have something waiting that is not dry."""
    return {w.request.session for w in turn.waiting if w.request.tier == tier and not w.request.dry}


def nobody_dry_is_refused(record: Record) -> None:
    for _, answer in record.answers:
        if answer.request.dry:
            assert answer.outcome in (Outcome.OK, Outcome.SUPERSEDED, Outcome.QUEUE_FULL)


def a_dry_session_goes_first_once_in_a_round(record: Record) -> None:
    """Before it passes anybody again, the others have as many rows as of them waited.

    Or its last batch is little of the time since.
    """
    rows: Counter[int] = Counter()
    next_turn: dict[str, int] = {}
    again_ns: dict[str, int] = {}
    for turn, start in starts_in_turns(record):
        before = rows.copy()
        for request in start.batch.requests:
            rows[request.tier] += not request.dry
        for request in start.batch.requests:
            others = waiting_honestly(turn, request.tier) - {request.session}
            goes_first = request.dry and not request.rank[1]
            if goes_first and others and turn.now_ns < again_ns.get(request.session, 0):
                assert before[request.tier] >= next_turn.get(request.session, 0)
            if request.dry:
                next_turn[request.session] = before[request.tier] + len(others)
                again_ns[request.session] = turn.now_ns + SELDOM * start.batch.expected_ns


def one_dry_request_of_a_session_passes_who_is_late(record: Record) -> None:
    """Of what came after the deadline of one that waits, each dry session has one go before it."""
    started = [request for start in record.starts for request in start.batch.requests]
    dry = [request for request in started if request.dry]
    liars = {request.session for request in record.requests if request.dry}
    for honest in started:
        if honest.session not in liars and honest.started_ns > honest.rank_ns:
            passed = Counter(
                request.session
                for request in dry
                if honest.rank_ns < request.arrived_ns
                and request.started_ns < honest.started_ns
                and request.tier == honest.tier
            )
            assert all(count == 1 for count in passed.values())


@settings(unhurried, max_examples=80)
@given(robots, st.sampled_from((ONE, FOUR)))
def test_the_dry_and_the_others_get_what_they_are_promised(
    robots: list[Robot], model: Model
) -> None:
    record = run(*robots, model=model, until_ms=100)
    nobody_dry_is_refused(record)
    a_dry_session_goes_first_once_in_a_round(record)
    one_dry_request_of_a_session_passes_who_is_late(record)


@settings(unhurried, max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from((3, 7, 20)), st.booleans()), max_size=4),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from((5, 50, 800))), min_size=1, max_size=4),
)
def test_whoever_asks_for_its_share_is_answered_each_time_whatever_liars_do(
    liars: list[tuple[int, bool]], honest: list[tuple[int, int]]
) -> None:
    """Each waits for what a worker has, and for two rows of each other session at the most."""
    share_ms = 11 * (2 + 2 * len(liars) + 2 * len(honest))
    record = run(
        *(
            Robot(name=f"liar {n}", period_ms=period_ms, keep_latest=keep_latest, dry=True)
            for n, (period_ms, keep_latest) in enumerate(liars)
        ),
        *(
            Robot(name=f"honest {n}", period_ms=share_ms, phase_ms=phase_ms, budget_ms=budget_ms)
            for n, (phase_ms, budget_ms) in enumerate(honest)
        ),
        until_ms=3 * share_ms,
    )
    for now_ns, answer in record.answers:
        if answer.request.session.startswith("honest"):
            assert answer.outcome is Outcome.OK
            assert now_ns - answer.request.arrived_ns <= share_ms * MS


# ----------------------------------------------------------------------------------- by example


@pytest.mark.parametrize("keep_latest", [True, False], ids=["latest", "all"])
@pytest.mark.parametrize("liars", [1, 3])
@pytest.mark.parametrize("budget_ms", [50, 800])
def test_liars_at_full_rate_cost_an_honest_robot_nothing(
    *, liars: int, keep_latest: bool, budget_ms: int
) -> None:
    record = run(
        *(
            Robot(name=f"liar {n}", period_ms=2, budget_ms=0, keep_latest=keep_latest, dry=True)
            for n in range(liars)
        ),
        Robot(name="honest", period_ms=50, budget_ms=budget_ms),
        until_ms=1000,
    )
    assert outcomes(record, "honest") == {(Outcome.OK, False): 20}


def test_liars_in_closed_loop_share_what_the_others_leave() -> None:
    counts: Counter[str] = Counter()

    def again(world: Simulation, answer: Answer) -> None:
        session = answer.request.session
        counts[session] += answer.outcome is Outcome.OK
        if session.startswith("liar"):
            at_ns = world.now_ns + MS // 5
            world.ask(Ask(at_ns=at_ns, session=session, budget_ns=0, dry=True))

    liars = tuple(Ask(at_ns=0, session=f"liar {n}", budget_ns=0, dry=True) for n in range(3))
    honest = Robot(name="honest", period_ms=50, budget_ms=800).asks(3000)
    world = simulation(Trace(models=(ONE,), asks=(*liars, *honest)), again)
    world.run(until_ns=3000 * MS)
    assert counts["honest"] == 60
    assert [counts[f"liar {n}"] for n in range(3)] == [80, 80, 80]


def test_a_liar_that_reconnects_each_time_starves_nobody() -> None:
    def again(world: Simulation, answer: Answer) -> None:
        if answer.request.dry and world.now_ns < 500 * MS:
            at_ns = world.now_ns + MS // 5
            world.ask(Ask(at_ns=at_ns, session=f"liar {at_ns}", budget_ns=0, dry=True))

    liars = tuple(Ask(at_ns=0, session=f"liar {n}", budget_ns=0, dry=True) for n in range(2))
    honest = Ask(at_ns=20 * MS, session="honest", budget_ns=50 * MS)
    record = simulation(Trace(models=(ONE,), asks=(*liars, honest)), again).run()
    (served_ns,) = (s.now_ns for s in record.starts if s.batch.requests[0].session == "honest")
    assert served_ns <= (20 + 50 + 3 * 10) * MS


def test_who_comes_by_a_new_connection_each_time_is_the_same_client() -> None:
    def again(world: Simulation, answer: Answer) -> None:
        request = answer.request
        if request.dry and world.now_ns < 2000 * MS:
            at_ns = world.now_ns + MS // 5
            world.at(at_ns, lambda: Withdrawn(request.session, gone=True))
            again = Ask(at_ns=at_ns, session=f"{at_ns}", budget_ns=0, dry=True, client="liar")
            world.ask(again)

    crowd = [
        Robot(name=f"robot {n}", period_ms=110, phase_ms=12 * n, budget_ms=80) for n in range(9)
    ]
    asks = [ask for robot in crowd for ask in robot.asks(2000)]
    liar = Ask(at_ns=5 * MS, session="0", budget_ns=0, dry=True, client="liar")
    world = simulation(Trace(models=(ONE,), asks=(*asks, liar)), again)
    record = world.run(until_ns=2000 * MS)
    rows = Counter(s.batch.requests[0].client == "liar" for s in record.starts)
    assert rows[True] <= 0.25 * rows.total()


def test_a_dry_robot_keeps_its_place_when_its_batch_is_chosen_again() -> None:
    crowd = [
        Ask(at_ns=round(0.4 * n * MS) + 1, session=f"robot {n % 8}", budget_ns=80 * MS)
        for n in range(1000)
    ]
    dry = Ask(at_ns=round(201.3 * MS), session="dry", budget_ns=0, dry=True)
    record = simulate(Trace(models=(ONE,), asks=(*crowd, dry), report_ns=MS // 5))
    ((answered_ns, _),) = (each for each in record.answers if each[1].request.session == "dry")
    assert answered_ns - dry.at_ns <= 25 * MS


def test_dry_robots_lead_for_half_of_the_time_while_others_can_be_in_time() -> None:
    dry = [
        Ask(at_ns=(3 + 11 * n) * MS, session=f"dry {n % 90}", budget_ns=0, dry=True)
        for n in range(180)
    ]
    crowd = [
        ask
        for n in range(9)
        for ask in Robot(name=f"robot {n}", period_ms=100, phase_ms=11 * n, budget_ms=95).asks(2000)
    ]
    record = simulate(Trace(models=(ONE,), asks=(*dry, *crowd), report_ns=MS // 3, noise=0.02))
    settled = [s for s in record.starts if 500 * MS < s.now_ns < 2000 * MS]
    assert 0.4 <= sum(s.batch.requests[0].dry for s in settled) / len(settled) <= 0.6


def test_who_asks_too_often_because_it_has_run_dry_is_served() -> None:
    crowd = [
        ask
        for n in range(12)
        for ask in Robot(name=f"robot {n}", period_ms=100, phase_ms=8 * n).asks(3000)
    ]
    dry = [
        Ask(at_ns=(1 + 300 * n) * MS, session="dry", budget_ns=0, dry=True, period_ns=1000 * MS)
        for n in range(10)
    ]
    record = simulate(Trace(models=(ONE,), asks=(*crowd, *dry)))
    assert outcomes(record, "dry") == {(Outcome.OK, True): 10}


def test_reminders_of_turns_that_do_not_come_are_not_kept() -> None:
    """Those that wait for a worker that is away take turns that end by time alone."""
    away = [
        Ask(at_ns=200 * MS + n, session=f"away {n}", model="other", budget_ns=100, ttl_ns=TTL_NS)
        for n in range(20)
    ]
    dry = [
        Ask(at_ns=(210 + 4 * n) * MS, session=f"dry {n % 6}", budget_ns=0, dry=True)
        for n in range(3000)
    ]
    trace = Trace(
        models=(ONE, evolve(ONE, name="other")),
        slots=(("cpu-0", ("policy",)), ("cpu-1", ("policy", "other"))),
        asks=(*away, *dry),
        deaths=(Death(100 * MS, "cpu-1", TTL_NS),),
    )
    world = simulation(trace)
    world.run(until_ns=12_000 * MS)
    turns = world.scheduler._room._turns.values()
    assert max(len(each._by_turn) + len(each._by_time) for each in turns) <= 300


def test_only_one_of_a_backlog_goes_first() -> None:
    backlog = [
        Ask(at_ns=MS, session="dry", budget_ns=900 * MS, keep_latest=False, dry=True)
        for _ in range(3)
    ]
    others = [Ask(at_ns=MS, session=name, budget_ns=500 * MS) for name in ("a", "b")]
    busy = Ask(at_ns=0, session="busy")
    record = simulate(Trace(models=(ONE,), asks=(busy, *backlog, *others)))
    assert record.served() == ["busy", "dry", "a", "b", "dry", "dry"]


def test_the_next_of_a_backlog_goes_first_when_the_first_is_taken_back() -> None:
    backlog = [
        Ask(at_ns=MS, session="dry", keep_latest=False, dry=True, queue_limit=2) for _ in range(3)
    ]
    other = Ask(at_ns=MS, session="other")
    record = simulate(Trace(models=(ONE,), asks=(Ask(at_ns=0, session="busy"), *backlog, other)))
    assert record.outcomes()[2] is Outcome.QUEUE_FULL
    assert record.served() == ["busy", "dry", "other", "dry"]


def test_of_several_dry_ones_the_one_that_waited_longest_goes_first() -> None:
    asks = [
        Ask(at_ns=0, session="first", dry=True),
        Ask(at_ns=0, session="second", dry=True),
        Ask(at_ns=19 * MS, session="second", dry=True),
        Ask(at_ns=19 * MS, session="first", dry=True),
    ]
    record = simulate(Trace(models=(ONE,), asks=tuple(asks)))
    assert record.served() == ["first", "second", "first", "second"]


def test_the_dry_of_a_better_tier_do_not_yield_to_a_lower_one() -> None:
    record = run(
        Robot(name="important", period_ms=5, dry=True, tier=0, keep_latest=False),
        Robot(name="other", period_ms=50),
        until_ms=100,
    )
    assert record.served()[:16] == ["important"] * 16


def test_who_had_its_turn_still_runs_where_nobody_else_would() -> None:
    record = run(Robot(name="liar", period_ms=10, dry=True, keep_latest=False), until_ms=1000)
    assert outcomes(record, "liar")[Outcome.OK, False] == 100


# ------------------------------------------------------------------- models on workers of their own

SLOW = Model(name="slow", row_ns=2000 * MS)
APART: dict[str, Any] = {
    "models": (SLOW, ONE),
    "slots": (("w0", (SLOW.name,)), ("w1", (ONE.name,))),
}


def loaded_and_dry() -> tuple[Ask, ...]:
    """A robot that is dry ten times, among robots that keep the same model busy."""
    dry = Robot(name="dry", period_ms=200, phase_ms=100, budget_ms=0, dry=True)
    others = [Robot(name=f"other-{n}", period_ms=100, phase_ms=n, budget_ms=100) for n in range(12)]
    return tuple(ask for robot in (dry, *others) for ask in robot.asks(2000))


@pytest.mark.parametrize("waiting", [0, 20, 100])
def test_who_waits_for_another_worker_takes_no_turn_from_a_dry_robot(waiting: int) -> None:
    asks = [
        Ask(at_ns=0, session=f"slow-{n}", model=SLOW.name, budget_ns=TTL_NS, ttl_ns=TTL_NS)
        for n in range(waiting)
    ]
    record = simulate(Trace(asks=(*asks, *loaded_and_dry()), **APART))
    assert outcomes(record, "dry") == {(Outcome.OK, True): 10}


def test_a_robot_that_waits_dry_for_one_worker_goes_first_at_another() -> None:
    asks = [
        Ask(at_ns=0, session="other", model=SLOW.name, budget_ns=TTL_NS, ttl_ns=TTL_NS),
        Ask(at_ns=5 * MS, session="dry", model=SLOW.name, budget_ns=0, ttl_ns=TTL_NS, dry=True),
    ]
    record = simulate(Trace(asks=(*asks, *loaded_and_dry()), **APART))
    assert outcomes(record, "dry") == {(Outcome.OK, True): 11}
