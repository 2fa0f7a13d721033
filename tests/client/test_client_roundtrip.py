from __future__ import annotations

from appliance.client.roundtrip import SMOOTHING, RoundTrip


def test_exact_samples_are_smoothed() -> None:
    round_trip = RoundTrip()
    round_trip.measured(800)
    round_trip.measured(1600)
    assert round_trip.estimate_ns == 900


def test_a_control_loop_that_looks_late_does_not_raise_it_at_once() -> None:
    round_trip = RoundTrip()
    round_trip.measured(800)
    for _ in range(SMOOTHING - 1):
        round_trip.at_most(20_000)
    assert round_trip.estimate_ns == 800


def test_bounds_lower_it_at_once() -> None:
    round_trip = RoundTrip()
    round_trip.at_most(20_000)
    round_trip.at_most(500)
    assert round_trip.estimate_ns == 500


def test_a_network_that_became_slower_is_believed_after_enough_bounds() -> None:
    round_trip = RoundTrip()
    round_trip.at_most(500)
    for extra in range(SMOOTHING):
        round_trip.at_most(9000 - extra)
    assert round_trip.estimate_ns == 9000 - (SMOOTHING - 1)


def test_an_exact_sample_ends_a_row_of_bounds() -> None:
    round_trip = RoundTrip()
    round_trip.at_most(500)
    for _ in range(SMOOTHING - 1):
        round_trip.at_most(9000)
    round_trip.measured(500)
    round_trip.at_most(9000)
    assert round_trip.estimate_ns == 500
