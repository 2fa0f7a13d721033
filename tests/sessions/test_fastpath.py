"""The fast path means what the slow path means: two cores, told the same, do the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from support.core import MS, SECOND_NS
from support.pair import BARE, CAMERA, FORMS, SPEC, STATE, Pair, fresh_pair, payload_of
from wire.wire_strategies import durations, optional, uint32s, uint64s

from appliance.errors import Outcome
from appliance.scheduling import Scheduler
from appliance.scheduling.events import Answer, Decision, Event
from appliance.sessions import fastpath
from appliance.wire.checks import MAX_ENVELOPE_BYTES
from appliance.wire.session import encode_observation
from appliance.wire.spec import with_hash
from appliance.wire.tensors import DAY_US
from appliance.wire.types import DType, Encoding, Keep, Kind, Lateness, Observation, Tensor

pytestmark = pytest.mark.skipif(bool(fastpath.missing), reason=fastpath.missing)


varying = st.fixed_dictionaries(
    {
        "timestamp_ns": uint64s,
        "urgency": st.floats(0, 1, width=32),
        "priority": optional(st.integers(1, 2**32 - 1)),
        "steps_remaining": optional(uint32s),
        "session_nonce": uint64s,
        "sequence": uint64s,
        "episode": uint64s,
        "age_us": durations,
        "round_trip_us": optional(durations),
        "latency_budget_us": optional(durations),
        "step_period_us": optional(st.integers(1, DAY_US)),
        "committed_steps": optional(uint32s),
        "inference_delay_steps": optional(uint32s),
        "observation_period_us": optional(st.integers(1, DAY_US)),
        "lateness": st.sampled_from(Lateness),
        "keep": st.sampled_from(Keep),
        "wants_status": st.booleans(),
        "trace_id": st.text(max_size=80),
    }
)


@settings(max_examples=150)
@given(
    st.sampled_from(FORMS),
    st.lists(st.tuples(varying, uint64s, durations, st.integers(0, 20 * MS)), max_size=4),
)
async def test_what_differs_between_observations_of_a_form_is_read_alike(
    form: Observation, repeats: list[tuple[dict[str, Any], int, int, int]]
) -> None:
    with fresh_pair() as pair:
        pair.ask(form, payload_of(form))
        for number, (fields, timestamp_ns, age_us, wait_ns) in enumerate(repeats):
            tensors = tuple(
                evolve(tensor, timestamp_ns=timestamp_ns, age_us=age_us) for tensor in form.tensors
            )
            for core in pair:
                core.now_ns += wait_ns
            pair.ask(evolve(form, tensors=tensors, **fields), payload_of(form, number))
        pair.finish()
        pair.check()


@settings(max_examples=250)
@given(st.sampled_from(FORMS), st.data())
async def test_whatever_bytes_come_both_paths_make_the_same_of_them(
    form: Observation, data: st.DataObject
) -> None:
    envelope = bytearray(encode_observation(form))
    payload = payload_of(form)
    kind = data.draw(st.sampled_from(("flip", "cut", "append", "payload")))
    if kind == "flip":
        envelope[data.draw(st.integers(0, len(envelope) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del envelope[data.draw(st.integers(0, len(envelope) - 1)) :]
    elif kind == "append":
        envelope += data.draw(st.binary(max_size=12))
    else:
        payload = data.draw(st.binary(max_size=40))
    with fresh_pair() as pair:
        pair.ask(form, payload_of(form))
        for core in pair:
            core.ask(b"arm-3", b"", bytes(envelope), payload)
        pair.finish()
        pair.check()


async def test_a_form_is_known_from_its_second_observation_on(pair: Pair) -> None:
    for number in range(5):
        pair.ask(evolve(BARE, sequence=number), payload_of(BARE, number))
    pair.finish()
    pair.check()
    assert pair.fast.fast == 4
    assert pair.slow.fast == 0


async def test_answers_hold_the_rows_they_are_for(pair: Pair) -> None:
    for number in range(1, 9):
        pair.ask(evolve(BARE, sequence=number, keep=Keep.ALL), payload_of(BARE, number))
    pair.finish()
    heard = pair.fast.heard(b"arm-3")[:-1]
    assert [response.sequence for response, _ in heard] == list(range(1, 9))
    assert [payload for _, payload in heard] == [payload_of(BARE, n) for n in range(1, 9)]
    assert {response.outcome for response, _ in heard} == {Outcome.OK}
    assert len({response.response_id for response, _ in heard}) == 8
    assert max(response.timing.batch_size for response, _ in heard) > 1


@pytest.mark.parametrize(("budget_us", "late"), [(50_000, False), (100, True)])
async def test_both_paths_keep_the_slack_of_the_last_answer(
    pair: Pair,
    budget_us: int,
    late: bool,  # noqa: FBT001
) -> None:
    for _ in range(3):
        pair.ask(evolve(BARE, latency_budget_us=budget_us), payload_of(BARE))
        pair.finish()
    pair.check()
    (fast,), (slow,) = pair.fast.door.table, pair.slow.door.table
    assert pair.fast.fast == 2
    assert fast.slack_us == slow.slack_us
    assert (fast.slack_us < 0, fast.late > 0) == (late, late)


class Advising:
    """A scheduler that says `advice_ns` with every answer."""

    fault = None

    def __init__(self, scheduler: Scheduler, advice_ns: int) -> None:
        self._scheduler = scheduler
        self._advice_ns = advice_ns

    def handle(self, events: Sequence[Event], now_ns: int) -> Decision:
        decision = self._scheduler.handle(events, now_ns)
        for effect in decision.effects:
            if isinstance(effect, Answer):
                effect.advice_ns = self._advice_ns  # type: ignore[misc]
        return decision


@settings(max_examples=60)
@given(st.integers(-(2**62), 2**62) | st.integers(-5_000_000, 5_000_000))
async def test_advice_is_told_with_every_answer_to_who_can_hear_it(advice_ns: int) -> None:
    old = FORMS[-1]
    with fresh_pair() as pair:
        for core in pair:
            advising: Any = Advising(core.dispatcher.scheduler, advice_ns)
            core.dispatcher.scheduler = advising
        for number in range(3):
            pair.ask(evolve(BARE, sequence=number, keep=Keep.LATEST), payload_of(BARE), b"arm-3")
            pair.ask(old, payload_of(old), b"old")
        pair.finish()
        pair.check(b"arm-3", b"old")
        assert pair.fast.fast == 4


async def test_advice_is_what_the_scheduler_said(pair: Pair) -> None:
    for core in pair:
        advising: Any = Advising(core.dispatcher.scheduler, -1_234_567)
        core.dispatcher.scheduler = advising
    for name, form in ((b"arm-3", BARE), (b"old", FORMS[-1])):
        for _ in range(6):  # some are answered, some replaced
            pair.ask(form, payload_of(form), name)
    pair.finish()
    for core in pair:
        told = [response for response, _ in core.heard(b"arm-3")[:-1]]
        assert {response.outcome for response in told} == {Outcome.OK, Outcome.SUPERSEDED}
        assert {response.phase_advice_us for response in told} == {-1235}
        assert {response.phase_advice_us for response, _ in core.heard(b"old")} == {0}


@pytest.mark.parametrize(
    ("declared_us", "policy", "expected_ns"),
    [
        (None, {}, 0),
        (100_000, {}, 100 * MS),
        (100_000, {"max_rate_hz": 5.0}, 200 * MS),
        (100_000, {"max_rate_hz": 100.0}, 100 * MS),
        (1_000, {}, MS),
        (999, {"max_rate_hz": 5.0}, 0),
        (60_000_000, {}, 60 * SECOND_NS),
        (60_000_001, {}, 0),
    ],
)
async def test_both_paths_tell_the_scheduler_the_declared_period(
    stack: ExitStack,
    tmp_path: Path,
    declared_us: int | None,
    policy: dict[str, Any],
    expected_ns: int,
) -> None:
    pair = stack.enter_context(closing(Pair(tmp_path, {"clients": {"defaults": policy}})))
    for number in range(3):
        for core in pair:
            core.now_ns += SECOND_NS
        pair.ask(evolve(BARE, sequence=number, observation_period_us=declared_us), payload_of(BARE))
    for core in pair:
        asked = [event["period_ns"] for event in core.posted if isinstance(event, dict)]
        assert asked == [expected_ns] * 3
    assert pair.fast.fast == 2
    pair.check()


@pytest.mark.parametrize(
    ("chunk", "said", "left_ms"),
    [
        ({}, {}, 160),
        ({}, {"age_us": 15_000, "round_trip_us": 4_000}, 143),
        ({"step_period_us": 0}, {"step_period_us": 10_000}, 80),
        ({"step_period_us": 0}, {}, None),
        ({"horizon": 0}, {}, None),
        ({"horizon": 0}, {"step_period_us": 20_000, "steps_remaining": 3}, 60),
        ({"horizon": 2}, {"step_period_us": 20_000, "steps_remaining": 3}, 60),
        ({}, {"step_period_us": 20_000, "steps_remaining": 0}, 160),
        ({"horizon": 2**32 - 1, "step_period_us": 2**63}, {}, 86_400_000),
    ],
)
async def test_both_paths_know_when_a_robot_runs_dry_that_has_its_answer(
    pair: Pair, chunk: dict[str, int], said: dict[str, int], left_ms: int | None
) -> None:
    for core in pair:
        core.load(evolve(SPEC, **chunk))
    for number in range(3):
        asked_ns = pair.fast.now_ns
        pair.ask(evolve(BARE, sequence=number, **said), payload_of(BARE))
        pair.finish()
        for core in pair:
            (session,) = core.door.table
            expected_ns = None if left_ms is None else asked_ns + left_ms * MS
            assert session.dry_ns == expected_ns
    assert pair.fast.fast == 2
    pair.check()


async def test_who_ends_an_episode_does_not_run_dry(pair: Pair) -> None:
    for _ in range(2):
        pair.ask(BARE, payload_of(BARE))
        pair.finish()
    pair.ask(evolve(BARE, kind=Kind.END_EPISODE, tensors=()), b"")
    pair.check()
    (session,) = pair.fast.door.table
    assert session.dry_ns is None


@pytest.mark.parametrize(
    "observation",
    [
        pytest.param(evolve(BARE, tensors=(evolve(STATE, key="stat"),)), id="key"),
        pytest.param(evolve(BARE, tensors=(evolve(STATE, shape=(2, 2)),)), id="shape"),
        pytest.param(evolve(BARE, tensors=(evolve(STATE, dtype=DType.INT32),)), id="dtype"),
        pytest.param(evolve(BARE, tensors=(evolve(STATE, encoding=Encoding.PNG),)), id="encoding"),
        pytest.param(evolve(BARE, tensors=(STATE, evolve(CAMERA, key="extra"))), id="extra"),
        pytest.param(evolve(BARE, tensors=()), id="missing"),
        pytest.param(evolve(BARE, model_id="policz"), id="model"),
        pytest.param(evolve(BARE, model_version="4"), id="version"),
        pytest.param(evolve(BARE, spec_hash="0" * 16), id="spec"),
        pytest.param(evolve(BARE, age_us=DAY_US + 1), id="age"),
        pytest.param(evolve(BARE, urgency=float("nan")), id="urgency"),
    ],
)
async def test_what_is_not_of_a_known_form_is_refused_by_the_slow_path(
    pair: Pair, observation: Observation
) -> None:
    pair.ask(BARE, payload_of(BARE))
    pair.ask(BARE, payload_of(BARE))
    before = pair.fast.fast
    pair.ask(observation, payload_of(observation))
    pair.finish()
    pair.check()
    assert pair.fast.fast == before
    assert pair.fast.ledger.overall.outcomes().keys() & {"INVALID", "UNKNOWN_MODEL"}


async def test_what_a_form_stands_on_is_looked_at_again(pair: Pair) -> None:
    for _ in range(2):
        pair.ask(BARE, payload_of(BARE))
    pair.finish()
    other = with_hash(evolve(SPEC, inputs=SPEC.inputs[1:]))  # takes no state any more
    for core in pair:
        core.load(other)
    pair.ask(BARE, payload_of(BARE))
    pair.finish()
    pair.check()
    assert pair.fast.ledger.overall.outcomes()["INVALID"] == 1


async def test_a_drain_is_heard_at_once(pair: Pair) -> None:
    for _ in range(2):
        pair.ask(BARE, payload_of(BARE))
    for core in pair:
        core.admission.draining = True
    pair.ask(BARE, payload_of(BARE))
    pair.finish()
    pair.check()
    assert pair.fast.ledger.overall.outcomes()["DRAINING"] == 1


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"rate_limits": {"per_client_hz": 100.0, "burst_s": 0.02}}, id="client"),
        pytest.param({"rate_limits": {"global_hz": 100.0, "burst_s": 0.02}}, id="global"),
        pytest.param({"rate_limits": {"per_model_hz": {"policy": 100.0}}}, id="model"),
        pytest.param({"clients": {"known": [{"id": "arm-3", "max_rate_hz": 50.0}]}}, id="known"),
        pytest.param({"clients": {"known": [{"id": "arm-3", "arena_bytes": 4096}]}}, id="memory"),
        pytest.param({"scheduling": {"max_queue_size": 3}}, id="queue"),
        pytest.param({"clients": {"defaults": {"lateness": "firm", "tier": 3}}}, id="policy"),
    ],
)
async def test_limits_hold_on_the_fast_path(
    stack: ExitStack, tmp_path: Path, document: dict[str, Any]
) -> None:
    pair = stack.enter_context(closing(Pair(tmp_path, document)))
    for number in range(120):
        for core in pair:
            core.now_ns += MS
        pair.ask(evolve(BARE, sequence=number, keep=Keep.ALL), payload_of(BARE, number))
        if number % 40 == 39:
            pair.finish()
    pair.finish()
    pair.check()
    assert pair.fast.fast > 10


async def test_robots_share_batches_across_the_two_paths(pair: Pair) -> None:
    old = FORMS[-1]
    for number in range(6):
        pair.ask(evolve(BARE, sequence=number), payload_of(BARE, number), b"arm-3")
        pair.ask(evolve(old, timestamp_ns=number), payload_of(old, 50 + number), b"old")
    pair.finish()
    pair.check(b"arm-3", b"old")


async def test_a_robot_that_left_costs_only_its_own_answers(pair: Pair) -> None:
    for number in range(3):
        pair.ask(evolve(BARE, sequence=number), payload_of(BARE, number), b"arm-3")
        pair.ask(evolve(BARE, sequence=number), payload_of(BARE, number), b"gone")
    for core in pair:
        core.leave(b"gone")
    pair.finish()
    pair.check(b"arm-3")
    assert pair.fast.ledger.overall.outcomes()["CLIENT_GONE"] >= 1


async def test_more_and_fewer_parts_are_refused_and_the_next_message_is_taken(pair: Pair) -> None:
    envelope, payload = encode_observation(BARE), payload_of(BARE)
    for parts in (
        (b"", envelope),
        (b"", envelope, payload, b"more", b"still"),
        (b"x", envelope, payload),
    ):
        for core in pair:
            core.ask(b"arm-3", b"", envelope, payload)
            core.ask(b"arm-3", *parts)
    pair.ask(BARE, payload)
    pair.finish()
    pair.check()


async def test_a_session_that_says_who_it_is_later_is_counted_as_that(pair: Pair) -> None:
    old = FORMS[-1]
    for observation in (old, old, BARE, BARE, old):
        pair.ask(observation, payload_of(observation), b"arm-9")
    pair.finish()
    pair.check(b"arm-9")


@pytest.mark.parametrize(
    ("size", "fast"), [(2048, 2), (2049, 0), (MAX_ENVELOPE_BYTES, 0), (MAX_ENVELOPE_BYTES + 1, 0)]
)
async def test_long_envelopes_are_read_by_the_slow_path_and_kept_by_nobody(
    pair: Pair, size: int, fast: int
) -> None:
    again = encode_observation(evolve(BARE, timestamp_ns=1))
    pairs, odd = divmod(size - len(again), 2)
    last = b"\x10\x81\x00" if odd else b"\x10\x01"
    long = again + b"\x10\x01" * (pairs - 1) + last  # the time, again and again
    assert len(long) == size
    for _ in range(3):
        for core in pair:
            core.ask(b"arm-3", b"", long, payload_of(BARE))
    pair.finish()
    pair.check()
    assert pair.fast.fast == fast
    (session,) = pair.fast.door.table
    assert len(session.forms) == (fast > 0)


@pytest.mark.parametrize(
    "overlong",
    [
        pytest.param(b"\x90\x80\x80\x80\x80\x00\x01", id="tag"),
        pytest.param(b"\x8a\x02\x81\x80\x80\x80\x80\x00x", id="size"),
    ],
)
async def test_what_protobuf_calls_too_long_is_no_number(pair: Pair, overlong: bytes) -> None:
    for envelope in (encode_observation(BARE), encode_observation(BARE) + overlong):
        for core in pair:
            core.ask(b"arm-3", b"", envelope, payload_of(BARE))
    pair.finish()
    pair.check()
    assert pair.fast.fast == 0


async def test_a_session_whose_observations_never_repeat_learns_seldom(pair: Pair) -> None:
    for number in range(40):
        observation = evolve(BARE, metadata={"prompt": f"take {number}"})
        pair.ask(observation, payload_of(observation))
    pair.finish()
    pair.check()
    (session,) = pair.fast.door.table
    assert session.unused_forms == len(session.forms) * 4 == 16
    assert pair.fast.fast == 0
    for core in pair:
        core.now_ns += SECOND_NS
    for _ in range(3):
        pair.ask(BARE, payload_of(BARE))
    assert pair.fast.fast == 2
    assert session.unused_forms == 0


async def test_files_are_not_learnt_and_soon_not_tried(pair: Pair) -> None:
    picture = Tensor("camera", DType.UINT8, (), 16, 18, Encoding.PNG)
    for _ in range(20):
        pair.ask(evolve(BARE, tensors=(STATE, picture)), payload_of(FORMS[1]))
    pair.check()
    (session,) = pair.fast.door.table
    assert session.forms == []
