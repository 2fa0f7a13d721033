"""How a worker waits for a device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.engines.overlap import LISTEN_AT_LEAST_NS, NEAR_NS, listen_ns

MS = 1_000_000


@given(st.integers(1 * MS, 1000 * MS), st.integers(0, 1000 * MS))
def test_a_batch_that_is_done_is_noticed_soon(expected_ns: int, takes_ns: int) -> None:
    elapsed_ns = 0
    while elapsed_ns < takes_ns and (sleep_ns := listen_ns(expected_ns, elapsed_ns)):
        elapsed_ns += sleep_ns
    noticed_ns = max(elapsed_ns, takes_ns)  # from then on the device itself is waited for
    assert noticed_ns <= takes_ns * 9 / 8 + LISTEN_AT_LEAST_NS


def test_near_its_end_only_the_device_is_waited_for() -> None:
    assert listen_ns(10 * MS, 10 * MS - NEAR_NS) == 0
    assert listen_ns(10 * MS, 20 * MS) == 0
    assert listen_ns(10 * MS, 0) == LISTEN_AT_LEAST_NS
