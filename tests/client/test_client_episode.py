"""Episodes: what is observed when, and which row is delivered, over a real socket."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fake_appliance import FakeAppliance, Received

from appliance import Step
from appliance.client.connection import Connection, Model
from appliance.client.episode import Episode
from appliance.errors import LocalProtocolError, Outcome
from appliance.wire.types import Kind

MS = 1_000_000
STEP_MS = 20
HORIZON = 8


def answer(appliance: FakeAppliance, to: Received, value: float = 0.0, **fields: Any) -> None:
    """Answer with a chunk whose rows are `value + step`."""
    rows = value + np.arange(HORIZON, dtype=np.float32)[:, None]
    chunk = {"horizon": HORIZON, "step_period_us": STEP_MS * 1000, "tensors": {"actions": rows}}
    appliance.reply(to, **{**chunk, **fields})


def ask(appliance: FakeAppliance, episode: Episode, at_ns: int) -> Received:
    episode.observe(at_ns, state=np.zeros(3, np.float32))
    return appliance.receive()


def hear(connection: Connection, model: Model) -> None:
    """Wait until an answer is there to be taken."""
    connection._link.wait(lambda: bool(model._channel.answers), 10_000)
    assert model._channel.answers


@pytest.fixture
def model(connection: Connection) -> Model:
    return connection.model("arm", step_period_ms=STEP_MS)


def test_the_row_for_the_instant(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(prompt="pick") as episode:
        now = time.monotonic_ns() - 50 * MS
        assert episode.action(now) == Step(None, "NOT_YET")
        assert episode.due(now)
        received = ask(appliance, episode, now)
        assert received.observation.metadata == {"prompt": "pick"}
        assert received.observation.episode == episode.number == 1
        assert received.observation.steps_remaining is None
        assert 50_000 <= received.observation.age_us < 5_000_000
        answer(appliance, received)
        hear(connection, model)
        for step in (2, 3, 7):
            acted = episode.action(now + step * STEP_MS * MS)
            assert acted.ok
            assert acted.action is not None
            assert acted.action.tolist() == [step]
        assert episode.action(now + HORIZON * STEP_MS * MS) == Step(None, "DRY")
        assert (episode.counts.chunks, episode.counts.steps, episode.counts.dry) == (1, 5, 1)


def test_what_it_still_has_is_told(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        now = time.monotonic_ns()
        answer(appliance, ask(appliance, episode, now), first_step=1)
        hear(connection, model)
        later = now + 3 * STEP_MS * MS
        observation = ask(appliance, episode, later).observation
        assert observation.steps_remaining == 6  # rows for steps 3 to 8
        assert observation.inference_delay_steps == 1
        assert observation.committed_steps == 1


def test_an_older_capture_never_replaces_a_newer_one(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        now = time.monotonic_ns()
        first = ask(appliance, episode, now)
        second = ask(appliance, episode, now + STEP_MS * MS)
        answer(appliance, second, 100)
        answer(appliance, first, 0)
        connection._link.wait(lambda: len(model._channel.answers) == 2, 10_000)
        acted = episode.action(now + 2 * STEP_MS * MS)
        assert acted.action is not None
        assert acted.action.tolist() == [101]
        assert episode.counts.stale == 1


def test_answers_slower_than_the_observations_are_used(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    """Each answer comes after the next observation was made, and is taken all the same."""
    with model.episode(observation_hz=10) as episode:
        now = time.monotonic_ns()
        waiting = ask(appliance, episode, now)
        for number in range(1, 5):
            instant = now + number * 100 * MS
            assert episode.due(instant)
            following = ask(appliance, episode, instant)
            answer(appliance, waiting, 100 * number)
            hear(connection, model)
            acted = episode.action(instant)
            assert acted.action is not None
            assert acted.action.tolist() == [100 * number + 5]
            waiting = following


def test_due_keeps_the_rate_whatever_the_jitter(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(observation_hz=10) as episode:
        start = time.monotonic_ns()
        asked = []
        for number in range(60):  # a loop of 50 Hz, each turn up to 3 ms late
            instant = start + number * STEP_MS * MS + (number * 7 % 4) * MS
            if episode.due(instant):
                asked.append(number)
                answer(appliance, ask(appliance, episode, instant))
                hear(connection, model)
        assert asked == list(range(0, 60, 5))


def test_advice_moves_the_observation_in_steps_smaller_than_a_tick(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(observation_hz=10) as episode:
        start = time.monotonic_ns()
        asked = []
        for number in range(60):
            instant = start + number * STEP_MS * MS
            if episode.due(instant):
                asked.append(number)
                answer(appliance, ask(appliance, episode, instant), phase_advice_us=8_000)
                hear(connection, model)
        gaps = [after - before for before, after in pairwise(asked)]
        assert set(gaps) == {5, 6}
        assert sum(gaps) / len(gaps) == pytest.approx(5.4, abs=0.15)  # 108 ms


def test_advice_too_small_for_a_tick_moves_no_tick_until_it_has_added_up(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(observation_hz=10) as episode:
        start = time.monotonic_ns()
        asked = []
        for number in range(60):
            instant = start + number * STEP_MS * MS
            if episode.due(instant):
                asked.append(number)
                answer(appliance, ask(appliance, episode, instant), phase_advice_us=-4_000)
                hear(connection, model)
            assert episode.action(instant).ok  # the control ticks are what they were
        gaps = [after - before for before, after in pairwise(asked)]
        assert gaps[:6] == [5, 5, 5, 4, 5, 5]
        assert set(gaps) == {4, 5}


def test_a_pause_leaves_no_advice(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(observation_hz=10) as episode:
        now = time.monotonic_ns() - 1000 * MS
        answer(appliance, ask(appliance, episode, now), phase_advice_us=40_000)
        hear(connection, model)
        later = now + 1000 * MS
        under_way = ask(appliance, episode, now + 140 * MS)
        assert episode.due(later)
        ask(appliance, episode, later)
        answer(appliance, under_way, phase_advice_us=40_000)
        hear(connection, model)
        assert not episode.due(later + 80 * MS)
        assert episode.due(later + 100 * MS)


def test_the_rate_of_an_episode_is_told_as_long_as_it_lasts(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    def told() -> int | None:
        received = appliance.receive()
        appliance.reply(received)
        return received.observation.observation_period_us

    with model.episode(observation_hz=12.5) as episode:
        for _ in range(2):
            episode.observe(state=np.zeros(3, np.float32))
            assert told() == 80_000
            connection.wait_settled(10_000)
            episode.reset()
            assert appliance.receive().observation.kind is Kind.END_EPISODE
    appliance.receive()  # the end of the third
    model.observe(state=np.zeros(3, np.float32))
    assert told() is None
    given = connection.model("given", observation_period_ms=70)
    with given.episode(observation_hz=12.5) as episode:
        episode.observe(state=np.zeros(3, np.float32))
        assert told() == 70_000


def test_without_a_rate_it_asks_before_it_runs_dry(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        start = time.monotonic_ns()
        asked = []
        for number in range(40):
            instant = start + number * STEP_MS * MS
            if episode.due(instant):
                asked.append(number)
                answer(appliance, ask(appliance, episode, instant))
                hear(connection, model)
            assert episode.action(instant).ok
        assert len(asked) <= 8
        assert episode.counts.dry == 0


def test_nothing_of_an_old_episode_is_delivered(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(dry="hold") as episode:
        now = time.monotonic_ns()
        answer(appliance, ask(appliance, episode, now))
        hear(connection, model)
        assert episode.action(now).ok
        under_way = ask(appliance, episode, now + STEP_MS * MS)
        episode.reset()
        assert (appliance.receive().observation.kind, appliance.receive().observation.kind) == (
            Kind.CANCEL,
            Kind.END_EPISODE,
        )
        answer(appliance, under_way, 100)
        fresh = ask(appliance, episode, now + 2 * STEP_MS * MS)
        assert fresh.observation.episode == episode.number == 2
        assert fresh.observation.steps_remaining is None
        assert episode.action(now + 2 * STEP_MS * MS) == Step(None, "NOT_YET")
        answer(appliance, fresh, 200)
        hear(connection, model)
        acted = episode.action(now + 3 * STEP_MS * MS)
        assert acted.action is not None
        assert acted.action.tolist() == [201]


@pytest.mark.parametrize(
    ("dry", "expected"),
    [("none", None), ("hold", [7.0]), ("zero", [0.0]), (lambda step: step.action - 1, [6.0])],
)
def test_dry_policies(
    dry: Any, expected: Any, appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(dry=dry) as episode:
        now = time.monotonic_ns()
        answer(appliance, ask(appliance, episode, now))
        hear(connection, model)
        episode.action(now + 7 * STEP_MS * MS)
        step = episode.action(now + 8 * STEP_MS * MS)
        assert (step.ok, step.reason) == (False, "DRY")
        assert (None if step.action is None else step.action.tolist()) == expected


def test_a_refusal_is_the_reason_and_is_not_asked_again_too_soon(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        now = time.monotonic_ns()
        received = ask(appliance, episode, now)
        appliance.reply(received, Outcome.SHED, retry_after_us=100_000)
        hear(connection, model)
        assert episode.action(now).reason == "SHED"
        assert not episode.due(now + 99 * MS)
        assert episode.due(now + 101 * MS)


def test_a_lost_link_is_the_reason(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        appliance.stop()
        connection._link.wait(lambda: not connection._link.up, 10_000)
        assert episode.action().reason == "LINK_DOWN"


def test_one_row_answers_are_chunks_of_one(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        now = time.monotonic_ns()
        received = ask(appliance, episode, now)
        appliance.reply(received, tensors={"action": np.array([5, 6], np.float32)})
        hear(connection, model)
        acted = episode.action(now)
        assert acted.action is not None
        assert acted.action.tolist() == [5, 6]
        assert not episode.action(now + STEP_MS * MS).ok


def test_which_output_holds_the_actions(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    rows = np.arange(HORIZON, dtype=np.float32)[:, None]
    outputs = {"values": rows * 0, "actions": rows}
    with model.episode(action="actions") as episode:
        now = time.monotonic_ns()
        answer(appliance, ask(appliance, episode, now), tensors=outputs)
        hear(connection, model)
        acted = episode.action(now + STEP_MS * MS)
        assert acted.action is not None
        assert acted.action.tolist() == [1]
    with model.episode() as episode:
        appliance.receive()
        answer(appliance, ask(appliance, episode, now), tensors=outputs)
        hear(connection, model)
        with pytest.raises(ValueError, match="values, actions"):
            episode.action(now)


def test_the_end(appliance: FakeAppliance, connection: Connection, model: Model) -> None:
    episode = model.episode()
    with pytest.raises(LocalProtocolError, match="not over"):
        model.episode()
    episode.close()
    episode.close()
    assert appliance.receive().observation.kind is Kind.END_EPISODE
    with pytest.raises(LocalProtocolError, match="over"):
        episode.observe(state=np.zeros(3, np.float32))
    with pytest.raises(LocalProtocolError, match="over"):
        episode.reset()
    with model.episode() as following:
        assert following.number == 2
        connection.close()


@pytest.mark.parametrize(
    "options", [{"observation_hz": 0}, {"dry": "panic"}, {"merge": "mix"}], ids=str
)
def test_options_that_are_none(options: Any, model: Model) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        model.episode(**options)
    model.episode().close()


def test_a_refusal_of_a_later_one_leaves_the_earlier_answer_of_use(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        now = time.monotonic_ns()
        first = ask(appliance, episode, now)
        second = ask(appliance, episode, now + STEP_MS * MS)
        appliance.reply(second, Outcome.SUPERSEDED)
        answer(appliance, first)
        connection._link.wait(lambda: len(model._channel.answers) == 2, 10_000)
        assert episode.action(now + 2 * STEP_MS * MS).ok
        assert (episode.counts.chunks, episode.counts.stale) == (1, 0)


def test_observing_late_in_a_tick_leaves_its_row(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("slow", step_period_ms=10)
    with model.episode(observation_hz=10) as episode:
        tick = time.monotonic_ns()
        received = ask(appliance, episode, tick)
        while time.monotonic_ns() < tick + 30 * MS:  # reading the camera takes three steps
            pass
        answer(appliance, received, step_period_us=10_000)
        hear(connection, model)
        episode.observe(tick + MS, state=np.zeros(3, np.float32))
        acted = episode.action(tick)
        assert acted.action is not None
        assert acted.action.tolist() == [0]


@pytest.mark.parametrize("hz", [10, None])
@pytest.mark.parametrize("outcome", [Outcome.INFEASIBLE, Outcome.UNKNOWN_MODEL])
def test_refusals_are_no_reason_to_flood(
    hz: float | None,
    outcome: Outcome,
    appliance: FakeAppliance,
    connection: Connection,
    model: Model,
) -> None:
    with model.episode(observation_hz=hz) as episode:
        start = time.monotonic_ns()
        asked = 0
        for number in range(100):  # two seconds
            instant = start + number * STEP_MS * MS
            if episode.due(instant):
                asked += 1
                appliance.reply(ask(appliance, episode, instant), outcome)
                hear(connection, model)
        assert 15 <= asked <= 21


def test_captures_that_are_old_do_not_flood(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(observation_hz=10) as episode:
        start = time.monotonic_ns() + 1000 * MS
        asked = 0
        for number in range(100):
            instant = start + number * STEP_MS * MS
            if episode.due(instant):
                asked += 1
                rows = np.zeros((32, 1), np.float32)
                received = ask(appliance, episode, instant - 150 * MS)
                answer(appliance, received, tensors={"actions": rows}, horizon=32)
                hear(connection, model)
        assert asked <= 21


def test_a_lost_answer_is_not_waited_for_long(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        start = time.monotonic_ns()
        ask(appliance, episode, start)  # never answered
        assert not episode.due(start + 500 * MS)
        assert episode.due(start + 1500 * MS)


def test_one_slow_answer_is_soon_forgotten(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode() as episode:
        episode._latencies_ns.extend([40 * MS] * 4 + [2000 * MS] + [40 * MS] * 2)
        assert episode._latency_ns == 40 * MS


def test_another_clock_is_refused(model: Model) -> None:
    with model.episode() as episode, pytest.raises(ValueError, match="monotonic"):
        episode.observe(time.time_ns() + 10**18, state=np.zeros(3, np.float32))


def test_zero_is_zero_whatever_was_before(
    appliance: FakeAppliance, connection: Connection, model: Model
) -> None:
    with model.episode(dry="zero") as episode:
        now = time.monotonic_ns()
        answer(appliance, ask(appliance, episode, now), np.nan)
        hear(connection, model)
        episode.action(now)
        step = episode.action(now + HORIZON * STEP_MS * MS)
        assert step.action is not None
        assert step.action.tolist() == [0]
