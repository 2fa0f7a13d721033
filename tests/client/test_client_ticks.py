"""Ticks lie on absolute instants and count what was missed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.client.connection import Connection
from appliance.client.ticks import SECOND_NS, Tick, Ticker, instant_ns


@given(
    start_ns=st.integers(0, 1 << 60),
    hz=st.floats(0.01, 1e5),
    spent_ns=st.lists(st.integers(0, 3 * SECOND_NS), max_size=30),
)
def test_every_instant_is_begun_or_missed(start_ns: int, hz: float, spent_ns: list[int]) -> None:
    ticker = Ticker(start_ns, hz)
    number = 0
    now_ns = start_ns
    for spent in spent_ns:
        now_ns = max(now_ns + spent, ticker.next_ns)
        tick = ticker.tick(now_ns)
        assert tick.number == number + tick.missed
        assert tick.time_ns == start_ns + round(tick.number * SECOND_NS / hz)
        assert tick.late_ns == now_ns - tick.time_ns >= 0
        assert now_ns < start_ns + round((tick.number + 1) * SECOND_NS / hz) + 1
        number = tick.number + 1


def test_a_loop_in_time_misses_nothing() -> None:
    ticker = Ticker(0, 50)
    ticks = [ticker.tick(ticker.next_ns) for _ in range(1000)]
    assert [tick.time_ns for tick in ticks] == [20_000_000 * number for number in range(1000)]
    assert not any(tick.missed or tick.late_ns for tick in ticks)


def test_a_late_loop_goes_on_with_the_present() -> None:
    ticker = Ticker(0, 50)
    ticker.tick(0)
    tick = ticker.tick(75_000_000)  # ticks 1 and 2 are over
    assert tick == Tick(60_000_000, 3, 15_000_000, 2)
    assert ticker.next_ns == 80_000_000


@pytest.mark.parametrize("hz", [0, -1, float("nan"), 2e6])
def test_a_rate_that_is_none(hz: float) -> None:
    with pytest.raises(ValueError, match="hz"):
        Ticker(0, hz)


def test_an_instant_is_a_tick_or_a_time() -> None:
    assert instant_ns(Tick(5, 1)) == instant_ns(5) == 5


def test_the_loop_waits_for_its_ticks(connection: Connection) -> None:
    began_ns = time.monotonic_ns()
    ticks = [tick for tick, _ in zip(connection.model("p").ticks(hz=200), range(5), strict=False)]
    assert time.monotonic_ns() - began_ns >= 4 * 5_000_000
    for tick in ticks:
        assert tick.time_ns == ticks[0].time_ns + (tick.number - ticks[0].number) * 5_000_000
        assert tick.late_ns >= 0
