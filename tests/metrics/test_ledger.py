import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.errors import LocalProtocolError, Outcome
from appliance.metrics.ledger import Ledger

SERVED = ("image", "policy")
names = st.sampled_from([*SERVED, "", "unknown", "another"])


class LedgerMachine(RuleBasedStateMachine):
    """Requests come and end in any order; the books must balance after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        for name in SERVED:
            self.ledger.add_model(name)
        self.open: list[str] = []
        self.asked = 0
        self.rows_finished = 0
        self.ended: list[Outcome] = []

    @rule(model=names)
    def ask(self, model: str) -> None:
        self.ledger.asked(model)
        self.open.append(model)
        self.asked += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), late=st.booleans())
    def end(self, data: st.DataObject, outcome: Outcome, *, late: bool) -> None:
        model = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if outcome is Outcome.OK:
            self.rows_finished += 1
        self.ledger.ended(model, outcome, late=late)
        self.ended.append(outcome)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer_rows(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.open))
        known = model if model in SERVED else ""
        waiting = [name for name in self.open if (name if name in SERVED else "") == known]
        rows = data.draw(st.integers(1, len(waiting)))
        self.ledger.answered(model, rows, data.draw(st.integers(0, rows)))
        for name in waiting[:rows]:
            self.open.remove(name)
        self.rows_finished += rows
        self.ended += [Outcome.OK] * rows

    @rule()
    def waste(self) -> None:
        self.rows_finished += 1
        self.ledger.rows_wasted("SUPERSEDED", 1)

    @precondition(lambda self: not self.open)
    @rule(model=names)
    def end_once_too_often(self, model: str) -> None:
        with pytest.raises(LocalProtocolError, match="already has one"):
            self.ledger.ended(model, Outcome.OK)
        with pytest.raises(LocalProtocolError, match="already have an outcome"):
            self.ledger.answered(model, 1, 0)

    @invariant()
    def balances(self) -> None:
        overall = self.ledger.overall
        counts = self.ledger.models.values()
        assert overall.asked == self.asked == sum(count.asked for count in counts)
        assert overall.in_flight == len(self.open) == sum(count.in_flight for count in counts)
        assert all(count.in_flight >= 0 for count in counts)
        assert sum(overall.outcomes().values()) == overall.ended == len(self.ended)
        assert overall.late <= overall.answered == self.ended.count(Outcome.OK)
        assert set(self.ledger.models) == {"", *SERVED}
        assert self.ledger.document(self.rows_finished)["balanced"]
        assert not self.ledger.document(self.rows_finished - 1)["balanced"]
        assert not self.ledger.document(self.rows_finished + len(self.open) + 1)["balanced"]


TestLedger = LedgerMachine.TestCase


def test_a_second_outcome_is_refused_per_model() -> None:
    ledger = Ledger()
    ledger.add_model("image")
    ledger.add_model("policy")
    ledger.asked("image")
    ledger.asked("policy")
    ledger.ended("image", Outcome.OK)
    with pytest.raises(LocalProtocolError, match=r"'image'.*SHED"):
        ledger.ended("image", Outcome.SHED)
    assert ledger.overall.outcomes() == {"OK": 1}


def test_only_answers_can_be_late() -> None:
    ledger = Ledger()
    for outcome in (Outcome.OK, Outcome.EXPIRED):
        ledger.asked("")
        ledger.ended("", outcome, late=True)
    assert ledger.overall.late == 1


def test_the_document() -> None:
    ledger = Ledger()
    ledger.add_model("policy")
    for _ in range(4):
        ledger.asked("policy")
    ledger.ended("policy", Outcome.OK)
    ledger.ended("policy", Outcome.CLIENT_GONE)
    ledger.rows_wasted("CLIENT_GONE", 1)
    ledger.reply_lost("slow_reader")
    assert ledger.replies_lost == {"slow_reader": 1}
    assert ledger.document(2) == {
        "asked": 4,
        "ended": 2,
        "in_flight": 2,
        "rows_finished": 2,
        "ok": 1,
        "wasted": {"CLIENT_GONE": 1},
        "balanced": True,
    }
