"""Robots: how they follow advice, and how they execute chunks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from random import Random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from simulated_fleets import CHUNKS, MS, SECOND, fleet, kind
from support.serial import Serial

from appliance.errors import Outcome
from appliance.scheduling.events import Answer, Arrived, Decision, Event, Request
from appliance.simulation import Arrival, simulate
from appliance.simulation.cadence import Cadence
from appliance.simulation.chunked import ChunkedRobot, Dry

PERIOD = 100 * MS


def captures(advice_ns: list[int]) -> list[int]:
    """The captures of a robot that is advised between each two of them."""
    cadence = Cadence(kind=kind(), period_ns=PERIOD, next_ns=0)
    random, instants = Random(1), []
    for advice in advice_ns:
        cadence.plan(random)
        cadence.advised(advice, cadence.due_ns - PERIOD // 2)
        instants.append(cadence.due_ns)
        cadence.captured()
    return instants


@given(st.lists(st.integers(-3 * PERIOD, 3 * PERIOD), min_size=2, max_size=30))
def test_advice_shifts_by_a_tenth_of_a_period_at_most(advice_ns: list[int]) -> None:
    for one, next_one in pairwise(captures(advice_ns)):
        assert abs(next_one - one - PERIOD) <= PERIOD // 10


def test_advice_holds_from_the_next_capture_on() -> None:
    assert captures([0, 4 * MS, 0, 0]) == [0, 104 * MS, 204 * MS, 304 * MS]


def test_what_exceeds_the_limit_follows_later() -> None:
    cadence = Cadence(kind=kind(), period_ns=PERIOD, next_ns=0)
    random, instants = Random(1), []
    cadence.advised(25 * MS, 0)
    for _ in range(5):
        cadence.plan(random)
        instants.append(cadence.due_ns)
        cadence.captured()
    assert instants == [10 * MS, 120 * MS, 225 * MS, 325 * MS, 425 * MS]


def test_a_capture_is_never_moved_into_the_past() -> None:
    cadence = Cadence(kind=kind(), period_ns=PERIOD, next_ns=20 * MS)
    cadence.plan(Random(1))
    cadence.advised(-10 * MS, 15 * MS)
    assert cadence.due_ns == 15 * MS


@pytest.mark.parametrize(("obedience", "second_ns"), [(1.0, 105 * MS), (0.0, 100 * MS)])
def test_only_who_obeys_follows(obedience: float, second_ns: int) -> None:
    robots = kind(obedience=obedience)
    record = simulate(fleet(robots), Serial(advice_ns=5 * MS), seed=1, horizon_ns=150 * MS)
    assert [each.arrival.captured_ns for each in record.asked] == [0, second_ns]


class TwoByTwo:
    """Answers each second arrival together with the one before: later, and back again."""

    def __init__(self) -> None:
        self.waiting: list[Request] = []

    def handle(self, events: Iterable[Event], now_ns: int) -> Decision:
        self.waiting += [event.request for event in events if isinstance(event, Arrived)]
        if len(self.waiting) < 2:
            return Decision([], None)
        one, other = self.waiting
        self.waiting = []
        later = Answer(one, Outcome.OK, advice_ns=5 * MS)
        return Decision([later, Answer(other, Outcome.OK, advice_ns=-5 * MS)], None)


def test_a_capture_that_is_moved_to_and_fro_happens_once() -> None:
    record = simulate(fleet(kind()), TwoByTwo(), seed=1, horizon_ns=450 * MS)
    assert [each.arrival.captured_ns // MS for each in record.asked] == [0, 100, 200, 300, 400]


# ------------------------------------------------------------------------------------ chunks


class Story:
    """One chunk-executing robot, told what happens when."""

    def __init__(self, episode_ns: int = 100 * SECOND) -> None:
        chunked = kind("chunked", rate_hz=5.0, budget_ns=None)
        self.robot = ChunkedRobot(
            client="chunked-0",
            kind=chunked,
            chunks=evolve(CHUNKS, episode_ns=episode_ns),
            obeys=False,
            cadence=Cadence(kind=chunked, period_ns=200 * MS, next_ns=0),
            least_ns=6 * MS,
        )
        self.random = Random(3)

    def capture(self) -> Arrival:
        self.robot.plan(self.random)
        return self.robot.capture(self.robot.due_ns)

    def answer(self, arrival: Arrival, at_ns: int, outcome: Outcome = Outcome.OK) -> None:
        self.robot.hears(arrival, outcome, at_ns)


def test_an_episode_begins_dry_and_waits_for_its_first_chunk() -> None:
    story = Story()
    first = story.capture()
    assert (first.dry, first.firm, first.captured_ns) == (True, False, 0)
    story.answer(first, 60 * MS)
    assert story.robot.starts == [Dry(0, 60 * MS)]
    assert not story.robot.gaps


def test_the_deadline_is_when_the_chunk_runs_out() -> None:
    story = Story()
    story.answer(story.capture(), 60 * MS)
    second = story.capture()  # at 200 ms; the chunk is for 0 to 320 ms
    assert (second.dry, second.firm) == (False, True)
    assert second.deadline_ns == (320 - 1) * MS


def test_whose_chunk_has_run_out_is_dry_until_the_next_comes() -> None:
    story = Story()
    story.answer(story.capture(), 60 * MS)
    story.answer(story.capture(), 250 * MS, Outcome.SHED)
    third = story.capture()
    assert (third.captured_ns, third.dry, third.firm) == (400 * MS, True, False)
    story.answer(third, 450 * MS)
    assert story.robot.gaps == [Dry(320 * MS, 450 * MS)]
    assert story.robot.dry_from_ns == (400 + 320) * MS


def test_whoever_is_not_answered_any_more_stays_dry() -> None:
    story = Story()
    story.capture()
    assert story.robot.dry_until(300 * MS) == ([Dry(0, 300 * MS)], [])
    story.answer(story.capture(), 310 * MS)
    starts = [Dry(0, 310 * MS)]
    assert story.robot.dry_until(520 * MS) == (starts, [])
    assert story.robot.dry_until(900 * MS) == (starts, [Dry(520 * MS, 900 * MS)])
    assert (story.robot.starts, story.robot.gaps) == (starts, [])


def test_only_a_newer_chunk_that_is_not_over_is_executed() -> None:
    story = Story()
    first, second = story.capture(), story.capture()
    story.answer(second, 260 * MS)
    story.answer(first, 270 * MS)
    assert story.robot.dry_from_ns == (200 + 320) * MS
    third = story.capture()
    story.answer(third, (400 + 320) * MS)  # its last row is over
    assert story.robot.dry_from_ns == (200 + 320) * MS


def test_a_new_episode_forgets_the_chunk_and_what_was_asked_before() -> None:
    story = Story(episode_ns=SECOND)
    before = newest = story.capture()
    while newest.captured_ns % (200 * MS) == 0:  # until the second episode begins
        before = newest
        story.answer(newest, newest.captured_ns + 50 * MS)
        newest = story.capture()
    begun_ns = newest.captured_ns
    assert newest.dry
    assert story.robot.dry_from_ns == begun_ns
    story.answer(before, begun_ns + 10 * MS)
    assert story.robot.dry_from_ns == begun_ns
    assert story.capture().captured_ns == begun_ns + 200 * MS  # its cadence began anew
