"""How far clocks are held down, out of readings."""

from __future__ import annotations

import math

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.clocks import Clocks
from appliance.health.reading import DeviceHealth

BUSY = DeviceHealth(
    device="cuda:0", source="nvml", is_idle=False, clock_mhz=1800.0, max_clock_mhz=2000.0
)
HOT = evolve(BUSY, clock_mhz=1200.0, holds=("thermal",))


def test_it_is_compared_with_the_clock_that_it_had_when_it_was_busy_and_free() -> None:
    clocks = Clocks()
    assert clocks.read(BUSY) == 1.0
    assert clocks.read(HOT) == pytest.approx(1.5)
    assert clocks.read(evolve(HOT, clock_mhz=900.0)) == pytest.approx(2.0)
    assert clocks.read(BUSY) == 1.0


def test_one_that_was_never_seen_free_is_compared_with_the_most_it_can_have() -> None:
    assert Clocks().read(HOT) == pytest.approx(2000 / 1200)


def test_a_low_clock_that_nothing_holds_down_is_none() -> None:
    clocks = Clocks()
    clocks.read(BUSY)
    assert clocks.read(evolve(BUSY, clock_mhz=210.0, is_idle=True)) == 1.0
    assert clocks.read(evolve(BUSY, clock_mhz=900.0)) == 1.0
    assert clocks.read(HOT) == pytest.approx(1.5, rel=0.03)  # one low reading hardly counts


def test_an_idle_device_that_is_held_down_is_as_slow_as_it_was() -> None:
    clocks = Clocks()
    clocks.read(BUSY)
    idle = evolve(HOT, clock_mhz=210.0, is_idle=True)
    assert clocks.read(idle) == 1.0
    clocks.read(HOT)
    assert clocks.read(idle) == pytest.approx(1.5)


def test_a_clock_that_is_a_little_low_is_how_clocks_are() -> None:
    clocks = Clocks()
    clocks.read(BUSY)
    assert clocks.read(evolve(HOT, clock_mhz=1750.0, holds=("power",))) == 1.0


def test_where_nothing_can_be_read_nothing_is_held_down() -> None:
    clocks = Clocks()
    clocks.read(BUSY)
    clocks.read(HOT)
    assert clocks.read(evolve(HOT, error="gone")) == 1.0


@given(
    st.lists(
        st.builds(
            lambda **fields: evolve(BUSY, **fields),
            clock_mhz=st.none() | st.floats(0, 1e5),
            max_clock_mhz=st.none() | st.floats(0, 1e5),
            is_idle=st.booleans(),
            holds=st.sampled_from([(), ("thermal",), ("power", "hardware")]),
            error=st.sampled_from(["", "gone"]),
        )
    )
)
def test_it_is_always_a_number_of_one_or_more(readings: list[DeviceHealth]) -> None:
    clocks = Clocks()
    for reading in readings:
        assert 1.0 <= clocks.read(reading) <= math.inf
        if reading.error or not reading.holds:
            assert clocks.slowdown == 1.0
