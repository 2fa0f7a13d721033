import pytest

from appliance.metrics.registry import MAX_AGE_NS, MAX_CAUSES, STAGES, Metrics, ModelRecorder


def record(recorder: ModelRecorder, *, slack_us: int = 400, age_us: int | None = None) -> None:
    recorder.record(
        queue_us=10,
        batch_us=20,
        execute_us=30,
        reply_us=40,
        total_us=100,
        slack_us=slack_us,
        age_us=age_us,
    )


def test_one_request_lands_in_every_stage() -> None:
    metrics = Metrics()
    record(metrics.add_model("policy"), age_us=5)
    latency = metrics.snapshot(0)["models"]["policy"]["latency_us"]
    assert tuple(latency) == STAGES
    assert {stage: latency[stage]["p50"] for stage in STAGES} == {
        "age": 5,
        "queue": 10,
        "batch": 20,
        "execute": 30,
        "reply": 40,
        "total": 100,
        "slack": 400,
        "lateness": 0,
    }


def test_negative_slack_is_lateness() -> None:
    metrics = Metrics()
    recorder = metrics.add_model("policy")
    record(recorder, slack_us=0)
    record(recorder, slack_us=-70)
    latency = metrics.snapshot(0)["latency_us"]
    assert latency["slack"]["count"] == 1
    assert (latency["lateness"]["count"], latency["lateness"]["max"]) == (1, 70)
    assert metrics.snapshot(0)["clamped"] == 0


def test_an_unknown_age_is_not_recorded() -> None:
    metrics = Metrics()
    record(metrics.add_model("policy"), age_us=None)
    assert metrics.snapshot(0)["latency_us"]["age"]["count"] == 0


def test_the_overall_latency_is_over_all_models() -> None:
    metrics = Metrics()
    for name in ("a", "b"):
        record(metrics.add_model(name))
    snapshot = metrics.snapshot(0)
    assert snapshot["latency_us"]["total"]["count"] == 2
    assert snapshot["models"]["a"]["latency_us"]["total"]["count"] == 1


def test_names_from_the_wire_cannot_grow_memory() -> None:
    metrics = Metrics()
    recorder = metrics.add_model("policy")
    unknown = {metrics.recorder(f"made-up-{number}").name for number in range(100)}
    assert unknown == {""}
    assert metrics.recorder("policy") is recorder
    assert set(metrics.snapshot(0)["models"]) == {"", "policy"}


def test_adding_a_model_again_keeps_what_it_recorded() -> None:
    metrics = Metrics()
    record(metrics.add_model("policy"))
    assert metrics.add_model("policy").total.read().count == 1


def test_batches_give_rows_and_their_mean() -> None:
    metrics = Metrics()
    recorder = metrics.add_model("policy")
    for rows in (1, 2, 2):
        recorder.record_batch(rows)
    model = metrics.snapshot(0)["models"]["policy"]
    assert (model["rows"], model["batch_size_mean"]) == (5, 1.67)


def test_payloads_are_in_bytes() -> None:
    metrics = Metrics()
    metrics.add_model("policy").record_payload(921_600)
    assert metrics.read(0).models["policy"].payload_bytes.max == 921_600


def test_a_reading_serves_for_one_second() -> None:
    metrics = Metrics()
    recorder = metrics.add_model("policy")
    first = metrics.read(5)
    record(recorder)
    assert metrics.read(5 + MAX_AGE_NS - 1) is first
    assert metrics.read(5 + MAX_AGE_NS).models["policy"].stages["total"].count == 1


def test_counters_count_by_cause() -> None:
    metrics = Metrics()
    metrics.count("dispatch_retries", "isolated")
    metrics.count("dispatch_retries", "isolated", 2)
    assert metrics.snapshot(0)["counters"]["dispatch_retries"] == {"isolated": 3}


def test_causes_are_bounded_and_nothing_is_lost() -> None:
    metrics = Metrics()
    for number in range(MAX_CAUSES + 10):
        metrics.count("worker_restarts", f"cause {number}")
    causes = metrics.snapshot(0)["counters"]["worker_restarts"]
    assert len(causes) == MAX_CAUSES + 1
    assert causes["other"] == 10


def test_a_counter_that_is_not_declared_is_an_error() -> None:
    with pytest.raises(KeyError):
        Metrics().count("mistyped", "cause")


def test_clamped_values_of_every_histogram_are_counted() -> None:
    metrics = Metrics()
    metrics.add_model("policy").record_payload(1 << 40)
    metrics.recorder("").execute.record(-1)
    metrics.timer_lateness.record(-1)
    assert metrics.snapshot(0)["clamped"] == 3
