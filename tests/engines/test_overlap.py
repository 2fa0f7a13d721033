"""How a worker waits for a device, and whether it gathers meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.engines.overlap import LISTEN_AT_LEAST_NS, GatherPace, listen_ns, spins

MS = 1_000_000


@given(st.integers(1 * MS, 1000 * MS), st.integers(0, 1000 * MS))
def test_a_batch_that_is_done_is_noticed_soon(expected_ns: int, takes_ns: int) -> None:
    elapsed_ns = 0
    while elapsed_ns < takes_ns and (sleep_ns := listen_ns(expected_ns, elapsed_ns)):
        elapsed_ns += sleep_ns
    noticed_ns = max(elapsed_ns, takes_ns)  # from then on the device itself is waited for
    assert noticed_ns <= takes_ns * 9 / 8 + LISTEN_AT_LEAST_NS


def test_who_spins_and_who_sleeps() -> None:
    assert spins(900_000, 0)
    assert not spins(1_000_000, 0)
    assert not spins(900_000, 20_000_000)  # it may never end
    assert listen_ns(10_000_000, 2_000_000) == 300_000  # it may be done much sooner
    assert listen_ns(10_000_000, 9_500_000) == 250_000
    assert listen_ns(10_000_000, 9_900_000) == 0  # near its end only the device is waited for
    assert listen_ns(10_000_000, 20_000_000) == 0
    assert listen_ns(10_000_000, 0) == LISTEN_AT_LEAST_NS
    assert listen_ns(10_000_000, 9_750_000) == 0


def test_gathering_is_done_where_it_is_over_first() -> None:
    pace = GatherPace()
    assert pace.fits(0, 100, 0)  # not seen yet
    pace.saw(0, 4, 400_000)
    assert pace.fits(0, 4, 400_000)
    assert not pace.fits(0, 4, 399_999)
    assert not pace.fits(0, 5, 400_000)
    for _ in range(30):
        pace.saw(0, 4, 40_000)
    assert pace.fits(0, 4, 45_000)
    assert not pace.fits(0, 1, -1)
