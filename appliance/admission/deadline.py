"""When a robot needs its answer, and what kind of a deadline that is."""

from __future__ import annotations

from appliance.config import ClientPolicy
from appliance.values import value
from appliance.wire.types import Lateness, Observation

MICROSECOND_NS = 1000
_FIRM, _DEFAULT = Lateness.FIRM, Lateness.DEFAULT  # members are slow to find before Python 3.12


@value
class Deadline:
    """When the answer must leave the box, monotonic nanoseconds.

    Attributes:
        firm: Refused rather than late.
        dry: The robot has no actions left, or will have none before any answer could come.
        runs_out: It is when the robot has none left.
    """

    deadline_ns: int
    firm: bool
    dry: bool
    runs_out: bool = False


def deadline_of(
    observation: Observation,
    policy: ClientPolicy,
    *,
    arrived_ns: int,
    planned_ns: int,
    longest_ns: int,
) -> Deadline:
    """Compute the deadline of an observation.

    deadline = arrival - age - uplink + min(latency budget, steps remaining x step period)
    - downlink, where uplink and downlink are halves of the round trip the client measured.
    A client that says nothing of this has its configured budget, from arrival.

    Args:
        planned_ns: What an idle box needs for one row. A deadline no idle box could meet is soft.
        longest_ns: Bound in both directions from arrival, against absurd clocks.
    """
    budget_us = observation.latency_budget_us or None
    steps, step_us = observation.steps_remaining, observation.step_period_us
    run_out_us: int | None = None
    if steps is not None and step_us:
        run_out_us = steps * step_us
        budget_us = run_out_us if budget_us is None else min(budget_us, run_out_us)
    elif budget_us is None:
        budget_us = round(policy.latency_budget_ms * 1000)
    used_us = observation.age_us + (observation.round_trip_us or 0)
    left_ns = (budget_us - used_us) * MICROSECOND_NS
    if not -longest_ns <= left_ns <= longest_ns:
        left_ns = max(-longest_ns, min(left_ns, longest_ns))

    run_out_ns = None if run_out_us is None else (run_out_us - used_us) * MICROSECOND_NS
    dry = steps == 0 or (run_out_ns is not None and run_out_ns < planned_ns)
    lateness = observation.lateness
    wants_firm = lateness is _FIRM or (lateness is _DEFAULT and policy.lateness == "firm")
    firm = wants_firm and not dry and left_ns >= planned_ns
    return Deadline(arrived_ns + left_ns, firm, dry, budget_us == run_out_us)
