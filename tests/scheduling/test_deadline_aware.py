"""The strategy by example. Two models: a row takes 10 ms, each further one 2; batches of four."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import Factory, define

from appliance.scheduling.choice import FOREVER_NS, Choice, Contender, Wait
from appliance.scheduling.deadline_aware import DeadlineAware
from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.line import Line
from appliance.scheduling.room import WaitingRoom
from appliance.scheduling.shedding import Shedding
from appliance.scheduling.streams import Streams

MS = 1_000_000
POLICY, VISION = Lane(ModelRef("policy", "1")), Lane(ModelRef("vision", "1"))
START = 1000


def request(number: int, due: float, lane: Lane = POLICY, **more: Any) -> Request:
    """Times in milliseconds; `due` from the start on."""
    background = more.pop("background", False)
    arrived_ns = round((START + more.pop("came", 0)) * MS)
    deadline_ns = round((START + due) * MS)
    made = Request(
        id=number,
        session=number,
        client=f"c{number}",
        lane=lane,
        arrived_ns=arrived_ns,
        deadline_ns=deadline_ns,
        expires_ns=arrived_ns + 5000 * MS,
        rank_ns=max(deadline_ns, arrived_ns),
        **{"firm": True, **more},
    )
    made.background = background
    return made


@define
class Setting:
    """What a worker that is free at the start has to choose from."""

    times_ms: tuple[int, ...] = (0, 10, 12, 14, 16)
    vision_ms: tuple[int, ...] = (0, 10, 12, 14, 16)
    switch_ms: float = 0
    others_free_ms: float | None = None
    runs: Lane = POLICY
    calm: bool = True
    careful: float = 1.0
    delay_ms: float = 0
    streams: Streams = Factory(Streams)

    def choose(self, *requests: Request) -> list[int] | float | None:
        """Return whom it runs, or until when it waits, in milliseconds from the start on."""
        room = WaitingRoom()
        for each in requests:
            room.add(each, room.mailbox(each))
        shedding = Shedding(lambda _: 0)
        shedding._calm[0] = shedding._all_pass = self.calm
        strategy = DeadlineAware(self.streams.forecasts, shedding)
        lanes = {**dict.fromkeys(self._expected(), Line()), **room.lines}
        contenders = [self._contender(lane, line) for lane, line in lanes.items()]
        decided = strategy.choose(contenders, round((START + self.delay_ms) * MS))
        if isinstance(decided, Wait):
            return decided.until_ns / MS - START
        if decided is None:
            return None
        assert isinstance(decided, Choice)
        assert all(each.lane is decided.lane for each in decided.requests)
        return [each.id for each in decided.requests]

    def _expected(self) -> list[Lane]:
        return [each for each in (POLICY, VISION) if each.model in self.streams.forecasts]

    def _contender(self, lane: Lane, line: Line) -> Contender:
        times_ns = [each * MS for each in (self.times_ms if lane is POLICY else self.vision_ms)]
        careful_ns = [round(self.careful * each) for each in times_ns]
        switch_ns = round(self.switch_ms * MS)
        return Contender(
            lane,
            line,
            careful_ns if line.critical.requests else times_ns,
            careful_ns,
            times_ns[1],
            round(self.delay_ms * MS),
            0 if lane is self.runs else switch_ns,
            switch_ns,
            FOREVER_NS
            if self.others_free_ms is None
            else round((START + self.others_free_ms) * MS),
            0,
            0,
            line.timely.usual * times_ns[-1] / (len(times_ns) - 1),
        )


def expecting(*due_ms: float, lead: float = 20, lane: Lane = VISION) -> Streams:
    """Return streams of tier 0 that were heard every 50 ms; their next ones come so late."""
    streams = Streams()
    for number, at_ms in enumerate(due_ms):
        for turn in range(10, 0, -1):
            came = request(
                100 * number + turn, at_ms - 50 * turn + lead, lane, came=at_ms - 50 * turn, tier=0
            )
            came.client = f"critical {number}"
            streams.arrived(came, came.arrived_ns)
    return streams


def chosen(*requests: Request, **setting: Any) -> list[int] | float | None:
    return Setting(**setting).choose(*requests)


# -------------------------------------------------------------------------------- one lane


def test_the_earliest_go_up_to_the_largest_batch() -> None:
    assert chosen(*(request(n, 100 + n) for n in (5, 3, 4, 1, 2))) == [1, 2, 3, 4]


def test_nobody_is_started_who_would_be_late() -> None:
    assert chosen(request(1, 9)) is None
    assert chosen(request(1, 9), request(2, 10)) == [2]


def test_nobody_is_made_late_by_who_rides_along() -> None:
    assert chosen(request(1, 13), request(2, 100), request(3, 100)) == [1, 2]


def test_a_tight_head_is_lost_where_more_can_be_answered_without_it() -> None:
    assert chosen(request(1, 10), *(request(n, 16) for n in (2, 3, 4, 5))) == [2, 3, 4, 5]


def test_a_tight_head_goes_first_where_nobody_has_to_be_lost() -> None:
    assert chosen(request(1, 10), *(request(n, 26) for n in (2, 3, 4, 5))) == [1]


def test_while_some_are_refused_anyway_the_more_valuable_batch_goes() -> None:
    tight = [request(1, 10), *(request(n, 26) for n in (2, 3, 4, 5))]
    assert chosen(*tight, calm=False) == [2, 3, 4, 5]


# ------------------------------------------------------------------------------ two lanes


def test_whoever_cannot_wait_goes_first() -> None:
    waiting = [request(n, 60) for n in (1, 2, 3, 4)]
    assert chosen(*waiting, request(9, 12, VISION)) == [9]


@pytest.mark.parametrize(("lane", "other"), [(POLICY, VISION), (VISION, POLICY)])
def test_where_somebody_has_to_be_lost_the_most_answers_for_the_time_count(
    lane: Lane, other: Lane
) -> None:
    many = [request(n, 16, lane) for n in (1, 2, 3, 4)]
    assert chosen(request(9, 12, other), *many) == [1, 2, 3, 4]


def test_a_cheap_model_does_not_starve_an_expensive_one() -> None:
    # By answers, vision would always win: four in 4 ms against four in 40 ms.
    expensive = [request(n, 40) for n in (1, 2, 3, 4)]
    cheap = [request(n, 4, VISION) for n in (6, 7, 8, 9)]
    slow = {"times_ms": (0, 37, 38, 39, 40), "vision_ms": (0, 1, 2, 3, 4)}
    assert chosen(*expensive, *cheap[:3], **slow) == [1, 2, 3, 4]


def test_a_worker_stays_with_its_model_where_a_change_costs_a_deadline() -> None:
    both = (request(1, 24, POLICY), request(2, 23, VISION))
    assert chosen(*both, runs=VISION, switch_ms=3) == [2]
    assert chosen(*both, runs=POLICY, switch_ms=3) == [1]


def test_who_can_go_to_another_worker_is_not_regretted() -> None:
    waiting = (request(1, 30), request(2, 30), request(9, 12, VISION))
    assert chosen(*waiting, calm=False) == [9]
    assert chosen(*waiting, calm=False, others_free_ms=2) == [1, 2]


# ---------------------------------------------------------------------------- better tiers


def test_tier_0_is_not_lost_for_any_number_of_others() -> None:
    many = [request(n, 16) for n in (1, 2, 3, 4)]
    assert chosen(*many, request(9, 12, VISION, tier=0)) == [9]


def test_tier_0_that_has_to_be_lost_keeps_nobody_waiting() -> None:
    many = [request(n, 16) for n in (1, 2, 3, 4)]
    assert chosen(*many, request(9, 9, VISION, tier=0)) == [1, 2, 3, 4]


def test_the_others_of_its_lane_do_not_keep_tier_0_small() -> None:
    tight = [request(1, 10), request(2, 12, tier=0), request(3, 12, tier=0)]
    assert chosen(*tight) == [2, 3]


def test_a_worse_tier_is_worth_less() -> None:
    low = [request(n, 12, tier=2) for n in (1, 2)]
    assert chosen(*low, request(9, 12, VISION)) == [9]


def test_a_batch_leaves_room_for_tier_0_that_is_expected() -> None:
    # It comes 2 ms after the start and is due at 22: vision has to start at 12 at the latest.
    many = [request(n, 100) for n in (1, 2, 3, 4)]
    found = chosen(*many, streams=expecting(2, lead=23))
    assert isinstance(found, list)
    assert len(found) < 4


def test_a_worker_waits_for_tier_0_that_is_expected_and_would_be_lost() -> None:
    found = chosen(*(request(n, 100) for n in (1, 2)), streams=expecting(3, lead=15))
    assert isinstance(found, float)
    assert 3 <= found <= 4


def test_it_does_not_wait_where_that_costs_a_deadline() -> None:
    found = chosen(request(1, 12), request(2, 12), streams=expecting(3, lead=15))
    assert found == [1, 2]


def test_it_does_not_wait_where_more_fit_now_than_then() -> None:
    waiting = [request(n, 16) for n in (1, 2, 3, 4)]
    assert chosen(*waiting, streams=expecting(3, lead=15)) == [1, 2, 3, 4]


def test_it_does_not_wait_where_only_one_of_two_lanes_could_be_in_time_then() -> None:
    waiting = (request(1, 21), request(2, 21, VISION))
    assert chosen(*waiting, streams=expecting(0.4, lead=12)) == [2]


def test_waiting_counts_what_answers_take_beside_the_batch() -> None:
    streams = expecting(3, lead=15)
    assert chosen(request(1, 15), streams=streams) == 3.25
    assert chosen(request(1, 15), streams=streams, delay_ms=2) == [1]
    assert chosen(request(1, 17), streams=streams, delay_ms=2) == 3.25


def test_tier_0_that_is_tight_is_tried_where_that_costs_nobody_a_deadline() -> None:
    tight = request(9, 11, VISION, tier=0)  # planned for with care, it takes 13 ms
    assert chosen(tight, careful=1.3) == [9]
    assert chosen(tight, request(1, 1000), careful=1.3) == [9]
    assert chosen(tight, request(1, 19), careful=1.3) == [1]
    assert chosen(request(9, 9, VISION, tier=0), careful=1.3) is None


def test_it_waits_for_nobody_who_is_expected_in_time_for_both() -> None:
    assert chosen(request(1, 100), request(2, 100), streams=expecting(15)) == [1, 2]
    assert chosen(request(1, 100), request(2, 100), streams=expecting(3, lead=35)) == [1, 2]


def test_it_does_not_wait_for_who_can_go_to_another_worker() -> None:
    found = chosen(request(1, 100), streams=expecting(3, lead=15), others_free_ms=3)
    assert found == [1]


# ------------------------------------------------------------------- without a deadline to lose


def test_a_dry_robot_goes_first_once_it_has_waited_a_while() -> None:
    waiting = [request(n, 12) for n in (1, 2)]
    new, old = (request(9, -50, dry=True, firm=False, came=came) for came in (-25, -27))
    assert chosen(*waiting, new) == [1, 2]
    assert chosen(*waiting, old) == [9, 1]


def test_a_dry_robot_does_not_wait_where_no_batch_grows_by_that() -> None:
    dry = request(9, -50, dry=True, firm=False)
    assert chosen(request(1, 12), dry, times_ms=(0, 10)) == [9]
    assert chosen(request(1, 12), dry, times_ms=(0, 10, 10)) == [9, 1]


def test_a_dry_robot_takes_the_seat_of_who_can_wait() -> None:
    dry = request(9, -50, dry=True, firm=False)
    assert chosen(*(request(n, 100) for n in range(1, 5)), dry) == [9, 1, 2, 3]


def test_tier_0_in_the_place_of_an_older_one_is_no_measure_for_the_others() -> None:
    older = request(1, 90, tier=0)
    older.rank_ns = (START + 11) * MS
    others = [request(2, 12, tier=0), request(3, 13, tier=0)]
    assert Setting().choose(older, *others) == [2, 3]


def test_a_dry_robot_of_tier_0_does_not_wait() -> None:
    dry = request(9, -50, dry=True, firm=False, tier=0)
    assert chosen(*(request(n, 12) for n in (1, 2)), dry) == [9, 1]


def test_a_dry_robot_that_waits_in_order_keeps_no_worse_tier_from_going_before_it() -> None:
    late = request(9, -50, VISION, firm=False, tier=2)
    assert chosen(late, request(3, 0, dry=True, firm=False)) == [9]
    assert chosen(late, request(3, 0, dry=True, firm=False, came=-20)) == [3]


def test_a_dry_robot_minds_who_is_expected_of_tier_0_for_a_while() -> None:
    critical, other = expecting(3, lead=15), request(1, 100)
    new, old = (request(9, 0, dry=True, firm=False, came=came) for came in (-15, -25))
    assert isinstance(chosen(new, other, streams=critical), float)
    served = chosen(old, other, streams=critical)
    assert isinstance(served, list)
    assert served[0] == 9


def test_a_dry_robot_that_waits_alone_minds_who_is_expected_of_tier_0_too() -> None:
    new = request(9, 0, dry=True, firm=False, came=-15)
    assert chosen(new, streams=expecting(3, lead=15)) != [9]


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (9, [1]),  # it cannot be saved
        (10, [9]),
        (19, [9]),
        (20, [1]),  # it can wait
    ],
)
def test_the_late_step_back_for_whom_that_saves(due: float, expected: list[int]) -> None:
    assert chosen(request(1, -50, firm=False), request(9, due, VISION)) == expected


@pytest.mark.parametrize("lane", [POLICY, VISION])
def test_of_several_that_can_be_saved_the_first_is(lane: Lane) -> None:
    late = request(1, -50, firm=False)
    assert chosen(late, request(2, 12, lane), request(3, 11, POLICY), times_ms=(0, 10)) == [3]


def test_the_late_leave_room_for_a_firm_one_of_their_lane() -> None:
    late = [request(n, -50 + n, firm=False) for n in range(1, 6)]
    assert chosen(*late, request(9, 26)) == [1, 9, 2, 3]
    assert chosen(*late, request(9, 15)) == [9, 1, 2]


def test_what_is_more_than_was_said_rides_where_there_is_room() -> None:
    more = [request(n, 100, background=True) for n in (5, 6)]
    assert chosen(*(request(n, 14) for n in (1, 2)), *more) == [1, 2, 5]


def test_what_is_more_than_was_said_goes_alone_where_nobody_else_waits() -> None:
    assert chosen(*(request(n, 100, background=True) for n in (5, 6))) == [5, 6]
    assert chosen(request(5, 9, background=True)) is None


def test_what_is_more_than_was_said_keeps_nobody_of_tier_0_waiting() -> None:
    more = request(5, 100, background=True)
    assert chosen(more, streams=expecting(3, lead=15)) == 20.0  # when it is looked at again


def test_nobody_rides_where_tier_0_would_be_lost_by_it() -> None:
    # A row takes 13 ms if one is careful, two take 15.6; planned are 10 and 12.
    critical = request(9, 28, VISION, tier=0)
    waiting = (request(1, 14), critical)
    assert chosen(*waiting, careful=1.3) == [1]
    assert chosen(*waiting, request(5, 100, background=True), careful=1.3) == [1]
