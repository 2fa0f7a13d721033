"""Models that a GPU runs before others: tier 0 starts at once, beside what runs there."""

from __future__ import annotations

from typing import Any

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
    WorkerMemory,
    WorkerReady,
    WorkerRef,
    WorkerRetired,
)

W = WorkerRef("gpu", 1)
SLOW, QUICK = ModelRef("slow", "1"), ModelRef("quick", "1")
THIRD = ModelRef("third", "1")
SLOW_NS, QUICK_NS = 100 * MS, 2 * MS
TIMES_NS = {SLOW: {1: SLOW_NS}, QUICK: {1: QUICK_NS}, THIRD: {1: 10 * MS}}


class Box:
    """A scheduler with one worker."""

    def __init__(self, *urgent: ModelRef) -> None:
        self.scheduler = Scheduler()
        self.urgent = frozenset(urgent)
        self.scheduler.handle([self.ready(W)], 0)
        self.count = 0

    def ready(self, worker: WorkerRef, memory: WorkerMemory | None = None) -> WorkerReady:
        most = dict.fromkeys(TIMES_NS, 1)
        return WorkerReady(worker, TIMES_NS, most, memory, self.urgent)

    def ask(self, model: ModelRef, now_ns: int, **more: Any) -> list[Effect]:
        return self.scheduler.handle([self.arrived(Lane(model), now_ns, **more)], now_ns).effects

    def arrived(self, lane: Lane, now_ns: int, *, budget_ns: int = SECOND, **more: Any) -> Arrived:
        self.count += 1
        asked = {"session": self.count, "client": str(self.count), "firm": True, **more}
        return Arrived(
            Request(
                id=self.count,
                lane=lane,
                arrived_ns=now_ns,
                deadline_ns=now_ns + budget_ns,
                expires_ns=now_ns + 5 * SECOND,
                **asked,
            )
        )

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


def test_others_hear_at_once_that_their_turn_comes_too_late() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    [answer] = box.ask(QUICK, 10 * MS, budget_ns=20 * MS)
    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.INFEASIBLE
    assert box.ask(QUICK, 10 * MS, budget_ns=90 * MS) == []


def test_others_hear_so_when_tier_0_goes_before_them() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    box.ask(SLOW, 0, tier=0, budget_ns=205 * MS)
    assert box.ask(QUICK, 10 * MS, budget_ns=130 * MS) == []
    told = box.done(1, 100 * MS, SLOW_NS)
    answers = [each for each in told if isinstance(each, Answer)]
    assert [each.outcome for each in answers] == [Outcome.OK, Outcome.INFEASIBLE]


def test_tier_0_that_has_run_dry_is_started_beside_what_runs() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    [stage] = box.ask(QUICK, 10 * MS, tier=0, firm=False, dry=True)
    assert isinstance(stage, Stage)
    assert stage.go


def test_nobody_else_is_started_where_tier_0_may_be() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    waits = box.arrived(Lane(QUICK), 10 * MS, budget_ns=110 * MS)
    late = box.arrived(Lane(QUICK), 10 * MS, budget_ns=MS, tier=0, firm=False)
    [stage] = box.scheduler.handle([waits, late], 10 * MS).effects
    assert isinstance(stage, Stage)
    assert stage.batch.requests == [late.request]


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


def test_what_makes_room_may_be_newer_than_who_waited() -> None:
    box, other = Box(QUICK), WorkerRef("gpu-1", 1)
    box.scheduler.reconfigure(1000, "drop_oldest", max_retries=1)
    box.scheduler.handle([box.ready(other)], 0)
    box.ask(SLOW, 0)
    box.ask(SLOW, 0)
    [elsewhere] = box.ask(QUICK, 90 * MS, tier=0)
    [older] = box.ask(QUICK, 90 * MS, tier=0, session="robot")
    assert isinstance(elsewhere, Stage)
    assert isinstance(older, Stage)
    assert (elsewhere.batch.worker, older.batch.worker) == (W, other)
    box.done(elsewhere.batch.id, 92 * MS, QUICK_NS)
    now_ns = box.scheduler.planned_ns(SLOW, 1) + QUICK_NS  # it is about to be done
    [newer] = box.ask(QUICK, now_ns, session="robot")
    assert isinstance(newer, Stage)
    assert (newer.batch.worker, newer.go) == (W, False)
    failed = BatchDone(other, older.batch.id, QUICK_NS, error="no")
    effects = box.scheduler.handle([failed], now_ns).effects
    assert [type(each) for each in effects] == [Revoke, Answer, Stage]
    [superseded] = [each for each in effects if isinstance(each, Answer)]
    assert (superseded.request.id, superseded.outcome) == (4, Outcome.SUPERSEDED)


def test_tier_0_that_makes_room_for_another_is_started_beside_what_runs_elsewhere() -> None:
    box, other = Box(QUICK), WorkerRef("gpu-1", 1)
    box.scheduler.handle([box.ready(other)], 0)
    box.ask(QUICK, 0)
    [elsewhere] = box.ask(QUICK, MS // 2)
    [staged] = box.ask(QUICK, 12 * MS // 10, tier=0)
    assert isinstance(elsewhere, Stage)
    assert isinstance(staged, Stage)
    assert (staged.batch.worker, staged.go) == (W, False)
    now_ns = 13 * MS // 10
    done = BatchDone(other, elsewhere.batch.id, now_ns - MS // 2, finished_ns=now_ns)
    box.scheduler.handle([done, box.arrived(Lane(SLOW), now_ns)], now_ns)
    effects = box.ask(QUICK, now_ns, budget_ns=4 * MS)  # it could not be in time behind tier 0
    assert [type(each) for each in effects] == [Revoke, Stage, Stage]
    last = effects[-1]
    assert isinstance(last, Stage)
    assert last.batch.requests == staged.batch.requests
    assert (last.batch.worker, last.go) == (other, True)


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


def test_a_worker_that_has_a_successor_runs_nothing_beside() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    successor = WorkerRef("gpu", 2)
    box.scheduler.handle([box.ready(successor), WorkerRetired(W)], MS)
    box.ask(SLOW, 2 * MS)
    [stage] = box.ask(QUICK, 3 * MS, tier=0)
    assert isinstance(stage, Stage)
    assert stage.batch.worker == successor
    assert box.ask(QUICK, 4 * MS, tier=0) == []


def test_what_killed_a_worker_is_not_run_beside_on_the_last_one() -> None:
    box = Box(QUICK)
    other = WorkerRef("gpu-1", 1)
    box.scheduler.handle([box.ready(other)], 0)
    box.ask(SLOW, 0)
    [stage] = box.ask(QUICK, MS, tier=0)
    assert isinstance(stage, Stage)
    busy = W if stage.batch.worker == other else other
    effects = box.scheduler.handle([WorkerLost(stage.batch.worker)], 2 * MS).effects
    assert all(getattr(each, "batch", stage.batch).worker != busy for each in effects)


def test_what_goes_on_is_expected_to_end_by_when_it_began() -> None:
    box = Box(QUICK)
    box.ask(SLOW, 0)
    begun_ns = SLOW_NS + MS  # what ran before has ended, but nobody has heard of that
    [stage] = box.ask(QUICK, begun_ns, tier=0)
    assert isinstance(stage, Stage)
    done = BatchDone(W, 1, SLOW_NS, finished_ns=SLOW_NS)
    box.scheduler.handle([done], begun_ns + MS)
    worker = box.scheduler._workers.find(W)
    assert worker is not None
    assert worker.executing is stage.batch
    assert worker.free_ns == begun_ns + stage.batch.expected_ns


def test_what_is_overtaken_does_not_seem_to_have_begun_late() -> None:
    box, now_ns = Box(QUICK), 0
    for _ in range(30):
        [slow] = box.ask(SLOW, now_ns, budget_ns=10 * SECOND)
        assert isinstance(slow, Stage)
        for beside in range(3):
            begun_ns = now_ns + (10 + 10 * beside) * MS
            [quick] = box.ask(QUICK, begun_ns, tier=0, budget_ns=50 * MS)
            assert isinstance(quick, Stage)
            box.done(quick.batch.id, begun_ns + QUICK_NS, QUICK_NS)
        now_ns += SLOW_NS + 3 * QUICK_NS
        box.done(slow.batch.id, now_ns, SLOW_NS)
        now_ns += 20 * MS
    [stage] = box.ask(QUICK, now_ns, tier=0, budget_ns=QUICK_NS + MS)
    assert isinstance(stage, Stage)


def test_what_ran_beside_was_used_last() -> None:
    box = Box(QUICK)
    memory = WorkerMemory(
        20, dict.fromkeys(TIMES_NS, 10), dict.fromkeys(TIMES_NS, SLOW_NS), (QUICK, SLOW)
    )
    box.scheduler.handle([WorkerLost(W), box.ready(WorkerRef("gpu", 2), memory)], 0)
    worker = WorkerRef("gpu", 2)
    box.ask(SLOW, 0)
    box.ask(QUICK, 10 * MS, tier=0)
    for number, busy_ns in ((2, QUICK_NS), (1, SLOW_NS)):
        event = BatchDone(worker, number, busy_ns, finished_ns=110 * MS)
        box.scheduler.handle([event], 110 * MS)
    box.ask(THIRD, 120 * MS)  # it is loaded where `slow` was
    [stage] = box.ask(QUICK, 130 * MS, tier=0, budget_ns=5 * MS)
    assert isinstance(stage, Stage)
    assert stage.batch.lane.model is QUICK
