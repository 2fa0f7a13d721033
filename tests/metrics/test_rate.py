import pytest

from appliance.metrics.rate import WINDOW_NS, RateMeter

SECOND = 1_000_000_000


def test_before_any_time_has_passed_it_is_zero() -> None:
    assert RateMeter(5).read(5, 100) == 0.0


def test_it_is_over_what_there_is_at_first() -> None:
    assert RateMeter(0).read(2 * SECOND, 30) == 15.0


def test_it_forgets_what_is_older_than_the_window() -> None:
    meter = RateMeter(0)
    total = 0
    for second in range(1, 31):
        total += 100 if second <= 15 else 7
        rate = meter.read(second * SECOND, total)
    assert rate == pytest.approx(7.0)


def test_many_reads_do_not_grow_it() -> None:
    meter = RateMeter(0)
    for tick in range(100_000):
        meter.read(tick * SECOND // 1000, tick)
    assert len(meter._samples) <= WINDOW_NS // SECOND + 2


def test_asked_seldom_it_looks_back_to_the_last_time() -> None:
    meter = RateMeter(0)
    meter.read(100 * SECOND, 1000)
    assert meter.read(200 * SECOND, 1500) == 5.0
