"""When to observe: the instants, and how advice moves them."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import trio
from fake_appliance import PATIENCE_MS, FakeAppliance
from hypothesis import given
from hypothesis import strategies as st
from test_client_trio import arrival, connected

from appliance import AsyncConnection
from appliance.client.cadence import Cadence, period_ns_of
from appliance.client.connection import Connection
from appliance.client.ticks import SECOND_NS, Tick
from appliance.errors import LocalProtocolError, Outcome

MS = 1_000_000
PERIOD_NS = 100 * MS


def due_ms(cadence: Cadence) -> float:
    return cadence.due_ns(0) / MS


def begun(at_ms: int = 0) -> Cadence:
    cadence = Cadence(PERIOD_NS)
    cadence.observed(at_ms * MS)
    return cadence


# ----------------------------------------------------------------------------------- instants


def test_the_first_instant_is_any_and_the_others_follow_whatever_the_jitter() -> None:
    cadence = Cadence(PERIOD_NS)
    assert cadence.due_ns(7 * MS) == 7 * MS
    for number, jitter_ms in enumerate((0, 99, -99, 3)):
        cadence.observed((1000 + 100 * number + jitter_ms) * MS)
        assert due_ms(cadence) == 1100 + 100 * number


@pytest.mark.parametrize("off_ms", [100, -100, 10_000])
def test_a_pause_begins_a_new_grid_and_forgets_advice(off_ms: int) -> None:
    cadence = begun()
    moved_ns = cadence.asked(1)
    cadence.answered(1, moved_ns, 30_000)
    cadence.asked(2)
    cadence.observed((130 + off_ms) * MS)
    assert due_ms(cadence) == 230 + off_ms
    cadence.answered(2, moved_ns, 40_000)  # on what was observed before the pause
    assert due_ms(cadence) == 230 + off_ms


@given(
    period_ns=st.integers(1_000, 10 * SECOND_NS),
    turns=st.lists(
        st.tuples(st.integers(0, 30 * SECOND_NS), st.integers(-(2**63), 2**63 - 1)), max_size=30
    ),
)
def test_every_instant_is_begun_or_missed_and_none_comes_in_a_burst(
    period_ns: int, turns: list[tuple[int, int]]
) -> None:
    cadence = Cadence(period_ns)
    now_ns, number, before_ns = 0, 0, -period_ns
    for sequence, (spent_ns, advice_us) in enumerate(turns, start=1):
        now_ns = max(now_ns + spent_ns, cadence.due_ns(now_ns))
        tick = cadence.begin(now_ns)
        assert tick.number == number + tick.missed
        assert tick.late_ns == now_ns - tick.time_ns
        assert 0 <= tick.late_ns < period_ns
        assert tick.time_ns - before_ns >= period_ns - period_ns // 2
        number, before_ns = tick.number + 1, tick.time_ns
        cadence.answered(sequence, cadence.asked(sequence), advice_us)


def test_a_late_loop_skips_what_it_missed_with_the_advice_for_it() -> None:
    cadence = Cadence(PERIOD_NS)
    assert cadence.begin(0) == Tick(0, 0)
    cadence.answered(1, cadence.asked(1), 20_000)
    assert cadence.begin(350 * MS) == Tick(300 * MS, 3, 50 * MS, 2)
    assert due_ms(cadence) == 400


# ------------------------------------------------------------------------------------- advice


def test_advice_moves_the_next_instant_and_those_after_it() -> None:
    cadence = begun()
    cadence.answered(1, cadence.asked(1), 30_000)
    assert due_ms(cadence) == 130
    cadence.observed(130 * MS)
    assert due_ms(cadence) == 230


@pytest.mark.parametrize(("advice_us", "expected_ms"), [(10**9, 150), (-(10**9), 50)])
def test_half_a_period_in_a_cycle_is_the_most(advice_us: int, expected_ms: int) -> None:
    cadence = begun()
    for sequence in (1, 2, 3):
        cadence.answered(sequence, cadence.asked(sequence), advice_us)
        assert due_ms(cadence) == expected_ms


def test_what_is_smaller_than_a_tick_adds_up() -> None:
    cadence = Cadence(PERIOD_NS)
    for sequence in range(1, 11):
        cadence.observed(cadence.due_ns(0))
        cadence.answered(sequence, cadence.asked(sequence), -3_000)
    assert due_ms(cadence) == 1000 - 10 * 3


def test_answers_slower_than_the_period_are_not_followed_twice() -> None:
    """Three are under way when the first is answered: all three say the same."""
    cadence = Cadence(PERIOD_NS)
    moved_ns: list[int] = []
    for sequence in (1, 2, 3):
        cadence.observed(cadence.due_ns(0))
        moved_ns.append(cadence.asked(sequence))
    cadence.answered(1, moved_ns[0], 30_000)
    cadence.observed(330 * MS)
    for sequence in (2, 3):
        cadence.answered(sequence, moved_ns[sequence - 1], 30_000)
        assert due_ms(cadence) == 430


def test_the_newest_observation_is_believed() -> None:
    cadence = begun()
    first, second = cadence.asked(1), cadence.asked(2)
    cadence.answered(2, second, 5_000)
    cadence.answered(1, first, -20_000)
    assert due_ms(cadence) == 105


def test_no_advice_takes_none_back() -> None:
    cadence = begun()
    cadence.answered(1, cadence.asked(1), 30_000)
    cadence.answered(2, cadence.asked(2), 0)
    assert due_ms(cadence) == 130


def test_what_was_asked_before_it_began_says_nothing() -> None:
    cadence = Cadence(PERIOD_NS, latest=7)
    cadence.observed(0)
    cadence.answered(7, 0, 30_000)
    assert due_ms(cadence) == 100


@pytest.mark.parametrize("hz", [0, -1, float("nan"), float("inf"), 2e6, 1e-6, "10", None, 1j])
def test_rates_that_are_none(hz: Any, connection: Connection) -> None:
    model = connection.model("p")
    with pytest.raises(ValueError, match=r"^hz .* observations a second are expected"):
        model.pace(hz)
    with pytest.raises(ValueError, match=r"^rate .* observations a second are expected"):
        period_ns_of("rate", hz)


def test_rates_of_any_kind() -> None:
    assert [period_ns_of("hz", hz) for hz in (10, 1e6, np.float32(4), 1 / 86_400)] == [
        PERIOD_NS,
        1000,
        250 * MS,
        86_400 * SECOND_NS,
    ]


# --------------------------------------------------------------------------------------- pace


def test_a_loop_keeps_its_pace_and_says_its_period(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p")
    began_ns = time.monotonic_ns()
    ticks: list[Tick] = []
    for tick in model.pace(hz=100):
        model.observe(state=np.zeros(3, np.float32))
        received = appliance.receive()
        assert received.observation.observation_period_us == 10_000
        appliance.reply(received)
        ticks.append(tick)
        if tick.number >= 4:
            break
    assert time.monotonic_ns() - began_ns >= 4 * 10 * MS
    for tick in ticks:
        assert tick.time_ns == ticks[0].time_ns + tick.number * 10 * MS
        assert 0 <= tick.late_ns < 10 * MS
    model.observe(state=np.zeros(3, np.float32))  # the loop is over
    assert appliance.receive().observation.observation_period_us is None


def test_advice_moves_the_pace_also_when_it_comes_while_waiting(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p")
    pace = model.pace(hz=20)
    first = next(pace)
    for sequence, advice_us in enumerate((5_000, -10_000, 40_000), start=1):
        model.observe(state=np.zeros(3, np.float32))
        appliance.reply(appliance.receive(), phase_advice_us=advice_us)
        second = next(pace)  # which hears of it
        if not second.missed:  # else this machine was too slow for it
            moved_ns = second.time_ns - first.time_ns - 50 * MS
            assert moved_ns == max(-25 * MS, min(25 * MS, advice_us * 1000)), sequence
        first = second


def test_advice_of_the_last_moment_is_followed(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p")
    pace = model.pace(hz=20)
    first = next(pace)
    model.observe(state=np.zeros(3, np.float32))
    appliance.reply(appliance.receive(), phase_advice_us=25_000)
    while time.monotonic_ns() < first.time_ns + 50 * MS:
        pass  # a turn that takes until the next instant, and hears nothing
    second = next(pace)
    assert time.monotonic_ns() >= second.time_ns >= first.time_ns + 75 * MS
    assert second.late_ns >= 0


def test_a_lost_appliance_leaves_no_advice(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p")
    pace = model.pace(hz=1)
    first = next(pace)
    model.observe(state=np.zeros(3, np.float32))
    appliance.reply(appliance.receive(), Outcome.SUPERSEDED, phase_advice_us=-400_000)
    assert model.wait(PATIENCE_MS) is not None
    cadence = pace._cadence
    assert cadence.due_ns(0) == first.time_ns + 600 * MS
    appliance.stop()
    connection._link.wait(lambda: cadence.due_ns(0) == first.time_ns + 1000 * MS, PATIENCE_MS)
    assert cadence.due_ns(0) == first.time_ns + 1000 * MS


def test_a_period_that_was_given_is_told_whatever_the_pace(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p", observation_period_ms=40)
    for _ in model.pace(hz=100):
        model.observe(state=np.zeros(3, np.float32))
        assert appliance.receive().observation.observation_period_us == 40_000
        break


def test_an_episode_has_a_due_of_its_own(appliance: FakeAppliance, connection: Connection) -> None:
    model = connection.model("p")
    pace = model.pace(hz=100)
    with model.episode() as episode:
        episode.observe(state=np.zeros(3, np.float32))
        assert appliance.receive().observation.observation_period_us is None
        with pytest.raises(LocalProtocolError, match="observation_hz"):
            model.pace(hz=10)
    del pace


async def test_trio_keeps_a_pace(appliance: FakeAppliance, state: Any) -> None:
    async with connected(appliance) as connection:
        model = connection.model("p")
        ticks: list[Tick] = []
        async for tick in model.pace(hz=50):
            await model.observe(state=state)
            received = await arrival(appliance)
            assert received.observation.observation_period_us == 20_000
            appliance.reply(received, phase_advice_us=4_000)
            assert await model.wait(PATIENCE_MS) is not None
            ticks.append(tick)
            if tick.number >= 3:
                break
    for before, after in pairwise(ticks):
        expected_ns = (20 + 4) * MS if not after.missed else 20 * MS * (1 + after.missed)
        assert after.time_ns - before.time_ns == expected_ns


async def test_others_have_their_turn_beside_a_loop_that_is_late(
    appliance: FakeAppliance,
) -> None:
    async with connected(appliance) as connection:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            pace = connection.model("p").pace(hz=1e6)
            for _ in range(100):
                await anext(pace)
            nursery.cancel_scope.cancel()
        assert turns >= 50


def test_asyncio_keeps_a_pace_that_advice_shortens_while_it_waits(
    appliance: FakeAppliance, state: Any
) -> None:
    async def main() -> None:
        async with AsyncConnection(appliance.address, reconnect_ivl_ms=10) as connection:
            await connection._link.wait_async(lambda: connection._link.up, PATIENCE_MS)
            model = connection.model("p")
            pace = model.pace(hz=0.5)
            first = await anext(pace)
            await model.observe(state=state)
            received = await appliance.arrival()
            following = asyncio.ensure_future(anext(pace))
            while not connection._link._waiters:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0)
            appliance.reply(received, phase_advice_us=-1_000_000)
            second = await following
            assert second.time_ns - first.time_ns == SECOND_NS
            assert second.late_ns < 900 * MS

    asyncio.run(asyncio.wait_for(main(), PATIENCE_MS / 1000))
