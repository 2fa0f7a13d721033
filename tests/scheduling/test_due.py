"""When to look again: short notes, and the earliest one counts."""

from __future__ import annotations

from appliance.scheduling.due import SLACK, DueTimes
from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.room import WaitingRoom


def request(number: int) -> Request:
    return Request(
        id=number,
        session=number,
        client="c",
        lane=Lane(ModelRef("policy", "1")),
        arrived_ns=0,
        deadline_ns=number,
        expires_ns=number,
    )


def test_the_next_one_that_waits_is_due_first() -> None:
    room = WaitingRoom()
    due = DueTimes(room)
    requests = [request(number) for number in (1, 2, 3)]
    for each in reversed(requests):
        room.add(each, room.mailbox(each))
        due.add(each, 10 * each.id)
    room.remove(requests[0])
    assert due.next_ns == 20
    assert due.pop(19) is None
    assert due.pop(20) is requests[1]
    assert due.pop(100) is requests[2]
    assert due.pop(100) is None
    assert due.next_ns is None


def test_a_clean_up_keeps_the_earliest_note_of_each_that_waits() -> None:
    room = WaitingRoom()
    due = DueTimes(room)
    waiting = request(1)
    room.add(waiting, room.mailbox(waiting))
    due.add(waiting, 50)
    due.add(waiting, 30)
    due.add(waiting, 70)
    for number in range(2, 2 + 2 * SLACK):
        gone = request(number)
        room.add(gone, room.mailbox(gone))
        due.add(gone, 90)
        assert len(due) <= 2 * room.count + SLACK
        room.remove(gone)
    assert due.next_ns == 30
