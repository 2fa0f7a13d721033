"""The choice of one batch, as a pure function. Two models: a row takes 10, each further one 2."""

from __future__ import annotations

from typing import Any

import pytest
from appliance.scheduling.batching import choose

from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.room import WaitingRoom

POLICY, VISION = ModelRef("policy", "1"), ModelRef("vision", "1")
START = 100


def planned(model: ModelRef, size: int) -> int:
    return 8 + 2 * size


def request(number: int, deadline: int, model: ModelRef = POLICY, **more: Any) -> Request:
    return Request(
        id=number,
        session=number,
        client="c",
        lane=Lane(model),
        arrived_ns=0,
        deadline_ns=deadline,
        expires_ns=1000,
        rank_ns=deadline,
        **more,
    )


def chosen(*requests: Request, max_batch: int = 4) -> list[int]:
    room = WaitingRoom()
    for each in requests:
        room.add(each, room.mailbox(each))
    sizes = {POLICY: max_batch, VISION: max_batch}
    choice = choose(list(room.lines.items()), sizes, planned, START)
    if choice is None:
        return []
    assert all(each.lane == choice.lane for each in choice.requests)
    return [each.id for each in choice.requests]


def test_nothing_waits() -> None:
    assert chosen() == []


def test_the_best_ones_go_up_to_the_largest_batch() -> None:
    assert chosen(*(request(number, 200 + number) for number in (5, 3, 4, 1, 2))) == [1, 2, 3, 4]


@pytest.mark.parametrize("model", [POLICY, VISION])
def test_a_firm_request_this_worker_would_answer_late_is_passed_over(model: ModelRef) -> None:
    hopeless = request(1, 109, model, firm=True)
    assert chosen(hopeless, request(2, 150)) == [2]
    assert chosen(hopeless) == []


def test_a_firm_request_that_is_just_in_time_goes() -> None:
    assert chosen(request(1, 110, firm=True)) == [1]


def test_no_firm_request_rides_along_to_be_late() -> None:
    important = request(1, 300, tier=0)
    assert chosen(important, request(2, 109, firm=True), request(3, 200)) == [1, 3]


def test_growth_stops_at_the_first_member_it_would_make_late() -> None:
    assert chosen(request(1, 113), request(2, 200), request(3, 200)) == [1, 2]
    assert chosen(request(1, 112), request(2, 113), request(3, 200)) == [1, 2]


def test_the_late_do_not_stop_growth() -> None:
    assert chosen(request(1, 50), request(2, 60), request(3, 200), request(4, 300)) == [1, 2, 3, 4]


def test_the_late_leave_room_for_a_firm_one_of_their_lane() -> None:
    late = [request(number, 50 + number) for number in range(1, 6)]
    assert chosen(*late, request(9, 125, firm=True)) == [1, 9, 2, 3]


def test_the_late_ride_only_as_far_as_the_firm_one_allows() -> None:
    late = [request(number, 50 + number) for number in range(1, 6)]
    assert chosen(*late, request(9, 120, firm=True)) == [1, 9, 2, 3]
    assert chosen(*late, request(9, 115, firm=True)) == [9, 1, 2]
    assert chosen(*late, request(9, 113, firm=True)) == [9, 1]


def test_a_dry_robot_does_not_step_back() -> None:
    dry = [request(number, 50, dry=True) for number in (1, 2, 3, 4)]
    assert chosen(*dry, request(9, 115, firm=True)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("deadline", "expected"),
    [
        (119, [1, 2]),  # lost either way: it started at 109 at the latest
        (120, [1]),  # started at 110, when one row is done
        (122, [1, 2]),  # when two are
        (200, [1, 2]),
    ],
)
def test_growth_leaves_a_firm_request_of_another_lane_its_last_chance(
    deadline: int, expected: list[int]
) -> None:
    firm = request(9, deadline, VISION, firm=True, tier=2)
    assert chosen(request(1, 200), request(2, 201), firm) == expected


def test_a_soft_head_does_not_hide_the_firm_one_behind_it() -> None:
    behind = request(9, 120, VISION, firm=True, tier=2)
    soft = request(8, 119, VISION, tier=2)
    assert chosen(request(1, 200), request(2, 201), soft, behind) == [1]


@pytest.mark.parametrize(
    ("deadline", "expected"),
    [
        (109, [1]),  # it cannot be saved
        (110, [9]),
        (119, [9]),
        (120, [1]),  # it can wait
    ],
)
def test_the_late_step_back_for_whom_that_saves(deadline: int, expected: list[int]) -> None:
    assert chosen(request(1, 50), request(9, deadline, VISION, firm=True)) == expected


@pytest.mark.parametrize(("one", "other"), [(POLICY, VISION), (VISION, POLICY)])
def test_of_several_that_can_be_saved_the_best_is(one: ModelRef, other: ModelRef) -> None:
    late = request(1, 50)
    first, second = request(2, 112, one, firm=True), request(3, 113, other, firm=True)
    assert chosen(late, second, first, max_batch=1) == [2]
