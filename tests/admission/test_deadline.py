"""When an answer must leave the box."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission.deadline import Deadline, deadline_of
from appliance.config import ClientPolicy
from appliance.wire.types import Lateness, Observation

MS = 1_000_000
ARRIVED_NS = 1_000_000 * MS
LONGEST_NS = 5_000 * MS


def deadline(
    *, policy: ClientPolicy | None = None, planned_ns: int = 10 * MS, **said: object
) -> Deadline:
    return deadline_of(
        Observation(**said),  # type: ignore[arg-type]
        policy or ClientPolicy(),
        arrived_ns=ARRIVED_NS,
        planned_ns=planned_ns,
        longest_ns=LONGEST_NS,
    )


def left_ms(found: Deadline) -> float:
    return (found.deadline_ns - ARRIVED_NS) / MS


def test_a_client_that_says_nothing_has_its_configured_budget_from_arrival() -> None:
    assert left_ms(deadline()) == 50
    assert left_ms(deadline(policy=ClientPolicy(latency_budget_ms=12.5))) == 12.5


def test_age_and_round_trip_are_taken_off_the_budget() -> None:
    found = deadline(latency_budget_us=40_000, age_us=3_000, round_trip_us=4_000)
    assert left_ms(found) == 33


def test_the_robot_runs_out_after_its_steps() -> None:
    assert left_ms(deadline(steps_remaining=3, step_period_us=20_000)) == 60
    found = deadline(steps_remaining=3, step_period_us=20_000, age_us=5_000, round_trip_us=2_000)
    assert left_ms(found) == 53


@pytest.mark.parametrize(("budget_us", "expected_ms"), [(40_000, 40), (100_000, 60)])
def test_the_smaller_of_budget_and_steps_counts(budget_us: int, expected_ms: float) -> None:
    found = deadline(latency_budget_us=budget_us, steps_remaining=3, step_period_us=20_000)
    assert left_ms(found) == expected_ms


@pytest.mark.parametrize(
    "said",
    [
        {"steps_remaining": 3},
        {"step_period_us": 20_000},
        {"steps_remaining": 3, "step_period_us": 0},
        {"latency_budget_us": 0},
    ],
)
def test_half_of_a_statement_is_none(said: dict[str, int]) -> None:
    assert left_ms(deadline(**said)) == 50


@pytest.mark.parametrize(
    ("said", "expected_ms"),
    [
        ({"age_us": 86_400_000_000}, -5000),
        ({"round_trip_us": 86_400_000_000}, -5000),
        ({"latency_budget_us": 86_400_000_000}, 5000),
        ({"steps_remaining": 2**32 - 1, "step_period_us": 86_400_000_000}, 5000),
    ],
)
def test_absurd_values_are_clamped(said: dict[str, int], expected_ms: float) -> None:
    found = deadline(lateness=Lateness.FIRM, **said)
    assert left_ms(found) == expected_ms
    assert found.firm == (expected_ms > 0)


@pytest.mark.parametrize("period", [{}, {"step_period_us": 20_000}])
def test_a_robot_without_steps_left_is_dry_and_never_firm(period: dict[str, int]) -> None:
    found = deadline(steps_remaining=0, lateness=Lateness.FIRM, **period)
    assert (found.dry, found.firm) == (True, False)


@pytest.mark.parametrize(
    ("planned_ms", "dry"), [(18, False), (18.001, True), (30, True), (1, False)]
)
def test_a_robot_that_runs_out_before_any_answer_could_come_is_dry(
    planned_ms: float, *, dry: bool
) -> None:
    found = deadline(
        steps_remaining=1,
        step_period_us=20_000,
        age_us=2_000,
        planned_ns=round(planned_ms * MS),
        lateness=Lateness.FIRM,
    )
    assert (found.dry, found.firm) == (dry, not dry)


def test_a_robot_with_a_short_budget_and_many_steps_is_not_dry() -> None:
    found = deadline(
        latency_budget_us=1_000, steps_remaining=50, step_period_us=20_000, lateness=Lateness.FIRM
    )
    assert (found.dry, found.firm) == (False, False)


@pytest.mark.parametrize("configured", ["firm", "soft"])
@pytest.mark.parametrize("said", [Lateness.DEFAULT, Lateness.FIRM, Lateness.SOFT])
def test_the_wire_says_firm_or_soft_and_the_configuration_where_it_does_not(
    configured: str, said: Lateness
) -> None:
    policy = ClientPolicy(lateness=configured)  # type: ignore[arg-type]
    firm = said is Lateness.FIRM or (said is Lateness.DEFAULT and configured == "firm")
    assert deadline(policy=policy, lateness=said).firm is firm


@pytest.mark.parametrize(("planned_ms", "firm"), [(50, True), (50.001, False)])
def test_a_deadline_no_idle_box_could_meet_is_soft(planned_ms: float, *, firm: bool) -> None:
    found = deadline(lateness=Lateness.FIRM, planned_ns=round(planned_ms * MS))
    assert found.firm is firm


day_us = st.integers(0, 86_400_000_000)


@given(
    st.builds(
        Observation,
        age_us=day_us,
        round_trip_us=st.none() | day_us,
        latency_budget_us=st.none() | day_us,
        steps_remaining=st.none() | st.integers(0, 2**32 - 1),
        step_period_us=st.none() | day_us,
        lateness=st.sampled_from(Lateness),
    ),
    st.integers(0, 10**10),
)
def test_whatever_is_said_the_deadline_is_near_and_its_kind_is_one(
    observation: Observation, planned_ns: int
) -> None:
    found = deadline_of(
        observation,
        ClientPolicy(),
        arrived_ns=ARRIVED_NS,
        planned_ns=planned_ns,
        longest_ns=LONGEST_NS,
    )
    assert abs(found.deadline_ns - ARRIVED_NS) <= LONGEST_NS
    assert not (found.firm and found.dry)
    assert not found.firm or found.deadline_ns >= ARRIVED_NS + planned_ns
