"""Whatever a fleet does, the scheduler keeps its rules. One rule, one function."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.simulation import Record, Trace, Turn, Waiting, WorkerView, simulate
from support.traces import random_trace

from appliance.errors import Outcome
from appliance.scheduling.assignment import STAGE_LEAD_NS
from appliance.scheduling.events import Arrived, BatchDone, Released, Request, Withdrawn
from appliance.scheduling.outlook import AHEAD_NS

traces = st.builds(random_trace, st.integers(0, 1 << 32), st.integers(1, 40), faults=st.booleans())


# ------------------------------------------------------------------------------------ rules


def held_by(worker: WorkerView) -> list[Request]:
    """Return what a worker was sent."""
    batches = (*worker.told, *([worker.staged] if worker.staged else []))
    return [request for batch in batches for request in batch.requests]


def every_request_gets_one_answer(record: Record) -> None:
    answered = Counter(answer.request.id for _, answer in record.answers)
    assert answered == {request.id: 1 for request in record.requests}


def an_ok_is_the_answer_of_the_row_that_ran(record: Record) -> None:
    for now_ns, answer in record.answers:
        assert (answer.outcome is Outcome.OK) == (answer.batch is not None)
        if answer.batch is not None:
            assert answer.batch.requests[answer.row] is answer.request
            assert answer.late == (now_ns > answer.request.deadline_ns)


def a_firm_request_is_never_started_late(record: Record) -> None:
    for start in record.starts:
        for request in start.batch.requests:
            latest_ns = start.batch.latest_start_ns  # of what was committed
            if request.firm and latest_ns:
                assert start.now_ns <= latest_ns < request.deadline_ns
            elif request.firm:
                assert start.now_ns + start.planned_ns <= request.deadline_ns


def a_firm_request_hears_no_by_its_deadline(record: Record) -> None:
    lateness_ns = record.trace.timer_lateness_ns
    for now_ns, answer in record.answers:
        request = answer.request
        refused = answer.outcome in (Outcome.INFEASIBLE, Outcome.EXPIRED)
        if request.firm and refused and request.id not in record.returned:
            by_ns = max(request.deadline_ns + 1, request.arrived_ns)
            assert now_ns <= by_ns + lateness_ns


def only_a_firm_request_is_infeasible(record: Record) -> None:
    for _, answer in record.answers:
        assert answer.outcome is not Outcome.INFEASIBLE or answer.request.firm


def a_mailbox_keeps_only_the_latest(record: Record) -> None:
    for turn in record.turns:
        boxes = Counter(
            (waiting.request.session, waiting.lane.model)
            for waiting in turn.waiting
            if waiting.request.keep_latest
        )
        assert all(count == 1 for count in boxes.values())


def nothing_newer_is_superseded_by_something_older(record: Record) -> None:
    for turn in record.turns:
        for answer in turn.answers:
            if answer.outcome is Outcome.SUPERSEDED:
                request = answer.request
                assert request.keep_latest
                assert any(
                    other.id > request.id
                    and other.session == request.session
                    and other.lane.model == request.lane.model
                    for other in record.requests
                    if other.arrived_ns <= turn.now_ns
                )


def an_order_runs_one_at_a_time_and_in_order(record: Record) -> None:
    for turn in record.turns:
        running = Counter(
            request.order_key
            for worker in turn.workers
            for request in held_by(worker)
            if request.order_key is not None
        )
        assert all(count == 1 for count in running.values())
    started: dict[object, int] = {}
    for start in record.starts:
        for request in start.batch.requests:
            if request.order_key is not None:
                assert request.id >= started.get(request.order_key, 0)
                started[request.order_key] = request.id


def a_batch_is_of_one_lane_and_fits_its_worker(record: Record) -> None:
    sizes = {model.ref: model.max_batch for model in record.trace.models}
    for start in record.starts:
        assert set(start.lanes) == {start.batch.lane}
        assert 1 <= len(start.batch.requests) <= sizes[start.batch.lane.model]


def the_queue_is_bounded(record: Record) -> None:
    """What comes back from workers may exceed the bound, nothing else."""
    held = max(sum(len(held_by(worker)) for worker in turn.workers) for turn in record.turns)
    returned = held if record.returned else 0
    for turn in record.turns:
        assert len(turn.waiting) <= record.trace.max_queue_size + returned
        boxes: dict[object, list[Request]] = {}
        for waiting in turn.waiting:
            if not waiting.request.keep_latest:
                key = (waiting.request.session, waiting.lane.model)
                boxes.setdefault(key, []).append(waiting.request)
        for requests in boxes.values():
            assert len(requests) <= max(r.queue_limit for r in requests) + returned


def a_row_whose_worker_died_runs_alone_once_and_never_on_the_last(record: Record) -> None:
    for request in record.requests:
        assert request.deaths <= 2
    for start in record.starts:
        if any(start.deaths):
            assert start.deaths == (1,)
            assert start.hosts > 1


def a_failed_batch_is_split_until_a_row_fails_alone(record: Record) -> None:
    batches = {start.batch.id: start.batch for start in record.starts}
    order = list(batches)
    for turn in record.turns:
        failed = {
            request.id: batches[event.batch_id]
            for event in turn.events
            if isinstance(event, BatchDone) and event.error
            for request in batches[event.batch_id].requests
        }
        for answer in turn.answers:
            if answer.outcome is Outcome.ENGINE_FAILED:
                assert len(failed[answer.request.id].requests) == 1
        for batch in {b.id: b for b in failed.values()}.values():
            members = {request.id for request in batch.requests}
            for later in order[order.index(batch.id) + 1 :]:
                rows = {request.id for request in batches[later].requests}
                if rows & members:
                    assert rows <= members
                    assert len(rows) <= (len(members) + 1) // 2


def a_row_fails_alone_as_often_as_configured(record: Record) -> None:
    for _, answer in record.answers:
        if answer.outcome is Outcome.ENGINE_FAILED:
            assert answer.request.attempts == record.trace.max_retries + 1


def runnable(waiting: Waiting, turn: Turn, worker: WorkerView) -> bool:
    """Could this worker start this request now?"""
    request, model = waiting.request, waiting.lane.model
    if model not in worker.models:
        return False
    finish_ns = turn.now_ns + worker.delay_ns + turn.planned_ns[model]
    if waiting.firm and finish_ns > request.deadline_ns:
        return False
    if waiting.deaths and sum(model in other.models for other in turn.workers) < 2:
        return False
    elders = [other.request for other in turn.waiting]
    elders += [request for other in turn.workers for request in held_by(other)]
    return request.order_key is None or not any(
        elder.order_key == request.order_key and elder.id < request.id for elder in elders
    )


def may_expect_tier_0(turn: Turn, worker: WorkerView) -> bool:
    """Is there anybody whom it may mind, and does it look again soon?"""
    wakeup_ns = turn.decision.next_wakeup_ns
    looks = wakeup_ns is not None and wakeup_ns <= turn.now_ns + AHEAD_NS
    waiting = {each.lane.model for each in turn.waiting if each.request.tier == 0}
    return looks and not (turn.expected | waiting).isdisjoint(worker.models)


def no_worker_is_idle_while_it_could_run_something(record: Record) -> None:
    for turn in record.turns:
        for worker in turn.workers:
            if not worker.told:
                assert worker.staged is None
                if any(runnable(waiting, turn, worker) for waiting in turn.waiting):
                    assert may_expect_tier_0(turn, worker)
                assert not any(
                    other.staged
                    and other.staged.lane.model in worker.models
                    and not any(request.deaths for request in other.staged.requests)
                    for other in turn.workers
                )


def it_wakes_up_for_all_that_is_due(record: Record) -> None:
    for turn in record.turns:
        wakeup_ns = turn.decision.next_wakeup_ns
        due = [waiting.request.expires_ns for waiting in turn.waiting]
        due += [w.request.deadline_ns + 1 for w in turn.waiting if w.firm]
        for worker in turn.workers:
            lead_ns = worker.free_ns - STAGE_LEAD_NS
            may_stage = len(worker.told) == 1 and worker.staged is None
            if may_stage and any(runnable(w, turn, worker) and not w.firm for w in turn.waiting):
                if may_expect_tier_0(turn, worker):
                    continue
                assert lead_ns > turn.now_ns, "it should have been staged"
                due.append(lead_ns)
        if due:
            assert wakeup_ns is not None
            assert turn.now_ns < wakeup_ns <= min(due)
        else:
            assert wakeup_ns is None or wakeup_ns > turn.now_ns


def tier_0_of_an_urgent_model_waits_for_none_that_is_not(record: Record) -> None:
    """If it is its client's turn, and the worker has room for another batch that is to run."""
    urgent = {model.ref for model in record.trace.models if model.urgent}
    for turn in record.turns:
        for worker in turn.workers:
            if len(worker.told) == 1 and worker.told[0].lane.model not in urgent:
                assert not any(
                    waiting.request.tier == 0
                    and not waiting.yields
                    and waiting.lane.model in urgent
                    and runnable(waiting, turn, worker)
                    for waiting in turn.waiting
                )


def a_worker_that_has_a_successor_goes_when_nobody_needs_it(record: Record) -> None:
    """That it goes no sooner, the simulation sees to."""
    for turn in record.turns:
        wanted = {waiting.lane.model for waiting in turn.waiting}
        for worker in turn.workers:
            if worker.retired and not worker.told:
                assert not wanted.isdisjoint(worker.models)


def a_withdrawal_is_answered_at_once(record: Record) -> None:
    for turn in record.turns:
        if any(isinstance(event, Arrived) for event in turn.events):
            continue  # it may have come after
        for event in turn.events:
            if isinstance(event, Withdrawn):
                assert not any(
                    waiting.request.session == event.session
                    and event.model in (None, waiting.lane.model.name)
                    and event.tag in (None, waiting.request.tag)
                    and waiting.request.id not in record.returned
                    for waiting in turn.waiting
                )


def nothing_is_left_behind(record: Record) -> None:
    queue, room = record.scheduler._queue, record.scheduler._room
    assert record.scheduler.statistics().queued == 0
    assert record.scheduler.statistics().in_batches == 0
    assert list(room) == []
    assert not room.lines
    assert not room._orders
    assert not any(turns.waiting for turns in room._turns.values())
    clients = room._clients.values()
    assert not any(client.first or client.yielding or client.waiting for client in clients)
    assert len(queue._due) == 0
    assert record.turns[-1].decision.next_wakeup_ns is None
    for withdrawal in record.trace.withdrawals:
        session = withdrawal.event.session
        came_ns = [r.arrived_ns for r in record.requests if r.session == session]
        if withdrawal.event.gone and max(came_ns, default=0) < withdrawal.at_ns:
            assert not room.knows(session)


RULES = (
    every_request_gets_one_answer,
    an_ok_is_the_answer_of_the_row_that_ran,
    a_firm_request_is_never_started_late,
    a_firm_request_hears_no_by_its_deadline,
    only_a_firm_request_is_infeasible,
    a_mailbox_keeps_only_the_latest,
    nothing_newer_is_superseded_by_something_older,
    an_order_runs_one_at_a_time_and_in_order,
    a_batch_is_of_one_lane_and_fits_its_worker,
    the_queue_is_bounded,
    a_row_whose_worker_died_runs_alone_once_and_never_on_the_last,
    a_failed_batch_is_split_until_a_row_fails_alone,
    a_row_fails_alone_as_often_as_configured,
    no_worker_is_idle_while_it_could_run_something,
    it_wakes_up_for_all_that_is_due,
    tier_0_of_an_urgent_model_waits_for_none_that_is_not,
    a_worker_that_has_a_successor_goes_when_nobody_needs_it,
    a_withdrawal_is_answered_at_once,
    nothing_is_left_behind,
)


def test_batches_are_overtaken_and_workers_released() -> None:
    overtaken = released = 0
    for seed in range(40):
        turns = simulate(random_trace(seed, 30, faults=False)).turns
        for before, turn in pairwise(turns):
            behind = {batch.id for worker in before.workers for batch in worker.told[1:]}
            done = [event.batch_id for event in turn.events if isinstance(event, BatchDone)]
            overtaken += bool(done) and done[0] in behind
            released += any(isinstance(each, Released) for each in turn.decision.effects)
    assert overtaken > 10
    assert released > 10


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(unhurried, max_examples=500)
@given(traces)
def test_the_rules_hold_whatever_a_fleet_does(trace: Trace) -> None:
    record = simulate(trace)
    for rule in RULES:
        rule(record)


@settings(unhurried, max_examples=40)
@given(traces)
def test_the_same_trace_has_the_same_effects(trace: Trace) -> None:
    assert simulate(trace).log() == simulate(trace).log()


def test_the_order_of_sets_and_hashes_decides_nothing() -> None:
    script = (
        "from support.simulation import simulate; from support.traces import random_trace\n"
        "for seed in range(10):\n"
        "    print(simulate(random_trace(seed, 30, faults=True)).log())\n"
        "from support.fleets import overloaded_log; print(overloaded_log())"
    )
    logs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(logs) == 1
    log = logs.pop()
    assert len(log) > 1000
    assert "SHED" in log
    assert re.search("advised -?[1-9]", log)
