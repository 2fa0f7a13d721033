"""Which requests are written down."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from appliance.dispatch.access_log import SECOND_NS, AccessLog
from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import Outcome
from appliance.wire.types import Observation

TICKET = Ticket(
    door=None,  # type: ignore[arg-type]
    route=None,
    session=b"id",
    client="arm-3",
    observation=Observation(model_id="policy", sequence=7),
    received_ns=0,
)


@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=10))
def test_every_sampled_answer_is_due_however_they_come(sample: int, groups: list[int]) -> None:
    log = AccessLog(sample)
    due: list[int] = []
    count = 0
    for answers in groups:
        due += [count + index for index in log.due(answers)]
        count += answers
    assert due == list(range(sample - 1, count, sample))


def test_nothing_is_written_where_nothing_is_wanted() -> None:
    log = AccessLog(0)
    with capture_logs() as lines:
        assert not log.due(1000)
        log.record(TICKET, Outcome.INVALID, Reply(outcome=Outcome.INVALID), 0)
    assert lines == []


def test_answers_and_refusals_are_written_with_how_many_were_not() -> None:
    log = AccessLog(2)
    with capture_logs() as lines:
        for now_ns in (0, 1, 2, SECOND_NS):
            log.record(TICKET, Outcome.OK, Reply(outcome=Outcome.OK), now_ns)
            log.record(TICKET, Outcome.SHED, Reply(outcome=Outcome.SHED), now_ns)
    written: list[Any] = [(line["outcome"], line["skipped"]) for line in lines]
    assert written == [("SHED", 0), ("OK", 1), ("OK", 1), ("SHED", 2)]
