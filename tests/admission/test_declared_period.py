"""How often a robot observes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission.cadence import (
    LONGEST_US,
    SECOND_NS,
    SHORTEST_US,
    period_of,
    shortest_period_ns,
)

MS = 1_000_000


@pytest.mark.parametrize(
    ("declared_us", "expected_ms"),
    [
        (None, 0),
        (0, 0),
        (999, 0),
        (1_000, 1),
        (33_333, 33.333),
        (60_000_000, 60_000),
        (60_000_001, 0),
    ],
)
def test_what_is_not_said_or_absurd_is_not_known(
    declared_us: int | None, expected_ms: float
) -> None:
    assert period_of(declared_us, 0) == round(expected_ms * MS)


@pytest.mark.parametrize(
    ("rate_hz", "expected_ms"), [(0.0, 100), (5.0, 200), (10.0, 100), (50.0, 100), (0.001, 1e6)]
)
def test_nobody_comes_more_often_than_it_may(rate_hz: float, expected_ms: float) -> None:
    assert period_of(100_000, shortest_period_ns(rate_hz)) == round(expected_ms * MS)


@given(st.integers(SHORTEST_US, LONGEST_US), st.just(0.0) | st.floats(1e-3, 1e9))
def test_a_declared_period_is_kept_within_the_rate(declared_us: int, rate_hz: float) -> None:
    period_ns = period_of(declared_us, shortest_period_ns(rate_hz))
    assert period_ns >= declared_us * 1000
    assert period_ns * rate_hz >= SECOND_NS * (1 - 1e-9) or not rate_hz
    assert period_ns in (declared_us * 1000, shortest_period_ns(rate_hz))
