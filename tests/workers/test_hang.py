from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.workers.hang import HangBound

MS = 1_000_000
times = st.integers(0, 10_000 * MS)


def test_the_floor_holds_for_models_that_were_not_seen() -> None:
    assert HangBound(floor_ns=2000 * MS, factor=10).bound_ns(3) == 2000 * MS


def test_warm_up_counts_for_its_own_model() -> None:
    hang = HangBound(floor_ns=2000 * MS, factor=10)
    hang.warmed_up(0, [100 * MS, 700 * MS, 600 * MS])
    hang.warmed_up(1, [])
    assert hang.bound_ns(0) == 7000 * MS
    assert hang.bound_ns(1) == 2000 * MS


@given(st.lists(times, min_size=1), st.floats(1, 100))
def test_the_batch_just_seen_is_far_from_hung(took: list[int], factor: float) -> None:
    hang = HangBound(floor_ns=1, factor=factor)
    for batch in took:
        hang.finished(0, batch)
        assert hang.bound_ns(0) >= int(factor * batch)
    assert hang.bound_ns(0) <= max(1, int(factor * max(took)))


def test_an_outlier_fades() -> None:
    hang = HangBound(floor_ns=MS, factor=10)
    hang.finished(0, 10_000 * MS)
    for _ in range(178):
        hang.finished(0, MS)
    assert 40_000 * MS < hang.bound_ns(0) < 50_000 * MS
    for _ in range(5000):
        hang.finished(0, MS)
    assert hang.bound_ns(0) == 10 * MS
