"""The rules of the scheduler by example: each test's name is the rule."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from support.simulation import (
    MS,
    Ask,
    Death,
    Model,
    Record,
    Simulation,
    Trace,
    Withdrawal,
    simulate,
    simulation,
)

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.assignment import STAGE_LEAD_NS
from appliance.scheduling.batch_times import SURELY
from appliance.scheduling.events import (
    Answer,
    Arrived,
    BatchDone,
    Closing,
    Go,
    Lane,
    ModelRef,
    Request,
    Revoke,
    Stage,
    Withdrawn,
    WorkerLost,
    WorkerReady,
    WorkerRef,
)

ONE = Model(name="policy", row_ns=10 * MS)
"""One row in 10 ms, one at a time; planned with 10.255 ms, for safety."""
FOUR = Model(name="policy", max_batch=4, base_ns=8 * MS, row_ns=2 * MS)
EIGHT = Model(name="policy", max_batch=8, base_ns=10 * MS, row_ns=0)
OTHER = Model(name="vision", row_ns=10 * MS)
STAGED_NS = round(9.4 * MS)
"""By then the batch after one that began at 0 is staged, of a model that takes 10 ms."""
TWO_WORKERS = (("cpu-0", ("policy",)), ("cpu-1", ("policy",)))
BOTH_MODELS = (("cpu-0", ("policy", "vision")),)


def ask(session: str, at: float = 1, budget: float = 500, **more: Any) -> Ask:
    """Times in milliseconds. The worker is given something to do at 0 where others shall wait."""
    return Ask(session=session, at_ns=round(at * MS), budget_ns=round(budget * MS), **more)


BUSY = ask("busy", at=0)
FIRM_ONE = ask("firm", budget=34, firm=True, model="vision")


def run(*asks: Ask, model: Model = ONE, **more: Any) -> Record:
    return simulate(Trace(models=(model, OTHER), asks=asks, **more))


def outcomes(record: Record) -> dict[str, list[Outcome]]:
    by_session: dict[str, list[Outcome]] = {}
    for request in record.requests:
        by_session.setdefault(request.session, [])
    for _, answer in record.answers:
        by_session[answer.request.session].append(answer.outcome)
    return by_session


def plain(number: int, model: Model, now_ns: int, budget_ns: int, **more: Any) -> Arrived:
    request = Request(
        id=number,
        session=number,
        client=str(number),
        lane=Lane(model.ref),
        arrived_ns=now_ns,
        deadline_ns=now_ns + budget_ns,
        expires_ns=now_ns + 5000 * MS,
        **more,
    )
    return Arrived(request)


def batches(record: Record) -> list[list[str]]:
    return [[request.session for request in start.batch.requests] for start in record.starts]


# ---------------------------------------------------------------------------------- who is next


def test_the_earliest_deadline_goes_first() -> None:
    record = run(BUSY, ask("late", budget=300), ask("soon", budget=100), ask("then", budget=200))
    assert record.served() == ["busy", "soon", "then", "late"]


def test_tier_0_goes_before_any_deadline_where_not_both_can_be_in_time() -> None:
    record = run(BUSY, ask("soon", budget=20, tier=1), ask("important", budget=21, tier=0))
    assert record.served() == ["busy", "important", "soon"]


@pytest.mark.parametrize(("robots", "period"), [(5, 50), (2, 10), (3, 20)])
@pytest.mark.parametrize("tier", [0, 1])
def test_who_has_more_time_than_the_queue_allows_is_served_before_that_is_over(
    tier: int, robots: int, period: int
) -> None:
    patient = ask("patient", budget=20_000, tier=tier, keep_latest=False)
    others = [
        ask(f"robot {number}", at=at, budget=50)
        for at in range(0, 6_000, period)
        for number in range(robots)
    ]
    assert outcomes(run(patient, *others))["patient"] == [Outcome.OK]


@pytest.mark.parametrize(
    "model",
    [
        "vision",
        "policy",
    ],
)
def test_a_better_tier_is_worth_more_where_not_both_can_be_in_time(model: str) -> None:
    soon = ask("soon", budget=20, tier=2)
    important = ask("important", budget=21, tier=1, model=model)
    record = run(BUSY, soon, important, slots=BOTH_MODELS)
    assert record.served() == ["busy", "important", "soon"]


def test_a_tier_that_has_time_to_wait_does() -> None:
    record = run(BUSY, ask("soon", budget=20, tier=1), ask("important", budget=900, tier=0))
    assert record.served() == ["busy", "soon", "important"]
    assert not any(answer.late for _, answer in record.answers)


def test_a_dry_robot_goes_first_within_its_tier() -> None:
    record = run(
        BUSY,
        ask("soon", budget=20),
        ask("dry", budget=900, dry=True),
        ask("important", budget=25, tier=0),
    )
    assert record.served() == ["busy", "important", "dry", "soon"]


def test_a_dry_robot_goes_before_a_better_tier_that_can_wait() -> None:
    record = run(BUSY, ask("dry", budget=900, dry=True), ask("important", budget=90, tier=0))
    assert record.served() == ["busy", "dry", "important"]


def test_a_dry_robot_minds_a_better_tier_behind_a_firm_one_that_is_lost_by_it() -> None:
    record = run(
        BUSY,
        ask("firm", budget=22, firm=True),
        ask("dry", budget=900, dry=True),
        ask("important", budget=25, tier=0, firm=True),
    )
    assert outcomes(record)["important"] == [Outcome.OK]


def test_a_dry_robot_is_never_refused_for_being_late() -> None:
    record = run(BUSY, *(ask(f"robot {n}", at=1 + n, budget=-5, dry=True) for n in range(9)))
    assert set(record.outcomes().values()) == {Outcome.OK}
    assert all(answer.late for _, answer in record.answers if answer.request.dry)


def test_a_robot_that_will_run_dry_before_it_can_be_answered_is_served_and_not_refused() -> None:
    hopeless = ask("hopeless", budget=15, firm=True, runs_out=True)
    record = run(BUSY, hopeless)
    ((_, _), (at_ns, answer)) = record.answers
    assert (answer.outcome, answer.late) == (Outcome.OK, True)
    assert at_ns == 20 * MS


def test_a_robot_that_runs_dry_while_it_waits_goes_before_who_can_wait() -> None:
    waits = ask("waits", budget=21.5, firm=True, runs_out=True)
    others = [ask(f"robot {n}", budget=900) for n in range(3)]
    record = run(BUSY, waits, *others, ask("critical", at=2, budget=19, tier=0, firm=True))
    assert record.served()[:3] == ["busy", "critical", "waits"]
    assert outcomes(record)["waits"] == [Outcome.OK]


def test_those_who_are_late_do_not_use_up_the_time_of_dry_robots() -> None:
    late = [ask(f"late {n}", budget=5) for n in range(12)]
    timely = [ask(f"timely {n}", budget=900) for n in range(12)]
    record = run(BUSY, *late, *timely, ask("dry", at=12, budget=0, dry=True))
    served = record.served()
    assert [name.split()[0] for name in served[:5]] == ["busy", "late", "dry", "timely", "timely"]
    assert {name.split()[0] for name in served[5:9]} == {"late", "timely"}


def test_a_dry_robot_goes_before_all_that_are_late() -> None:
    late = [ask(f"late {n}", budget=5) for n in range(12)]
    record = run(BUSY, *late, ask("dry", at=62, budget=0, dry=True))
    assert record.served().index("dry") <= 8, "it waits for what runs and what is committed"


def test_a_robot_that_is_seldom_dry_goes_first_each_time() -> None:
    crowd = [ask(f"robot {n}", budget=5) for n in range(60)]
    seldom = [ask("dry", at=50 + 110 * n, budget=0, dry=True) for n in range(5)]
    record = run(BUSY, *crowd, *seldom)
    waits_ns = [
        at_ns - answer.request.arrived_ns
        for at_ns, answer in record.answers
        if answer.request.session == "dry"
    ]
    assert len(waits_ns) == 5
    assert max(waits_ns) <= 30 * MS


def test_a_robot_that_says_it_is_dry_all_the_time_gains_a_tenth_of_the_worker() -> None:
    crowd = [ask(f"robot {n}", budget=5) for n in range(120)]
    greedy = [ask("greedy", at=1 + 4 * n, budget=0, dry=True) for n in range(250)]
    record = run(BUSY, *crowd, *greedy)
    in_a_second = [start for start in record.starts if start.now_ns < 1000 * MS]
    of_it = sum(start.batch.requests[0].session == "greedy" for start in in_a_second)
    assert len(in_a_second) >= 95
    assert 8 <= of_it <= 12


@pytest.mark.parametrize("again_ms", [3, 10, 30])
def test_asking_again_does_not_renew_a_dry_robots_patience(again_ms: int) -> None:
    crowd = [ask(f"robot {n}", at=1 + 2 * n, budget=30, firm=True) for n in range(500)]
    dry = [ask("dry", at=50 + again_ms * n, budget=0, dry=True) for n in range(900 // again_ms)]
    record = run(BUSY, *crowd, *dry, model=FOUR)
    served_ns = [at_ns for at_ns, answer in record.answers if _is_of(answer, "dry")]
    gaps_ns = [later - earlier for earlier, later in pairwise([50 * MS, *served_ns])]
    assert len(served_ns) >= 9
    assert max(gaps_ns) <= 110 * MS, "twice its patience of 36 ms, and what runs by then"


def _is_of(answer: Answer, session: str) -> bool:
    return answer.request.session == session and answer.outcome is Outcome.OK


def test_a_dry_robot_goes_before_a_firm_request_that_is_lost_by_it() -> None:
    record = run(BUSY, ask("firm", budget=25, firm=True), ask("dry", budget=900, dry=True))
    assert record.served() == ["busy", "dry"]
    assert outcomes(record)["firm"] == [Outcome.INFEASIBLE]


@pytest.mark.parametrize("model", ["policy", "vision"])
def test_a_soft_late_request_steps_back_behind_a_firm_one_that_can_be_saved(model: str) -> None:
    record = run(
        BUSY,
        ask("late", budget=2),
        ask("firm", budget=25, firm=True, model=model),
        slots=BOTH_MODELS,
    )
    assert record.served() == ["busy", "firm", "late"]


def test_a_soft_late_request_does_not_step_back_behind_a_firm_one_with_time_to_wait() -> None:
    record = run(BUSY, ask("late", budget=2), ask("firm", budget=200, firm=True))
    assert record.served() == ["busy", "late", "firm"]


def test_a_deadline_that_was_over_on_arrival_passes_nobody_who_came_before() -> None:
    liars = [ask("liar", at=1 + n, budget=-4000) for n in range(60)]
    record = run(BUSY, ask("honest", at=2, budget=30), *liars)
    assert "honest" in record.served()[:6]


def test_priority_decides_between_equal_deadlines() -> None:
    record = run(BUSY, ask("second", priority=5), ask("first", priority=1))
    assert record.served() == ["busy", "first", "second"]


def test_among_equals_the_least_recently_served_goes_first() -> None:
    record = run(
        ask("served", at=0),
        ask("busy", at=11, budget=1),
        ask("served", at=12),
        ask("new", at=12),
    )
    assert record.served() == ["served", "busy", "new", "served"]


# ------------------------------------------------------------------------------------- firm, soft


def test_a_firm_request_that_cannot_be_in_time_is_refused_on_arrival() -> None:
    record = run(BUSY, ask("firm", budget=17, firm=True))  # a batch may take 80 % of its time
    now_ns, answer = next((t, a) for t, a in record.answers if a.request.session == "firm")
    assert (now_ns, answer.outcome) == (1 * MS, Outcome.INFEASIBLE)


def test_a_refused_newcomer_replaces_nobody() -> None:
    record = run(BUSY, ask("robot", at=1), ask("robot", at=2, budget=5, firm=True))
    assert record.outcomes() == {1: Outcome.OK, 2: Outcome.OK, 3: Outcome.INFEASIBLE}


def test_a_firm_request_is_refused_as_soon_as_its_last_chance_has_passed() -> None:
    record = run(BUSY, ask("tier 0", budget=24, tier=0), ask("firm", budget=25, firm=True))
    refused_ns = next(t for t, a in record.answers if a.outcome is Outcome.INFEASIBLE)
    assert refused_ns == 10 * MS  # when the more important one started
    assert record.served() == ["busy", "tier 0"]


def test_a_soft_request_is_served_late_and_marked() -> None:
    record = run(BUSY, ask("soft", budget=5))
    assert [(a.outcome, a.late) for _, a in record.answers] == [
        (Outcome.OK, False),
        (Outcome.OK, True),
    ]


def test_nobody_waits_longer_than_the_time_to_live() -> None:
    slow = evolve(ONE, row_ns=100 * MS)
    record = run(BUSY, ask("soft", ttl_ns=20 * MS), model=slow)
    ended_ns = next(t for t, a in record.answers if a.outcome is Outcome.EXPIRED)
    assert ended_ns == 21 * MS


# --------------------------------------------------------------------------------------- batches


def test_a_batch_grows_to_the_largest_size() -> None:
    record = run(BUSY, *(ask(f"robot {n}", at=1) for n in range(6)), model=FOUR)
    assert [len(batch) for batch in batches(record)] == [1, 4, 2]


def test_a_batch_stops_growing_before_it_makes_anybody_late() -> None:
    # From 10 ms on, one row takes until 20.3, two until 22.3, three until 24.4.
    tight = ask("tight", budget=23)
    record = run(BUSY, tight, ask("a"), ask("b"), model=FOUR)
    assert batches(record)[1] == ["tight", "a"]
    assert not any(answer.late for _, answer in record.answers)


def test_a_batch_grows_around_somebody_who_is_late_anyway() -> None:
    record = run(BUSY, ask("late", budget=2), ask("a"), ask("b"), model=FOUR)
    assert batches(record)[1] == ["late", "a", "b"]


def test_a_batch_takes_no_firm_request_of_another_lane_its_last_chance() -> None:
    # The robots' batch of two is done at 22.5, of three at 24.5; vision must start by 24.4.
    robots = [ask(f"robot {n}", budget=2) for n in range(4)]
    record = run(BUSY, *robots, FIRM_ONE, model=FOUR, slots=BOTH_MODELS)
    assert outcomes(record)["firm"] == [Outcome.OK]
    assert len(batches(record)[1]) == 2


def test_a_batch_that_has_time_waits_for_a_firm_request_of_another_lane() -> None:
    robots = [ask(f"robot {n}", budget=60) for n in range(4)]
    record = run(BUSY, *robots, FIRM_ONE, model=FOUR, slots=BOTH_MODELS)
    assert batches(record)[1:] == [["firm"], [each.session for each in robots]]
    assert not any(answer.late for _, answer in record.answers)


def test_a_soft_request_is_late_rather_than_a_firm_one_refused() -> None:
    robots = [ask(f"robot {n}", budget=30) for n in range(4)]
    record = run(BUSY, *robots, FIRM_ONE, model=FOUR, slots=BOTH_MODELS)
    assert outcomes(record)["firm"] == [Outcome.OK]


def test_late_soft_requests_ride_behind_the_firm_ones_of_their_lane() -> None:
    late = [ask(f"late {n}", budget=2) for n in range(4)]
    firm = ask("firm", budget=23, firm=True)
    record = run(BUSY, *late, firm, model=FOUR)
    assert batches(record)[1] == ["firm", "late 0"]


def test_only_a_lane_shares_a_batch() -> None:
    asks = [ask(f"robot {n}", shape=n % 2) for n in range(4)]
    record = run(BUSY, *asks, model=FOUR)
    assert sorted(batches(record)[1:]) == [["robot 0", "robot 2"], ["robot 1", "robot 3"]]


# ------------------------------------------------------------------------------ mailboxes, queues


def test_a_newer_observation_replaces_the_one_that_waits_and_takes_its_place() -> None:
    record = run(
        BUSY,
        ask("robot", at=1, budget=30),
        ask("other", at=1, budget=50),
        ask("robot", at=5, budget=100),
    )
    assert outcomes(record)["robot"] == [Outcome.SUPERSEDED, Outcome.OK]
    assert record.served() == ["busy", "robot", "other"]
    assert record.starts[1].batch.requests[0].arrived_ns == 5 * MS


def test_keep_all_is_never_replaced() -> None:
    record = run(
        BUSY,
        ask("robot", at=1, keep_latest=False),
        ask("robot", at=2, keep_latest=False),
        ask("robot", at=3, keep_latest=True),
    )
    assert outcomes(record)["robot"] == [Outcome.OK] * 3


def test_each_model_has_its_own_mailbox() -> None:
    record = run(BUSY, ask("robot"), ask("robot", model="vision"), slots=BOTH_MODELS)
    assert outcomes(record)["robot"] == [Outcome.OK] * 2


def test_one_order_runs_one_at_a_time_and_in_order_though_the_batch_has_room() -> None:
    episode = [ask("robot", budget=90 - n, keep_latest=False, ordered=True) for n in range(3)]
    record = run(BUSY, *episode, ask("other"), model=FOUR)
    assert batches(record) == [["busy"], ["robot", "other"], ["robot"], ["robot"]]
    ids = [r.id for s in record.starts for r in s.batch.requests if r.session == "robot"]
    assert ids == sorted(ids)


@pytest.mark.parametrize("budget", [30, 50, 500])
def test_a_flooding_client_delays_anothers_request_by_no_more_than_one_batch(budget: int) -> None:
    flood = [ask("flood", at=0, keep_latest=False) for _ in range(64)]
    record = run(*flood, ask("single", at=25, budget=budget), model=FOUR)
    ahead = [
        start
        for start, sessions in zip(record.starts, batches(record), strict=True)
        if start.now_ns > 25 * MS and "single" not in sessions
    ]
    (own,) = (s for s, b in zip(record.starts, batches(record), strict=True) if "single" in b)
    assert sum(start.now_ns < own.now_ns for start in ahead) <= 1
    assert not any(a.late for _, a in record.answers if a.request.session == "single")
    assert outcomes(record)["flood"] == [Outcome.OK] * 64


def test_drop_oldest_ends_the_oldest_of_a_full_mailbox() -> None:
    asks = [ask("robot", at=n, keep_latest=False, queue_limit=2) for n in (1, 2, 3)]
    record = run(BUSY, *asks, overflow_policy="drop_oldest")
    assert record.outcomes() == {1: Outcome.OK, 2: Outcome.QUEUE_FULL, 3: Outcome.OK, 4: Outcome.OK}


def test_reject_newest_refuses_the_newcomer_to_a_full_mailbox() -> None:
    asks = [ask("robot", at=n, keep_latest=False, queue_limit=2) for n in (1, 2, 3)]
    record = run(BUSY, *asks, overflow_policy="reject_newest")
    assert record.outcomes() == {1: Outcome.OK, 2: Outcome.OK, 3: Outcome.OK, 4: Outcome.QUEUE_FULL}


@pytest.mark.parametrize(("policy", "victim"), [("drop_oldest", 2), ("reject_newest", 4)])
def test_whoever_fills_the_queue_pays_for_the_newcomer(policy: Any, victim: int) -> None:
    hog = [ask("hog", at=n, keep_latest=False) for n in (1, 2, 3)]
    record = run(BUSY, *hog, ask("new", at=4), max_queue_size=3, overflow_policy=policy)
    assert outcomes(record)["new"] == [Outcome.OK]
    assert record.outcomes()[victim] is Outcome.QUEUE_FULL


@pytest.mark.parametrize(("policy", "victim"), [("drop_oldest", "first"), ("reject_newest", "new")])
def test_where_everybody_has_one_waiting_the_policy_decides(policy: Any, victim: str) -> None:
    asks = [ask("first", at=1), ask("second", at=2), ask("new", at=3)]
    record = run(BUSY, *asks, max_queue_size=2, overflow_policy=policy)
    assert [s for s, o in outcomes(record).items() if o == [Outcome.QUEUE_FULL]] == [victim]


def test_a_newcomer_that_replaces_its_own_needs_no_room() -> None:
    record = run(BUSY, ask("a", at=1), ask("b", at=2), ask("b", at=3), max_queue_size=2)
    assert outcomes(record)["a"] == [Outcome.OK]
    assert outcomes(record)["b"] == [Outcome.SUPERSEDED, Outcome.OK]


def test_a_client_that_fills_the_queue_with_another_model_pays_itself() -> None:
    hog = [ask("hog", at=n, keep_latest=False) for n in (1, 2)]
    new = ask("hog", at=3, keep_latest=False, model="vision")
    record = run(
        BUSY, *hog, new, slots=BOTH_MODELS, max_queue_size=2, overflow_policy="reject_newest"
    )
    assert record.outcomes()[4] is Outcome.QUEUE_FULL


# --------------------------------------------------------------------------------------- staging


def effects(record: Record, kind: type) -> list[tuple[int, list[str]]]:
    return [
        (turn.now_ns, [request.session for request in effect.batch.requests])
        for turn in record.turns
        for effect in turn.decision.effects
        if isinstance(effect, kind)
    ]


def test_the_next_batch_is_staged_shortly_before_the_worker_is_free() -> None:
    record = run(BUSY, ask("next"))
    planned_ns = record.starts[0].planned_ns
    assert effects(record, Stage) == [(0, ["busy"]), (planned_ns - STAGE_LEAD_NS, ["next"])]
    assert effects(record, Go) == [(10 * MS, ["next"])]


def test_a_full_batch_is_staged_no_earlier() -> None:
    record = run(BUSY, *(ask(f"robot {n}") for n in range(4)), model=FOUR)
    assert effects(record, Stage)[1][0] == record.starts[0].planned_ns - STAGE_LEAD_NS


def test_a_staged_batch_grows_by_who_arrives_before_it_starts() -> None:
    record = run(BUSY, ask("staged"), ask("more", at=9.5), model=FOUR)
    assert effects(record, Revoke) == [(9.5 * MS, ["staged"])]
    assert effects(record, Stage)[2] == (9.5 * MS, ["staged", "more"])
    assert effects(record, Go) == [(10 * MS, ["staged", "more"])]


def test_a_full_lane_does_not_hurry_the_lane_that_is_next() -> None:
    full = [ask(f"robot {n}", budget=90) for n in range(4)]
    first = ask("first", budget=40, model="vision")
    second = ask("second", at=2, budget=40, model="vision")
    vision = evolve(OTHER, max_batch=4)
    asks = (BUSY, *full, first, second)
    record = simulate(Trace(models=(FOUR, vision), slots=BOTH_MODELS, asks=asks))
    assert batches(record)[1] == ["first", "second"]


@pytest.mark.parametrize(
    "better",
    [
        ask("better", at=9.5, budget=15, tier=0),
        ask("better", at=9.5, budget=900, dry=True),
        ask("better", at=9.5, budget=15, firm=True),
        ask("better", at=9.5, budget=15),
    ],
    ids=["a better tier", "a dry robot", "a firm one it would lose", "a soft one it would delay"],
)
def test_a_staged_batch_gives_way_to_a_more_important_arrival(better: Ask) -> None:
    record = run(BUSY, ask("staged", budget=100), better)
    assert effects(record, Revoke) == [(9.5 * MS, ["staged"])]
    assert record.served() == ["busy", "better", "staged"]


def test_a_staged_batch_that_is_late_anyway_gives_way_to_a_firm_request() -> None:
    record = run(BUSY, ask("staged", budget=2), ask("firm", at=9.5, budget=15, firm=True))
    assert record.served() == ["busy", "firm", "staged"]


@pytest.mark.parametrize(
    "other",
    [
        ask("other", at=9.5, budget=40),
        ask("other", at=9.5, budget=40, firm=True),
        ask("other", at=9.5, budget=21),
    ],
    ids=[
        "a soft one with time to wait",
        "a firm one with time to wait",
        "one that is made late by it, but ranks behind it",
    ],
)
def test_a_staged_batch_stays_where_nobody_before_it_is_made_late(other: Ask) -> None:
    record = run(BUSY, ask("staged", budget=23), other)
    assert effects(record, Revoke) == []
    assert record.served() == ["busy", "staged", "other"]


def test_a_staged_firm_request_stays_where_only_a_late_one_arrives() -> None:
    record = run(BUSY, ask("staged", budget=23, firm=True), ask("late", at=9.5, budget=5))
    assert effects(record, Revoke) == []
    assert record.served() == ["busy", "staged", "late"]


def test_a_staged_firm_request_that_became_too_late_is_revoked_and_refused() -> None:
    trace = Trace(models=(ONE,), asks=(BUSY, ask("firm", budget=22, firm=True)))
    world = simulation(trace)
    world.run(until_ns=STAGED_NS)
    batch = world.scheduler._workers.find(WorkerRef("cpu-0", 1)).executing
    decision = world.scheduler.handle([], 13 * MS)  # the worker is late
    assert decision.effects == []
    done = BatchDone(WorkerRef("cpu-0", 1), batch.id, 13 * MS)
    kinds = [type(effect) for effect in world.scheduler.handle([done], 13 * MS).effects]
    assert kinds == [Answer, Revoke, Answer]


def test_a_staged_firm_request_is_weighed_again_by_what_was_learnt_meanwhile() -> None:
    world = simulation(Trace(models=(ONE,), asks=(BUSY, ask("firm", budget=19.8, firm=True))))
    world.run(until_ns=STAGED_NS)
    busy = world.record.starts[0].batch
    slow = BatchDone(busy.worker, busy.id, 12 * MS)
    kinds = [type(effect) for effect in world.scheduler.handle([slow], round(10.35 * MS)).effects]
    assert kinds == [Answer, Revoke, Answer]


def test_an_idle_worker_takes_over_what_is_staged_behind_a_busy_one() -> None:
    # cpu-1 is back after the staging at 9.3 ms and before cpu-0 is free.
    away = Death(MS // 2, "cpu-1", 9 * MS)
    record = run(BUSY, ask("robot"), slots=TWO_WORKERS, deaths=(away,))
    last = record.starts[-1]
    assert (last.now_ns, last.batch.worker.slot) == (9.5 * MS, "cpu-1")
    assert effects(record, Revoke) == [(9.5 * MS, ["robot"])]


def test_a_worker_goes_on_by_itself_where_it_takes_time_to_hear_from_it() -> None:
    waiting = [ask(f"robot {n}", budget=5000) for n in range(60)]
    record = run(BUSY, *waiting, report_ns=400_000)
    begun_ns = [start.now_ns for start in record.starts]
    took_ns = [after - before for before, after in pairwise(begun_ns)]
    assert took_ns[0] == 10 * MS + 400_000
    assert set(took_ns[-20:]) == {10 * MS}
    assert effects(record, Revoke) == []


def test_a_firm_request_is_skipped_by_a_worker_that_comes_to_it_too_late() -> None:
    before = [ask(f"robot {n}", budget=5000) for n in range(20)]
    asks = (*before, ask("busy", at=300), ask("firm", at=301, budget=22, firm=True))
    world = simulation(Trace(models=(ONE,), asks=asks, report_ns=400_000))
    world.run(until_ns=round(309.9 * MS))
    worker = world.scheduler._workers.find(WorkerRef("cpu-0", 1))
    running, batch = worker.executing, worker.committed
    assert [request.session for request in batch.requests] == ["firm"]
    assert batch.latest_start_ns <= batch.requests[0].deadline_ns - SURELY * 10 * MS
    late_ns = batch.latest_start_ns + MS
    done = BatchDone(worker.ref, running.id, late_ns - running.started_ns, finished_ns=late_ns)
    skipped = BatchDone(worker.ref, batch.id, 0, finished_ns=late_ns, skipped=True)
    decision = world.scheduler.handle([done, skipped], late_ns + 400_000)
    answers = [each for each in decision.effects if isinstance(each, Answer)]
    outcome = {each.request.session: each.outcome for each in answers}
    assert outcome == {"busy": Outcome.OK, "firm": Outcome.INFEASIBLE}


def test_what_is_likely_too_late_is_not_committed() -> None:
    before = [ask(f"robot {n}", budget=5000) for n in range(20)]
    asks = (*before, ask("busy", at=300), ask("firm", at=301, budget=22, firm=True))
    world = simulation(Trace(models=(ONE,), asks=asks, report_ns=400_000))
    world.run(until_ns=309 * MS)
    worker = world.scheduler._workers.find(WorkerRef("cpu-0", 1))
    assert worker.committed is None
    worker.staged.requests[0].deadline_ns = 1  # the times that were planned with were all wrong
    world.scheduler.handle([], worker.likely_ns)
    assert worker.committed is None


def test_who_runs_dry_because_its_answer_would_be_heard_too_late_is_started_at_once() -> None:
    before = [ask(f"robot {n}", budget=5000) for n in range(20)]
    runs_out = ask("runs out", at=301, budget=26, firm=True, runs_out=True)
    asks = (*before, ask("busy", at=300), runs_out)
    world = simulation(Trace(models=(ONE,), asks=asks, report_ns=3 * MS))
    world.run(until_ns=round(308.9 * MS))
    busy = world.record.starts[-1].batch
    late = BatchDone(busy.worker, busy.id, 12 * MS, finished_ns=312 * MS)
    kinds = [type(effect) for effect in world.scheduler.handle([late], 315 * MS).effects]
    assert kinds == [Answer, Revoke, Stage]


def test_who_is_skipped_has_had_no_turn() -> None:
    before = [ask(f"robot {n}", budget=5000) for n in range(20)]
    runs_out = ask("runs out", at=301, budget=22, firm=True, runs_out=True)
    others = [ask(f"other {n}", at=302, budget=900) for n in range(4)]
    asks = (*before, ask("busy", at=300), runs_out, *others)
    world = simulation(Trace(models=(ONE,), asks=asks, report_ns=400_000))
    world.run(until_ns=round(309.9 * MS))
    worker = world.scheduler._workers.find(WorkerRef("cpu-0", 1))
    running, batch = worker.executing, worker.committed
    late_ns = batch.latest_start_ns + MS
    done = BatchDone(worker.ref, running.id, late_ns - running.started_ns, finished_ns=late_ns)
    skipped = BatchDone(worker.ref, batch.id, 0, finished_ns=late_ns, skipped=True)
    decision = world.scheduler.handle([done, skipped], late_ns + 400_000)
    (again,) = [each for each in decision.effects if isinstance(each, Stage)]
    assert [request.session for request in again.batch.requests] == ["runs out"]


def test_a_core_that_stood_still_once_refuses_nobody_later() -> None:
    scheduler = Scheduler()
    worker = WorkerRef("cpu-0", 1)
    scheduler.handle([WorkerReady(worker, {ONE.ref: {1: 10 * MS}}, {ONE.ref: 1})], MS)
    now_ns = MS
    for number in range(1, 60):
        asked = plain(number, ONE, now_ns, 50 * MS, firm=True)
        (order,) = scheduler.handle([asked], now_ns).effects
        assert isinstance(order, Stage), "it was refused"
        finished_ns = now_ns + 10 * MS
        stalled_ns = 10_000 * MS if number == 30 else MS // 10
        now_ns = finished_ns + stalled_ns
        done = BatchDone(worker, order.batch.id, 10 * MS, finished_ns=finished_ns)
        scheduler.handle([done], now_ns)
        now_ns += 20 * MS


def test_a_change_of_model_counts_for_when_a_batch_is_done() -> None:
    scheduler, worker = Scheduler(), WorkerRef("cpu-0", 1)
    times_ns = {1: 10 * MS}
    hosted = {ONE.ref: times_ns, OTHER.ref: times_ns}
    scheduler.handle([WorkerReady(worker, hosted, dict.fromkeys(hosted, 1))], MS)
    (order,) = scheduler.handle([plain(1, ONE, MS, 900 * MS)], MS).effects
    done = BatchDone(worker, order.batch.id, 10 * MS, finished_ns=11 * MS, answering_ns=MS // 5)
    scheduler.handle([done], 11 * MS)
    for model in hosted:
        scheduler._workers.estimate(model).switch_ns = 4 * MS
    begun_ns = 20 * MS
    other, firm = plain(2, OTHER, begun_ns, 900 * MS), plain(3, ONE, begun_ns, 40 * MS, firm=True)
    scheduler.handle([other], begun_ns)
    scheduler.handle([firm], begun_ns)
    view = scheduler._workers.find(worker)
    assert view.likely_ns == begun_ns + 14 * MS
    for now_ns in range(begun_ns, view.likely_ns, MS // 50):
        scheduler.handle([], now_ns)
    assert view.likely_ns - MS <= view.committed_ns
    assert view.committed.latest_start_ns <= begun_ns + (40 - SURELY * 14) * MS


# ----------------------------------------------------------------------------------- when it fails


def test_a_bad_row_fails_alone() -> None:
    asks = (ask("good", at=0), ask("bad", at=0, fault="bad row"), ask("fine", at=0))
    record = run(*asks, model=FOUR)
    assert outcomes(record) == {
        "good": [Outcome.OK],
        "bad": [Outcome.INVALID],
        "fine": [Outcome.OK],
    }
    assert len(record.starts) == 1


def test_a_failed_batch_is_split_in_halves_until_the_bad_row_fails_alone() -> None:
    asks = [ask(f"robot {n}", at=0, fault="raises" if n == 2 else "") for n in range(4)]
    record = run(*asks, model=FOUR)
    assert sorted(len(batch) for batch in batches(record)) == [1, 1, 2, 2, 4]
    assert [s for s, o in outcomes(record).items() if o != [Outcome.OK]] == ["robot 2"]
    assert outcomes(record)["robot 2"] == [Outcome.ENGINE_FAILED]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_row_that_fails_alone_is_tried_again_as_often_as_configured(retries: int) -> None:
    record = run(ask("robot", at=0, fault="raises"), max_retries=retries)
    assert len(record.starts) == 1 + retries
    assert outcomes(record)["robot"] == [Outcome.ENGINE_FAILED]


def test_a_batch_teaches_how_long_the_next_one_takes() -> None:
    world = simulation(Trace(models=(ONE,), asks=(BUSY,)))
    batch = world.run(until_ns=0).starts[0].batch
    before_ns = world.scheduler.planned_ns(ONE.ref, 1)
    world.scheduler.handle([BatchDone(batch.worker, batch.id, 12 * MS)], 12 * MS)
    assert world.scheduler.planned_ns(ONE.ref, 1) > before_ns


@pytest.mark.parametrize("fault", ["raises", "bad row"])
def test_a_batch_that_failed_teaches_nothing(fault: Any) -> None:
    record = run(ask("robot", at=0, fault=fault), ask("other", at=50), noise=0.3)
    assert record.starts[0].planned_ns == record.starts[1].planned_ns


def test_rows_of_a_worker_that_died_run_again_alone_on_another() -> None:
    asks = [ask(f"robot {n}", at=0) for n in range(4)]
    record = run(*asks, model=FOUR, slots=TWO_WORKERS, deaths=(Death(5 * MS, "cpu-0", 10 * MS),))
    assert set(record.outcomes().values()) == {Outcome.OK}
    assert batches(record)[0] == ["robot 0", "robot 1", "robot 2", "robot 3"]
    assert all(len(batch) == 1 for batch in batches(record)[1:])


def test_rows_of_a_worker_that_died_wait_while_only_one_other_hosts_their_model() -> None:
    asks = [ask("robot", at=0), ask("other", at=6, model="policy")]
    deaths = (Death(5 * MS, "cpu-0", 40 * MS),)
    record = run(*asks, slots=TWO_WORKERS, deaths=deaths)
    (again,) = (s for s in record.starts if any(s.deaths))
    assert again.now_ns == 45 * MS


def test_a_row_that_is_staged_on_what_became_the_last_worker_is_revoked() -> None:
    # "robot" killed cpu-0, is staged on cpu-1 behind "busy", and then cpu-2 dies.
    slots = (("cpu-0", ("policy",)), ("cpu-1", ("policy",)), ("cpu-2", ("policy",)))
    asks = (
        ask("robot", at=0),
        ask("busy", at=1),
        ask("too", at=1.5),
        ask("robot 2", at=30),
    )
    deaths = (Death(5 * MS, "cpu-0", 100 * MS), Death(STAGED_NS + MS, "cpu-2", 50 * MS))
    record = run(*asks, slots=slots, deaths=deaths)
    assert [s for _, s in effects(record, Revoke)] == [["robot"]]
    assert all(start.hosts > 1 for start in record.starts if any(start.deaths))
    assert outcomes(record)["robot"] == [Outcome.OK]


def test_a_row_that_kills_twice_is_lost_and_nobody_else_is() -> None:
    asks = [ask(f"robot {n}", at=0, fault="kills" if n == 1 else "") for n in range(4)]
    record = run(*asks, model=FOUR, slots=TWO_WORKERS)
    assert [s for s, o in outcomes(record).items() if o != [Outcome.OK]] == ["robot 1"]
    assert outcomes(record)["robot 1"] == [Outcome.WORKER_LOST]


def test_rows_are_lost_with_the_only_worker_there_is() -> None:
    record = run(ask("robot", at=0), deaths=(Death(5 * MS, "cpu-0", 10 * MS),))
    assert next(iter(record.answers))[0] == 5 * MS
    assert outcomes(record)["robot"] == [Outcome.WORKER_LOST]


def test_a_firm_row_whose_deadline_passed_with_its_worker_is_expired() -> None:
    firm = ask("robot", at=0, budget=12, firm=True)
    world = simulation(Trace(models=(ONE,), slots=TWO_WORKERS, asks=(firm,)))
    world.run(until_ns=5 * MS)
    lost = WorkerLost(world.record.starts[0].batch.worker)
    (answer,) = world.scheduler.handle([lost], 13 * MS).effects  # it hung until it was killed
    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.EXPIRED


def test_what_was_staged_on_a_worker_that_died_still_shares_a_batch() -> None:
    asks = [ask("robot 0", at=1), ask("robot 1", at=1), ask("robot 2", at=9.5)]
    deaths = (Death(STAGED_NS, "cpu-0", 10 * MS),)
    record = run(BUSY, *asks, model=FOUR, deaths=deaths)
    assert effects(record, Stage)[1][1] == ["robot 0", "robot 1"]
    assert batches(record) == [["busy"], ["robot 0", "robot 1", "robot 2"]]


def test_what_is_staged_behind_a_batch_that_killed_its_worker_is_unharmed() -> None:
    record = run(
        ask("robot", at=0),
        ask("staged", at=1),
        deaths=(Death(STAGED_NS, "cpu-0", 10 * MS),),
    )
    assert outcomes(record) == {"robot": [Outcome.WORKER_LOST], "staged": [Outcome.OK]}
    assert record.starts[-1].deaths == (0,)


def test_an_observation_that_comes_back_is_superseded_by_a_newer_one_that_waits() -> None:
    asks = (
        ask("robot", at=0, fault="raises"),
        ask("tier 0", at=1, tier=0),
        ask("robot", at=2),
    )
    record = run(*asks, max_retries=1)
    assert outcomes(record)["robot"] == [Outcome.SUPERSEDED, Outcome.OK]


def test_a_newer_observation_that_comes_back_supersedes_an_older_one_that_did_before() -> None:
    world = simulation(
        Trace(
            models=(ONE,),
            slots=TWO_WORKERS,
            asks=(ask("robot", at=0, fault="raises"), ask("robot", at=1)),
            max_retries=1,
        )
    )
    record = world.run(until_ns=9 * MS)
    assert batches(record) == [["robot"], ["robot"]]
    lost = [world.die("cpu-0", 5 * MS), world.die("cpu-1", 5 * MS)]
    decision = world.scheduler.handle([event for event in lost if event], 9 * MS)
    assert [
        (effect.request.id, effect.outcome)
        for effect in decision.effects
        if isinstance(effect, Answer)
    ] == [(1, Outcome.SUPERSEDED)]


def test_an_answer_of_an_older_generation_is_dropped() -> None:
    world = simulation(Trace(models=(ONE,), asks=(BUSY,)))
    world.run(until_ns=5 * MS)
    batch = world.record.starts[0].batch
    old = BatchDone(WorkerRef("cpu-0", 0), batch.id, MS)
    other = BatchDone(batch.worker, batch.id + 1, MS)
    assert world.scheduler.handle([old, other], 6 * MS).effects == []
    (answer,) = world.scheduler.handle([BatchDone(batch.worker, batch.id, MS)], 7 * MS).effects
    assert isinstance(answer, Answer)
    assert world.scheduler.handle([BatchDone(batch.worker, batch.id, MS)], 8 * MS).effects == []


# ------------------------------------------------------------------------------------ taken back


def test_cancel_takes_back_what_waits_by_tag_and_model() -> None:
    mine = [ask("robot", at=1, keep_latest=False, tag=n) for n in (1, 2)]
    seer = ask("robot", at=1, keep_latest=False, tag=1, model="vision")
    withdrawal = Withdrawal(2 * MS, Withdrawn("robot", "policy", 1))
    record = run(BUSY, *mine, seer, slots=BOTH_MODELS, withdrawals=(withdrawal,))
    assert record.outcomes() == {
        1: Outcome.OK,
        2: Outcome.CANCELLED,
        3: Outcome.OK,
        4: Outcome.OK,
    }


def test_a_session_that_ends_takes_all_it_has_waiting_with_it() -> None:
    mine = [ask("robot", at=1, keep_latest=False) for _ in range(3)]
    gone = Withdrawal(2 * MS, Withdrawn("robot", gone=True))
    record = run(BUSY, *mine, ask("other"), withdrawals=(gone,))
    assert outcomes(record)["robot"] == [Outcome.CLIENT_GONE] * 3
    assert outcomes(record)["other"] == [Outcome.OK]


def test_a_session_that_is_expelled_is_told_why() -> None:
    mine = [ask("robot", at=1, keep_latest=False) for _ in range(3)]
    expelled = Withdrawn("robot", gone=True, outcome=Outcome.UNAUTHENTICATED, message="revoked")
    record = run(BUSY, *mine, ask("other"), withdrawals=(Withdrawal(2 * MS, expelled),))
    assert outcomes(record)["robot"] == [Outcome.UNAUTHENTICATED] * 3
    assert outcomes(record)["other"] == [Outcome.OK]
    assert not record.scheduler._room.knows("robot")


def test_what_comes_back_of_a_session_that_ended_is_not_run_again() -> None:
    gone = Withdrawal(2 * MS, Withdrawn("robot", gone=True))
    record = run(ask("robot", at=0, fault="raises"), withdrawals=(gone,), max_retries=3)
    assert outcomes(record)["robot"] == [Outcome.CLIENT_GONE]
    assert len(record.starts) == 1


def test_an_answer_to_a_session_that_ended_is_not_remembered() -> None:
    gone = Withdrawal(2 * MS, Withdrawn("robot", gone=True))
    record = run(ask("robot", at=0), withdrawals=(gone,))
    assert outcomes(record)["robot"] == [Outcome.OK]
    assert not record.scheduler._room.knows("robot")


def test_closing_ends_everything_that_waits_or_runs() -> None:
    asks = [ask(f"robot {n}", at=0, keep_latest=False, ordered=True) for n in range(3)]
    more = [ask("robot 0", at=1, keep_latest=False, ordered=True) for _ in range(2)]
    world = simulation(Trace(models=(ONE,), asks=(*asks, *more)))
    world.run(until_ns=9 * MS)
    decision = world.scheduler.handle([Closing()], 9 * MS)
    assert [type(effect) for effect in decision.effects] == [Answer] * 5
    assert {effect.outcome for effect in decision.effects} == {Outcome.DRAINING}
    assert decision.next_wakeup_ns is None
    assert world.scheduler.statistics().in_batches == 0


# -------------------------------------------------------------------------------------- the rest


def test_eight_identical_robots_in_closed_loop_get_the_same_number_of_answers() -> None:
    slow = Model(name="policy", row_ns=50 * MS)
    counts = dict.fromkeys([f"robot {n}" for n in range(8)], 0)

    def again(world: Simulation, answer: Answer) -> None:
        session = answer.request.session
        assert answer.outcome is Outcome.OK
        counts[session] += 1
        world.ask(ask(session, at=world.now_ns / MS + 0.2, budget=1000))

    asks = tuple(ask(session, at=n, budget=1000) for n, session in enumerate(counts))
    simulation(Trace(models=(slow,), asks=asks, noise=0.05), again).run(until_ns=20_000 * MS)
    assert sum(counts.values()) >= 380
    assert max(counts.values()) - min(counts.values()) <= 1


def test_identical_robots_are_served_evenly_though_all_are_late() -> None:
    slow = Model(name="policy", row_ns=50 * MS)
    counts = dict.fromkeys([f"robot {n}" for n in range(8)], 0)

    def again(world: Simulation, answer: Answer) -> None:
        counts[answer.request.session] += 1
        world.ask(ask(answer.request.session, at=world.now_ns / MS + 0.2, budget=60))

    asks = tuple(ask(session, at=n, budget=60) for n, session in enumerate(counts))
    simulation(Trace(models=(slow,), asks=asks), again).run(until_ns=5_000 * MS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_what_is_over_is_not_remembered_until_its_time_to_live() -> None:
    quick = Model(name="policy", row_ns=MS // 10)
    asks = tuple(ask(f"robot {n}", at=n, ttl_ns=3_600_000 * MS) for n in range(1000))
    record = run(*asks, model=quick)
    assert len(record.scheduler._queue._due) == 0
    waiting = ask("waiting", at=0, tier=9, ttl_ns=3_600_000 * MS)
    world = simulation(Trace(models=(evolve(ONE, row_ns=MS),), asks=(waiting, *asks)))
    world.run(until_ns=900 * MS)
    assert len(world.scheduler._queue._due) <= 2 * world.scheduler.statistics().queued + 64


def test_a_full_house_keeps_its_notes_short_and_right() -> None:
    """Everybody is replaced again and again while the worker is away."""
    asks = tuple(
        ask(f"robot {n % 10}", at=n, ttl_ns=9000 * MS, firm=n % 2 == 0, budget=8000)
        for n in range(1000)
    )
    world = simulation(Trace(models=(ONE,), slots=(), asks=asks))
    world.run(until_ns=1000 * MS)
    assert world.scheduler.statistics().queued == 10
    assert len(world.scheduler._queue._due) <= 84
    record = world.run()
    assert len(record.outcomes()) == 1000
    firm_ns = [t for t, a in record.answers if a.outcome is Outcome.INFEASIBLE]
    assert firm_ns == [request.deadline_ns + 1 for request in record.requests[990:1000:2]]


def test_statistics_count_what_waits_and_what_runs() -> None:
    world = simulation(Trace(models=(ONE,), asks=(BUSY, ask("a"), ask("b"))))
    world.run(until_ns=STAGED_NS)
    statistics = world.scheduler.statistics()
    assert (statistics.queued, statistics.in_batches) == (1, 2)
    assert statistics.queued_by_model == {ModelRef("policy", "1"): 1}


def test_a_model_that_was_never_loaded_has_no_time() -> None:
    world = simulation(Trace(asks=()))
    assert world.scheduler.planned_ns(ModelRef("nobody", "1"), 1) == 0


def test_requests_wait_for_a_worker_to_come_up() -> None:
    world = simulation(Trace(models=(ONE,), slots=(), asks=(ask("robot", at=0, ttl_ns=99 * MS),)))
    record = world.run()
    assert outcomes(record)["robot"] == [Outcome.EXPIRED]
    assert isinstance(record.turns[0].events[0], Arrived)


def test_each_worker_is_given_what_it_takes() -> None:
    policy = ModelRef("policy", "1")
    large, small = WorkerRef("large", 1), WorkerRef("small", 1)
    scheduler = Scheduler()
    ready = [
        WorkerReady(large, {policy: {1: 5 * MS, 8: 9 * MS}}, {policy: 8}),
        WorkerReady(small, {policy: {1: 5 * MS, 2: 6 * MS}}, {policy: 2}),
    ]
    asked = [
        Request(
            id=number,
            session=number,
            client=str(number),
            lane=Lane(policy),
            arrived_ns=0,
            deadline_ns=500 * MS,
            expires_ns=900 * MS,
        )
        for number in range(1, 13)
    ]
    decision = scheduler.handle([*ready, *map(Arrived, asked)], 0)
    staged = [effect.batch for effect in decision.effects if isinstance(effect, Stage)]
    assert {batch.worker: len(batch.requests) for batch in staged} == {large: 8, small: 2}
