"""Mailboxes, lines and orders stay consistent."""

from __future__ import annotations

import pytest

from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.room import WaitingRoom

LANE = Lane(ModelRef("policy", "1"))


def request(number: int, **more: object) -> Request:
    given: dict[str, object] = {"session": f"s{number}", "keep_latest": False, **more}
    return Request(  # type: ignore[arg-type]
        id=number,
        client=str(given["session"]),
        lane=LANE,
        arrived_ns=0,
        deadline_ns=number,
        expires_ns=100,
        rank_ns=number,
        **given,
    )


@pytest.mark.parametrize("taken", [[1, 2], [2, 4], [4, 1], [3]])
def test_some_of_a_line_are_taken_and_the_others_stay_in_order(taken: list[int]) -> None:
    room = WaitingRoom()
    requests = [request(number, firm=number % 2 == 0) for number in (1, 2, 3, 4)]
    for each in reversed(requests):
        room.add(each, room.mailbox(each))
    room.take(LANE, [requests[number - 1] for number in taken])
    stayed = [number for number in (1, 2, 3, 4) if number not in taken]
    assert [each.id for each in room.lines[LANE]] == stayed
    assert room.lines[LANE].firm == sum(number % 2 == 0 for number in stayed)
    assert room.count == len(stayed)
    assert sorted(each.id for each in room) == stayed


def test_an_empty_line_is_no_line() -> None:
    room = WaitingRoom()
    only = request(1)
    room.add(only, room.mailbox(only))
    room.take(LANE, [only])
    assert room.lines == {}
    assert only.mailbox is None


def test_the_next_of_an_order_lines_up_when_the_first_has_ended() -> None:
    room = WaitingRoom()
    first, second = (request(number, session="s", order_key="episode") for number in (1, 2))
    room.add(first, room.mailbox(first))
    room.add(second, room.mailbox(second))
    assert list(room.lines[LANE]) == [first]
    room.take(LANE, [first])
    assert room.lines == {}
    room.end(first)
    assert list(room.lines[LANE]) == [second]
    assert list(room.mailbox(first).requests.values()) == [second]


def test_the_fullest_mailbox_is_the_older_one_among_equals() -> None:
    room = WaitingRoom()
    first, second = request(1), request(2)
    room.add(first, room.mailbox(first))
    room.add(second, room.mailbox(second))
    assert room.fullest() is first.mailbox


def test_a_dry_robot_that_goes_first_is_not_the_fullest_among_equals() -> None:
    room = WaitingRoom()
    first, second = request(1, dry=True), request(2)
    room.add(first, room.mailbox(first))
    room.add(second, room.mailbox(second))
    assert room.fullest() is second.mailbox
