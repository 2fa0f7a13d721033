"""The gate: what is let in, with what, and in which order things are refused."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from appliance.admission import admission as gate
from appliance.admission.admission import Admission, Admitted
from appliance.admission.catalog import Catalog, Served
from appliance.config import (
    ClientPolicy,
    Clients,
    Config,
    KnownClient,
    RateLimits,
    Scheduling,
    Transport,
)
from appliance.errors import Outcome, Rejected
from appliance.wire.spec import FREE, InputSpec, ModelSpec, with_hash
from appliance.wire.types import DType, Keep, Lateness, Observation, Tensor

MS = 1_000_000
NOW_NS = 10**12
INPUT = InputSpec("x", "joints", DType.UINT8, (FREE,), (FREE,))
SPEC = with_hash(ModelSpec("policy", "3", (INPUT,), ()))
RECURRENT = with_hash(evolve(SPEC, model_id="memory", state_bytes=(64,)))
OBSERVATION = Observation(
    model_id="policy", tensors=(Tensor("joints", DType.UINT8, (4,), 0, 4),), wants_status=True
)
PAYLOAD = memoryview(bytes(4))


def admission(planned_ns: int = MS, **config: Any) -> Admission:
    catalog = Catalog(
        {
            spec.model_id: Served(spec.model_id, "3", spec=spec, workers={"cpu-0"})
            for spec in (SPEC, RECURRENT)
        }
    )
    return Admission(Config(**config), catalog, lambda name, version: planned_ns)


def admit(
    admission: Admission,
    client: str = "arm",
    payload: memoryview = PAYLOAD,
    now_ns: int = NOW_NS,
    **said: Any,
) -> Admitted:
    return admission.admit(evolve(OBSERVATION, **said), payload, client, now_ns)


def refused(admission: Admission, **given: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        admit(admission, **given)
    return caught.value


def test_an_observation_is_enriched_from_the_defaults() -> None:
    defaults = ClientPolicy(tier=2, priority=7, latency_budget_ms=30)
    admitted = admit(
        admission(clients=Clients(defaults=defaults), scheduling=Scheduling(request_ttl_ms=700))
    )
    assert admitted.spec is SPEC
    assert admitted.policy == defaults
    assert admitted.priority == 7
    assert admitted.shapes == ((4,),)
    assert admitted.deadline.deadline_ns == NOW_NS + 30 * MS
    assert admitted.expires_ns == NOW_NS + 700 * MS
    assert (admitted.deadline.firm, admitted.deadline.dry) == (False, False)


def test_the_wires_priority_is_taken_its_tier_does_not_exist() -> None:
    admitted = admit(admission(), priority=3)
    assert (admitted.priority, admitted.policy.tier) == (3, 1)


def test_a_known_client_has_its_own_policy_and_the_rest_from_the_defaults() -> None:
    clients = Clients(
        defaults=ClientPolicy(latency_budget_ms=30, max_queue=5),
        known=(KnownClient(id="arm", tier=0, lateness="firm"),),
    )
    gate = admission(clients=clients)
    arm = admit(gate)
    assert (arm.policy.tier, arm.policy.max_queue, arm.deadline.firm) == (0, 5, True)
    assert admit(gate, client="base").policy == clients.defaults


def test_an_unknown_client_is_forbidden_where_only_known_ones_may_come() -> None:
    gate = admission(clients=Clients(known=(KnownClient(id="arm"),), accept_unknown=False))
    admit(gate, client="arm")
    for _ in range(2):
        error = refused(gate, client="stranger")
        assert error.outcome is Outcome.FORBIDDEN
        assert "'stranger'" in error.message


def test_policies_of_ever_new_clients_are_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REMEMBERED", 10)
    busy = admission()
    for number in range(100):
        busy.policy(f"client {number}")
        assert len(busy._policies) <= 10


def test_a_draining_appliance_refuses_before_anything_else() -> None:
    gate = admission(clients=Clients(accept_unknown=False))
    gate.draining = True
    assert refused(gate, model_id="nobody").outcome is Outcome.DRAINING


def test_a_payload_over_the_limit_is_too_large() -> None:
    gate = admission(transport=Transport(max_message_bytes=1024))
    payload = memoryview(bytes(1025))
    tensor = Tensor("joints", DType.UINT8, (1025,), 0, 1025)
    error = refused(gate, payload=payload, tensors=(tensor,))
    assert (error.outcome, error.message) == (
        Outcome.TOO_LARGE,
        "payload: at most 1024 bytes, came 1025",
    )
    admit(gate, payload=payload[:1024], tensors=(evolve(tensor, shape=(1024,), length=1024),))


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"model_id": "polcy"}, Outcome.UNKNOWN_MODEL),
        ({"model_version": "2"}, Outcome.UNKNOWN_MODEL),
        ({"spec_hash": "0123456789abcdef"}, Outcome.INVALID),
        ({"tensors": ()}, Outcome.INVALID),
    ],
)
def test_what_does_not_fit_the_model_is_refused(said: dict[str, Any], outcome: Outcome) -> None:
    assert refused(admission(), **said).outcome is outcome


def test_a_client_built_for_this_very_spec_is_let_in() -> None:
    admit(admission(), spec_hash=SPEC.hash, model_version="3")


def test_an_invalid_observation_takes_no_token() -> None:
    gate = admission(rate_limits=RateLimits(per_client_hz=1))
    for _ in range(5):
        refused(gate, tensors=())
    admit(gate)
    error = refused(gate)
    assert (error.outcome, error.retry_after_ns) == (Outcome.RATE_LIMITED, 1000 * MS)


def test_a_known_clients_rate_binds_it_alone() -> None:
    gate = admission(clients=Clients(known=(KnownClient(id="arm", max_rate_hz=1),)))
    admit(gate)
    assert refused(gate).outcome is Outcome.RATE_LIMITED
    for _ in range(10):
        admit(gate, client="base")
    admit(gate, now_ns=NOW_NS + 1000 * MS)


@pytest.mark.parametrize("configured", ["latest", "all"])
@pytest.mark.parametrize("said", [Keep.DEFAULT, Keep.LATEST, Keep.ALL])
def test_the_wire_says_what_to_keep_and_the_configuration_where_it_does_not(
    configured: Any, said: Keep
) -> None:
    gate = admission(clients=Clients(defaults=ClientPolicy(keep=configured)))
    expected = said is Keep.LATEST or (said is Keep.DEFAULT and configured == "latest")
    assert admit(gate, keep=said).keep_latest is expected


@pytest.mark.parametrize(
    ("clients", "limits", "expected_ms"),
    [
        ({}, {}, 40),
        ({}, {"per_client_hz": 10.0}, 100),
        ({"max_rate_hz": 20.0}, {"per_client_hz": 10.0}, 50),
        ({"max_rate_hz": 50.0}, {}, 40),
    ],
)
def test_a_declared_period_is_no_shorter_than_its_own_rate_or_that_of_everybody(
    clients: dict[str, float], limits: dict[str, float], expected_ms: int
) -> None:
    defaults = Clients(defaults=ClientPolicy(**clients))  # type: ignore[arg-type]
    gate = admission(clients=defaults, rate_limits=RateLimits(**limits))  # type: ignore[arg-type]
    assert admit(gate, observation_period_us=40_000).period_ns == expected_ms * MS


def test_a_recurrent_model_misses_no_step() -> None:
    assert admit(admission(), model_id="memory", keep=Keep.LATEST).keep_latest is False


def test_firm_is_only_what_an_idle_box_could_do() -> None:
    said = {"lateness": Lateness.FIRM, "latency_budget_us": 20_000}
    assert admit(admission(planned_ns=20 * MS), **said).deadline.firm
    assert not admit(admission(planned_ns=21 * MS), **said).deadline.firm


def test_absurd_clocks_are_bounded_by_the_time_to_live() -> None:
    gate = admission(scheduling=Scheduling(request_ttl_ms=100))
    assert admit(gate, age_us=86_400_000_000).deadline.deadline_ns == NOW_NS - 100 * MS
    assert admit(gate, latency_budget_us=10**10).deadline.deadline_ns == NOW_NS + 100 * MS


def test_what_was_found_for_one_observation_holds_for_its_like_until_something_changes() -> None:
    gate = admission()
    found = admit(gate)
    assert gate.still_admits(found.spec, found.policy, "arm")
    assert not gate.still_admits(evolve(found.spec), found.policy, "arm")
    assert not gate.still_admits(found.spec, evolve(found.policy), "arm")
    assert not gate.still_admits(found.spec, found.policy, "stranger")
    served = gate.catalog.models["policy"]
    served.workers.clear()  # being started again: requests wait
    assert gate.still_admits(found.spec, found.policy, "arm")
    served.error = "broken"
    assert not gate.still_admits(found.spec, found.policy, "arm")
    served.error = ""
    gate.draining = True
    assert not gate.still_admits(found.spec, found.policy, "arm")


def test_a_token_is_taken_by_whoever_may_come() -> None:
    gate = admission(rate_limits=RateLimits(per_client_hz=1.0, burst_s=2.0))
    found = admit(gate)
    assert gate.is_limited(found.spec, found.policy)
    assert gate.may_come(found.spec, found.policy, "arm", NOW_NS)
    assert not gate.may_come(found.spec, found.policy, "arm", NOW_NS)
    assert refused(gate).outcome is Outcome.RATE_LIMITED
    assert gate.may_come(found.spec, found.policy, "other", NOW_NS)
