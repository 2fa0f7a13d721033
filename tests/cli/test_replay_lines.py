"""When a recorded connection may go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli.replay.comparison import Ending
from appliance.cli.replay.lines import NOT_TOLD, Line, Sent
from appliance.errors import Outcome

OK = Ending(Outcome.OK)


def sent(ended_ns: int | None, outcome: Outcome = Outcome.OK) -> Sent:
    recorded = None if ended_ns is None else Ending(outcome, ended_ns=ended_ns)
    return Sent("policy", "arm", recorded)


@given(st.lists(st.tuples(st.none() | st.integers(0, 9), st.booleans())), st.integers(0, 10))
def test_it_waits_for_what_had_come_before(
    asked: list[tuple[int | None, bool]], received_ns: int
) -> None:
    line = Line(is_old=False)
    for sequence, (ended_ns, _) in enumerate(asked):
        line.expect(sent(ended_ns), sequence)
    for sequence, (_, is_answered) in enumerate(asked):
        if is_answered:
            assert line.answered(sequence, OK) is not None
            assert line.answered(sequence, OK) is None
    missing = [ended_ns for ended_ns, is_answered in asked if not is_answered]
    had_come = [each for each in missing if each is not None and each < received_ns]
    assert line.is_due(received_ns) == (not had_come)
    line.is_waited_for = False
    assert line.is_due(received_ns)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_nobody_is_told_is_not_waited_for(outcome: Outcome) -> None:
    new, old = Line(is_old=False), Line(is_old=True)
    for line in (new, old):
        line.expect(sent(1, outcome), 7)
    assert new.is_due(2) == (outcome in NOT_TOLD)
    assert old.is_due(2) == (outcome is not Outcome.OK)


def test_answers_without_numbers_are_taken_in_order() -> None:
    line = Line(is_old=True)
    for ended_ns, outcome in ((1, Outcome.OK), (2, Outcome.SUPERSEDED), (3, Outcome.OK)):
        line.expect(sent(ended_ns, outcome), 0)
    assert not line.is_due(2)
    assert line.answered(0, OK) is None
    assert line.is_due(3)
    assert not line.is_due(4)
    line.answered(0, OK)
    line.answered(0, OK)  # one more than anybody expects
    assert line.is_due(4)
    assert len(line.answers) == len(line.sent) == 3


def test_the_same_number_twice_is_answered_in_order() -> None:
    line = Line(is_old=False)
    first, second = sent(1), sent(2)
    line.expect(first, 5)
    line.expect(second, 5)
    assert line.answered(5, OK) is first
    assert line.is_due(2)
    assert not line.is_due(3)
    assert line.answered(5, OK) is second
    assert line.is_due(3)
    assert line.waiting == {}
