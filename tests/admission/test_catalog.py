"""What is served right now, in words a client can use."""

from __future__ import annotations

import pytest

from appliance.admission.catalog import LISTED, LOADING_RETRY_NS, Catalog, Served
from appliance.errors import Outcome, Rejected
from appliance.wire.spec import ModelSpec

SPEC = ModelSpec("policy", "3", (), ())


def refusal(catalog: Catalog, name: str, version: str = "") -> Rejected:
    with pytest.raises(Rejected) as caught:
        catalog.find(name, version)
    return caught.value


def test_a_model_on_a_worker_is_found() -> None:
    served = Served("policy", "3", spec=SPEC, workers={"cpu-0"})
    assert served.state == "ready"
    catalog = Catalog({"policy": served})
    assert catalog.find("policy", "") is SPEC
    assert catalog.find("policy", "3") is SPEC


@pytest.mark.parametrize(("name", "version"), [("polcy", ""), ("policy", "2"), ("", "")])
def test_an_unknown_model_or_version_hears_what_is_served(name: str, version: str) -> None:
    catalog = Catalog({"policy": Served("policy", "3", spec=SPEC, workers={"cpu-0"})})
    error = refusal(catalog, name, version)
    assert error.outcome is Outcome.UNKNOWN_MODEL
    assert repr(name) in error.message
    assert error.message.endswith("served are: policy (version 3)")


def test_nothing_served_is_said() -> None:
    assert refusal(Catalog(), "policy").message.endswith("served are: none")


def test_a_long_list_is_cut() -> None:
    catalog = Catalog({f"m{n}": Served(f"m{n}", "1") for n in range(LISTED + 5)})
    message = refusal(catalog, "policy").message
    assert message.endswith(" and 5 more")
    assert message.count("(version") == LISTED


def test_a_model_that_loads_says_when_to_come_again() -> None:
    served = Served("policy", "3")
    assert served.state == "loading"
    error = refusal(Catalog({"policy": served}), "policy")
    assert (error.outcome, error.retry_after_ns) == (Outcome.LOADING, LOADING_RETRY_NS)


def test_a_model_that_did_not_load_says_why() -> None:
    served = Served("policy", "3", error="model.onnx: not ONNX")
    assert served.state == "failed"
    error = refusal(Catalog({"policy": served}), "policy")
    assert error.outcome is Outcome.ENGINE_FAILED
    assert "model.onnx: not ONNX" in error.message


def test_a_model_that_failed_on_one_worker_and_runs_on_another_is_ready() -> None:
    served = Served("policy", "3", spec=SPEC, error="no memory", workers={"cpu-1"})
    assert Catalog({"policy": served}).find("policy", "") is SPEC


def test_a_model_whose_workers_are_being_restarted_is_found() -> None:
    served = Served("policy", "3", spec=SPEC)
    assert Catalog({"policy": served}).find("policy", "") is SPEC
