"""Models that a GPU runs before others: tier 0 starts at once, beside what runs there."""

from __future__ import annotations

from support.fleets import MS, SECOND

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.events import (
    Answer,
    Arrived,
    BatchDone,
    Effect,
    Go,
    Lane,
    ModelRef,
    Request,
    Revoke,
    Stage,
    WorkerLost,
    WorkerReady,
    WorkerRef,
)

W = WorkerRef("gpu", 1)
SLOW, QUICK = ModelRef("slow", "1"), ModelRef("quick", "1")
SLOW_NS, QUICK_NS = 100 * MS, 2 * MS


class Box:
    """A scheduler with one worker."""

    def __init__(self, *urgent: ModelRef) -> None:
        self.scheduler = Scheduler()
        times_ns = {SLOW: {1: SLOW_NS}, QUICK: {1: QUICK_NS}}
        most = dict.fromkeys(times_ns, 1)
        self.scheduler.handle([WorkerReady(W, times_ns, most, urgent=frozenset(urgent))], 0)
        self.count = 0

    def ask(
        self, model: ModelRef, now_ns: int, *, tier: int = 1, budget_ns: int = SECOND
    ) -> list[Effect]:
        self.count += 1
        request = Request(
            id=self.count,
            session=self.count,
            client=str(self.count),
            lane=Lane(model),
            arrived_ns=now_ns,
            deadline_ns=now_ns + budget_ns,
            expires_ns=now_ns + 5 * SECOND,
            tier=tier,
            firm=True,
        )
        return self.scheduler.handle([Arrived(request)], now_ns).effects

    def done(self, batch: int, now_ns: int, busy_ns: int) -> list[Effect]:
        event = BatchDone(W, batch, busy_ns, finished_ns=now_ns)
        return self.scheduler.handle([event], now_ns).effects


def test_tier_0_is_started_beside_what_runs_and_answered_first() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    # Less than what runs still takes: nobody could wait for that.
    [stage] = box.ask(QUICK, 10 * MS, tier=0, budget_ns=5 * MS)
    assert isinstance(stage, Stage)
    assert stage.go
    [answer] = box.done(2, 12 * MS, QUICK_NS)
    assert isinstance(answer, Answer)
    assert (answer.request.id, answer.outcome, answer.late) == (2, Outcome.OK, False)
    assert [type(each) for each in box.ask(QUICK, 20 * MS, tier=0, budget_ns=5 * MS)] == [Stage]
    [answer] = box.done(3, 22 * MS, QUICK_NS)
    [slow] = box.done(1, 104 * MS, SLOW_NS)
    assert isinstance(slow, Answer)
    assert (slow.request.id, slow.outcome) == (1, Outcome.OK)
    assert box.scheduler.statistics().in_batches == 0


def test_others_wait_their_turn() -> None:
    for urgent, model, tier in (((), QUICK, 0), ((QUICK,), QUICK, 1), ((QUICK,), SLOW, 0)):
        box = Box(*urgent)
        box.ask(SLOW, 0)
        assert box.ask(model, 10 * MS, tier=tier) == []


def test_one_runs_beside_another_and_no_more() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    assert [type(each) for each in box.ask(QUICK, 10 * MS, tier=0)] == [Stage]
    assert box.ask(QUICK, 11 * MS, tier=0) == []
    answer, stage = box.done(2, 12 * MS, QUICK_NS)
    assert isinstance(answer, Answer)
    assert isinstance(stage, Stage)
    assert stage.go
    # What runs beside goes on when what was there before is done.
    assert [type(each) for each in box.done(1, 12 * MS, SLOW_NS)] == [Answer]
    assert box.ask(SLOW, 12 * MS) == []
    assert [type(each) for each in box.done(3, 14 * MS, QUICK_NS)] == [Answer, Stage]


def test_what_is_staged_makes_room() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    box.ask(SLOW, 1 * MS)
    now_ns = box.scheduler.handle([], 1 * MS).next_wakeup_ns
    assert now_ns is not None
    [staged] = box.scheduler.handle([], now_ns).effects
    assert isinstance(staged, Stage)
    assert not staged.go
    revoke, stage = box.ask(QUICK, now_ns, tier=0)
    assert isinstance(revoke, Revoke)
    assert revoke.batch is staged.batch
    assert isinstance(stage, Stage)
    assert stage.batch.lane.model is QUICK


def test_what_was_committed_may_be_done_first() -> None:
    box = Box()
    for number in range(1, 8):  # it learns that hearing of the end takes a while
        box.ask(SLOW, number * SECOND)
        event = BatchDone(W, number, SLOW_NS, finished_ns=number * SECOND + SLOW_NS)
        box.scheduler.handle([event], number * SECOND + SLOW_NS + MS // 2)
    now_ns = 10 * SECOND
    box.ask(SLOW, now_ns)
    box.ask(QUICK, now_ns)
    effects = box.scheduler.handle([], now_ns + SLOW_NS - MS // 4).effects
    assert any(isinstance(each, Go) or (isinstance(each, Stage) and each.go) for each in effects)
    [answer] = box.done(9, now_ns + SLOW_NS, QUICK_NS)
    assert isinstance(answer, Answer)
    assert answer.request.lane.model is QUICK
    [answer] = box.done(8, now_ns + SLOW_NS, SLOW_NS)
    assert isinstance(answer, Answer)
    assert answer.request.lane.model is SLOW
    assert box.scheduler.statistics().in_batches == 0


def test_a_worker_that_dies_takes_both() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    box.ask(QUICK, 10 * MS, tier=0)
    effects = box.scheduler.handle([WorkerLost(W)], 11 * MS).effects
    found = [(each.request.id, each.outcome) for each in effects if isinstance(each, Answer)]
    assert found == [(1, Outcome.WORKER_LOST), (2, Outcome.WORKER_LOST)]
