"""A strategy that breaks a rule is not asked again, and nobody notices but who looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulation import MS, Ask, Model, Trace, Withdrawal, simulate
from support.strategies import by_policy, made, simulation_with
from support.traces import random_trace
from test_strategies import LAWS

from appliance.errors import Outcome
from appliance.scheduling.choice import Choice, Contender, Decided, Wait
from appliance.scheduling.deadline_aware import DeadlineAware
from appliance.scheduling.events import Lane, ModelRef, Request, Withdrawn
from appliance.scheduling.guard import LONGEST_MESSAGE, SLOW_NS, Guard
from appliance.scheduling.line import Line
from appliance.scheduling.strategies import PolicyRequest
from appliance.scheduling.strategies.scored import Policy

FOUR = Model(name="policy", max_batch=4, base_ns=4 * MS, row_ns=MS)
Answers = Callable[[Sequence[Contender], int], object]


class Mine:
    """A strategy of one function."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer
        self.asked = 0

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        self.asked += 1
        return self.answer(contenders, start_ns)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Endless(Exception):
    def __str__(self) -> str:
        return "x" * 10_000


def first(contenders: Sequence[Contender], _: int) -> Choice:
    """Choose as one should, almost."""
    one = next(one for one in contenders if len(one.line))
    return Choice(one.lane, [next(iter(one.line))])


def into_itself(contenders: Sequence[Contender], start_ns: int) -> object:
    return into_itself(contenders, start_ns)


def raises(error: BaseException) -> Answers:
    def answer(*_: object) -> Decided:
        raise error

    return answer


def someone_elses(contenders: Sequence[Contender], start_ns: int) -> Choice:
    lane = first(contenders, start_ns).lane
    return Choice(
        lane,
        [
            Request(
                id=1, session=1, client="x", lane=lane, arrived_ns=0, deadline_ns=0, expires_ns=0
            )
        ],
    )


def all_that_waits(contenders: Sequence[Contender], start_ns: int) -> Choice:
    lane = first(contenders, start_ns).lane
    one = next(one for one in contenders if one.lane == lane)
    return Choice(lane, [*one.line])


def ended() -> Answers:
    """Choose what was chosen before, whatever became of it."""
    kept: list[Choice] = []

    def answer(contenders: Sequence[Contender], start_ns: int) -> Choice:
        kept.append(first(contenders, start_ns))
        return kept[0]

    return answer


def twice(contenders: Sequence[Contender], start_ns: int) -> Choice:
    choice = first(contenders, start_ns)
    return Choice(choice.lane, choice.requests * 2)


BROKEN: dict[str, tuple[str, Answers]] = {
    "raises": ("raised", raises(ZeroDivisionError("by zero"))),
    "raises what cannot be said": ("raised", raises(Unspeakable())),
    "raises at length": ("raised", raises(Endless())),
    "exits": ("raised", raises(SystemExit(1))),
    "runs into itself": ("raised", into_itself),
    "answers a number": ("nonsense", lambda *_: 7),
    "answers the request": ("nonsense", lambda a, b: first(a, b).requests[0]),
    "waits until then": ("nonsense", lambda *_: Wait("then")),
    "waits until now": ("nonsense", lambda _, start_ns: Wait(start_ns)),
    "chooses nobody": ("nonsense", lambda a, b: Choice(first(a, b).lane, [])),
    "chooses no list": ("nonsense", lambda a, b: Choice(first(a, b).lane, 3)),
    "another lane": ("unknown_lane", lambda a, b: Choice(Lane(ModelRef("x", "1")), [])),
    "no lane": ("unknown_lane", lambda a, b: Choice(None, first(a, b).requests)),
    "somebody else's": ("not_waiting", someone_elses),
    "a name": ("not_waiting", lambda a, b: Choice(first(a, b).lane, ["arm"])),
    "one that has ended": ("not_waiting", ended()),
    "one twice": ("repeated", twice),
    "too many": ("too_many", all_that_waits),
    "never anybody": ("idle", lambda *_: None),
    "nobody for a long time": ("idle", lambda _, start_ns: Wait(start_ns + 3_600_000 * MS)),
}


def asks(**different: object) -> tuple[Ask, ...]:
    return tuple(
        Ask(at_ns=(1 + 5 * n) * MS, session=f"robot {n % 10}", budget_ns=4000 * MS, **different)
        for n in range(50)
    )


def crowd(**different: object) -> Trace:
    """Many who have time, and a few who come later."""
    together = tuple(
        Ask(at_ns=MS, session=f"early {n}", budget_ns=4000 * MS, **different) for n in range(6)
    )
    return Trace(models=(FOUR,), asks=(*together, *asks(**different)))


@pytest.mark.parametrize(("cause", "answer"), BROKEN.values(), ids=BROKEN)
def test_the_default_takes_over_from_what_breaks_a_rule(cause: str, answer: Answers) -> None:
    mine = Mine(answer)
    world = simulation_with(crowd(), made(mine))
    record = world.run()
    fault = world.scheduler.fault
    assert fault is not None
    assert (fault.strategy, fault.cause) == ("mine", cause)
    assert fault.message.startswith("it ")
    assert len(fault.message) < LONGEST_MESSAGE + 20
    assert set(record.outcomes().values()) <= {Outcome.OK, Outcome.SUPERSEDED}
    for law in LAWS:
        law(record)
    asked = mine.asked
    world.ask(Ask(at_ns=world.now_ns + MS, session="late"))
    world.run()
    assert mine.asked == asked, "it was asked again"


@settings(max_examples=15)
@given(st.sampled_from(sorted(BROKEN)), st.integers(0, 1 << 32), st.integers(1, 40))
def test_the_laws_hold_whatever_a_strategy_does(broken: str, seed: int, size: int) -> None:
    world = simulation_with(random_trace(seed, size, faults=True), made(Mine(BROKEN[broken][1])))
    record = world.run()
    for law in LAWS:
        law(record)


def test_from_its_first_fault_on_the_default_decides_as_ever() -> None:
    mine = made(Mine(raises(ValueError("no"))))
    assert simulation_with(crowd(), mine).run().log() == simulate(crowd()).log()


def test_a_firm_request_that_would_be_late_is_not_started() -> None:
    robots = tuple(
        Ask(at_ns=MS, session=f"robot {n}", budget_ns=6 * MS, firm=True) for n in range(3)
    )
    world = simulation_with(Trace(models=(FOUR,), asks=robots), made(Mine(all_that_waits)))
    record = world.run()
    assert world.scheduler.fault is not None
    assert world.scheduler.fault.cause == "late"
    assert "'robot 0'" in world.scheduler.fault.message
    for law in LAWS:
        law(record)


def test_firm_requests_that_all_expire_while_it_chooses_nobody_are_noticed() -> None:
    stream = tuple(
        Ask(at_ns=(1 + 50 * n) * MS, session="arm", budget_ns=40 * MS, firm=True)
        for n in range(100)
    )
    world = simulation_with(Trace(models=(FOUR,), asks=stream), made(Mine(lambda *_: None)))
    record = world.run()
    assert world.scheduler.fault is not None
    assert world.scheduler.fault.cause == "idle"
    outcomes = [record.outcomes()[number] for number in range(1, 101)]
    assert outcomes.count(Outcome.OK) > 20


def test_who_waits_no_longer_than_he_may_is_not_idle() -> None:
    """Someone who waits each time, for a day of virtual time."""

    def patient(contenders: Sequence[Contender], start_ns: int) -> Decided:
        choice = first(contenders, start_ns)
        come_ns = choice.requests[0].arrived_ns + 900 * MS
        return choice if start_ns >= come_ns else Wait(come_ns)

    hourly = tuple(
        Ask(at_ns=3_600_000 * MS * n, session="arm", budget_ns=4000 * MS) for n in range(24)
    )
    world = simulation_with(Trace(models=(FOUR,), asks=hourly), made(Mine(patient)))
    record = world.run()
    assert world.scheduler.fault is None
    assert {start.now_ns % (3_600_000 * MS) for start in record.starts} == {900 * MS}


def test_who_waits_in_vain_now_and_then_is_not_idle() -> None:
    """What it waits with is taken back each time, for ten hours."""
    hours = [3_600_000 * MS * n for n in range(10)]
    robots = tuple(Ask(at_ns=at_ns, session="arm", budget_ns=4000 * MS) for at_ns in hours)
    taken_back = tuple(Withdrawal(at_ns + 15 * MS, Withdrawn("arm")) for at_ns in hours)
    trace = Trace(models=(FOUR,), asks=robots, withdrawals=taken_back)
    mine = Mine(lambda _, start_ns: Wait(start_ns + 100 * MS))
    world = simulation_with(trace, made(mine))
    world.run()
    assert mine.asked >= 20
    assert world.scheduler.fault is None


def test_nobody_is_to_be_chosen_who_could_not_be_in_time() -> None:
    lane = Lane(ModelRef("policy", "1"))
    line = Line()
    line.add(
        Request(
            id=1,
            session="arm",
            client="arm",
            lane=lane,
            arrived_ns=0,
            deadline_ns=MS,
            expires_ns=MS,
            firm=True,
        )
    )
    hopeless: Any = SimpleNamespace(
        lane=lane, line=line, times_ns=[0, 5 * MS], switch_ns=0, delay_ns=0
    )
    mine = Mine(lambda *_: None)
    guard = Guard("mine", mine, mine)
    assert all(guard.choose([hopeless], n * 10 * MS) is None for n in range(1000))
    assert guard.fault is None


# ------------------------------------------------------------------------------------ time


def clock_of(*took_ns: int) -> Callable[[], int]:
    """A clock by which decisions take these times, then none."""
    readings = [0]
    for took in took_ns:
        readings += [readings[-1] + took, readings[-1] + took]
    return lambda: readings.pop(0) if len(readings) > 1 else readings[0]


LONG = SLOW_NS + 1


@pytest.mark.parametrize(
    ("took_ns", "slow"),
    [
        ([LONG, LONG, LONG], True),
        ([0, LONG, LONG, LONG], True),
        ([LONG, LONG, 0, LONG, LONG], False),
        ([SLOW_NS] * 10, False),
    ],
)
def test_three_slow_decisions_in_a_row_are_too_many(took_ns: list[int], *, slow: bool) -> None:
    world = simulation_with(crowd(), made(Mine(first)), clock_ns=clock_of(*took_ns))
    record = world.run()
    assert (world.scheduler.fault is not None) == slow
    if world.scheduler.fault is not None:
        assert world.scheduler.fault.cause == "slow"
        assert "5.0 ms for the last" in world.scheduler.fault.message
    assert set(record.outcomes().values()) <= {Outcome.OK, Outcome.SUPERSEDED}


def test_nobody_looks_at_a_clock_for_the_default() -> None:
    reads = count()
    simulation_with(crowd(), None, clock_ns=lambda: next(reads)).run()
    assert next(reads) == 0


# -------------------------------------------------------------------------------- policies


@pytest.mark.parametrize(
    ("cause", "policy"),
    [
        ("not_a_number", lambda _: float("nan")),
        ("not_a_number", lambda _: None),
        ("not_a_number", lambda _: "9"),
        ("not_a_number", lambda _: 1j),
        ("raised", lambda request: request.time_until_next_ms < 0),
        ("raised", lambda request: request.no_such_thing),
        ("raised", lambda request: setattr(request, "tier", 0)),
        ("raised", lambda: 0.0),
        ("raised", lambda _: sys.exit()),
    ],
)
def test_the_default_takes_over_from_a_policy_that_fails(cause: str, policy: Policy) -> None:
    world = simulation_with(crowd(), by_policy(policy, name="mine"))
    record = world.run()
    assert world.scheduler.fault is not None
    assert world.scheduler.fault.cause == cause
    assert world.scheduler.fault.traceback.startswith("Traceback") == (cause == "raised")
    for law in LAWS:
        law(record)


@pytest.mark.parametrize("score", [0, True, float("inf"), float("-inf"), 1e300])
def test_any_real_number_is_a_score(score: float) -> None:
    def policy(request: PolicyRequest) -> float:
        return score if request.client_id == "robot 0" else 0.5

    world = simulation_with(crowd(), by_policy(policy, name="mine"))
    world.run()
    assert world.scheduler.fault is None


# ------------------------------------------------------------------- the guard and the default


@settings(max_examples=100)
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_the_default_breaks_none_of_the_rules_that_others_are_held_to(seed: int, size: int) -> None:
    trace = random_trace(seed, size, faults=True)
    world = simulation_with(trace, None)
    queue = world.scheduler._queue
    default = DeadlineAware(queue.streams.forecasts, queue.shedding)
    world.scheduler.use_strategy(made(default))
    world.run()
    assert world.scheduler.fault is None
