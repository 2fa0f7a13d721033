from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from appliance.errors import Outcome
from appliance.metrics.exposition import exposition
from appliance.metrics.ledger import Ledger
from appliance.metrics.openmetrics import Family, render
from appliance.metrics.registry import Metrics
from appliance.metrics.status import Device, Model, Status, Worker


def status(metrics: Metrics, ledger: Ledger, *, models: int = 1, workers: int = 1) -> Status:
    snapshot = metrics.snapshot(0)
    return Status(
        state="ready",
        reasons=[],
        appliance_id="",
        version="0.1.0",
        instance="beef",
        pid=1,
        uptime_s=1.25,
        binds=["tcp://127.0.0.1:5555"],
        requests={
            "asked": 0,
            "answered": 0,
            "in_flight": 0,
            "queued": 0,
            "per_second": 0.0,
            "late": 0,
        },
        outcomes={},
        replies_lost={},
        connections_refused={"no_key": 2, "revoked_key": 1},
        latency_us=snapshot["latency_us"],
        models=[
            Model(
                name=f"model-{number}",
                version="1",
                state="ready",
                error=None,
                workers=["cpu-0"],
                resident=["cpu-0"],
                memory_bytes=7000,
                loads=0,
                evictions=0,
                queued=3,
                rows=0,
                batch_size_mean=1.0,
                latency_us=snapshot["latency_us"],
                outcomes={},
            )
            for number in range(models)
        ],
        workers=[
            Worker(
                slot=f"cpu-{number}",
                generation=1,
                state="ready",
                pid=2,
                models=["model-0"],
                restarts=0,
                last_cause=None,
                rows_started=7,
                rows_finished=6,
                rows_failed=1,
                busy=True,
                resident=["model-0"],
                resident_bytes=7000,
                budget_bytes=0,
                remarks=[],
                rss_bytes=1000,
            )
            for number in range(workers)
        ],
        devices=[],
        clients={"connected": 2, "known": 3, "disconnects": 1, "first_dry": None},
        arena={"bytes": 100, "used": 10, "peak": 20},
        timer_lateness_us=snapshot["timer_lateness_us"],
        ledger=ledger.document(0),
    )


def parse(text: str) -> dict[str, Any]:
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {family.name: family for family in families}


def samples(family: Any) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix(family.name), *sample.labels.values()): sample.value
        for sample in family.samples
    }


@pytest.fixture
def text() -> str:
    metrics, ledger = Metrics(), Ledger()
    recorder = metrics.add_model("policy")
    ledger.add_model("policy")
    for outcome in (Outcome.OK, Outcome.EXPIRED, Outcome.INVALID):
        ledger.asked("policy")
        ledger.ended("policy", outcome, late=True)
    ledger.asked("not served")
    ledger.ended("not served", Outcome.UNKNOWN_MODEL)
    ledger.reply_lost("slow_reader")
    recorder.record(
        queue_us=100, batch_us=20, execute_us=1500, reply_us=40, total_us=2000, slack_us=-30
    )
    recorder.record_batch(1)
    recorder.record_payload(64)
    metrics.count("dispatch_retries", "isolated")
    metrics.timer_lateness.record(74)
    return exposition(metrics.read(0), ledger, status(metrics, ledger))


def test_it_parses_and_every_name_is_prefixed(text: str) -> None:
    families = parse(text)
    assert families
    assert all(name.startswith("appliance_") for name in families)


def test_latencies_are_summaries_in_seconds(text: str) -> None:
    family = parse(text)["appliance_e2e_latency_seconds"]
    assert (family.type, family.unit) == ("summary", "seconds")
    assert samples(family) == {
        ("", "policy", "0.5"): 0.002,
        ("", "policy", "0.9"): 0.002,
        ("", "policy", "0.99"): 0.002,
        ("", "policy", "0.999"): 0.002,
        ("_count", ""): 0.0,
        ("_sum", ""): 0.0,
        ("_count", "policy"): 1.0,
        ("_sum", "policy"): 0.002,
    }


@pytest.mark.parametrize(
    "name",
    [
        "observation_staleness_seconds",
        "scheduling_wait_seconds",
        "inference_latency_seconds",
        "deadline_slack_seconds",
        "deadline_lateness_seconds",
        "payload_size_bytes",
        "batch_size",
        "queue_depth",
        "active_clients",
        "client_disconnected",
        "observation_errors",
        "queue_full_drops",
        "requests_expired",
        "dispatch_errors",
        "send_errors",
    ],
)
def test_names_operators_know_are_there(text: str, name: str) -> None:
    assert f"appliance_{name}" in parse(text)


def test_every_outcome_is_counted_once(text: str) -> None:
    families = parse(text)
    assert samples(families["appliance_outcomes"]) == {
        ("_total", "policy", "OK"): 1,
        ("_total", "policy", "EXPIRED"): 1,
        ("_total", "policy", "INVALID"): 1,
        ("_total", "", "UNKNOWN_MODEL"): 1,
    }
    asked = samples(families["appliance_requests"])
    assert asked == {("_total", ""): 1, ("_total", "policy"): 3}
    assert samples(families["appliance_late_answers"])["_total", "policy"] == 1
    assert samples(families["appliance_requests_expired"])["_total", "policy", "EXPIRED"] == 1
    errors = samples(families["appliance_observation_errors"])
    assert errors["_total", "policy", "INVALID"] == errors["_total", "", "UNKNOWN_MODEL"] == 1
    assert samples(families["appliance_send_errors"]) == {("_total", "slow_reader"): 1}
    assert samples(families["appliance_connections_refused"]) == {
        ("_total", "no_key"): 2,
        ("_total", "revoked_key"): 1,
    }
    assert samples(families["appliance_dispatch_retries"]) == {("_total", "isolated"): 1}


def test_state_and_workers(text: str) -> None:
    families = parse(text)
    state = samples(families["appliance_state"])
    assert {name for (_, name), value in state.items() if value} == {"ready"}
    assert samples(families["appliance_worker_rows"])["_total", "cpu-0", "failed"] == 1
    assert samples(families["appliance_queue_depth"]) == {("", "model-0"): 3}
    assert families["appliance_worker_memory_bytes"].unit == "bytes"


def device(which: str, **changes: Any) -> Device:
    known: dict[str, Any] = {
        "device": which,
        "workers": ["gpu-0"],
        "name": "H200",
        "error": "",
        "holds": ["thermal"],
        "slowdown": 1.25,
        "utilisation_percent": 87.0,
        "clock_mhz": 1755.0,
        "memory_used_bytes": 40 << 30,
        "ecc_uncorrected": 2,
        "xids": 1,
    }
    return cast("Device", dict.fromkeys(Device.__annotations__) | known | changes)


def test_of_gpus_there_is_what_they_tell_in_base_units() -> None:
    metrics, ledger = Metrics(), Ledger()
    document = status(metrics, ledger)
    lost = {"error": "gone", "utilisation_percent": None, "name": ""}
    document["devices"] = [device("cuda:0"), device("cuda:1", **lost)]
    families = parse(exposition(metrics.read(0), ledger, document))

    def value(name: str, **labels: str) -> list[float]:
        return [
            sample.value
            for sample in families[f"appliance_gpu_{name}"].samples
            if labels.items() <= sample.labels.items()
        ]

    assert value("utilisation_ratio") == [0.87]
    assert value("clock_hertz", device="cuda:0") == [1_755_000_000]
    assert value("memory_used_bytes", device="cuda:0") == [40 << 30]
    assert value("slowdown_ratio", device="cuda:0") == [1.25]
    assert value("readable", device="cuda:0") == [1]
    assert value("readable", device="cuda:1") == [0]
    assert value("throttled", by="thermal") == [1]
    assert value("throttled", by="power") == [0]
    assert value("ecc_errors", kind="uncorrected") == [2]
    assert value("xid_errors") == [1]
    assert {sample.labels["name"] for sample in families["appliance_gpu"].samples} == {"H200"}
    assert families["appliance_gpu_clock_hertz"].unit == "hertz"
    assert "appliance_gpu_temperature_celsius" not in families


def test_no_models_and_no_workers_still_parses() -> None:
    metrics, ledger = Metrics(), Ledger()
    text = exposition(metrics.read(0), ledger, status(metrics, ledger, models=0, workers=0))
    assert "appliance_worker_ready" not in parse(text)
    assert text.endswith("\n# EOF\n")


helps = st.text(st.characters(exclude_categories=["Cs"])).map(str.strip).filter(bool)


@given(st.text(), helps)
def test_labels_and_help_survive_as_they_are(label: str, text: str) -> None:
    family = Family("appliance_things", "counter", text)
    family.add(1, {"cause": label, "other": "x"}, suffix="_total")
    parsed = parse(render([family]))["appliance_things"]
    assert parsed.samples[0].labels == {"cause": label, "other": "x"}
    assert parsed.documentation == text
