"""Spans of the gRPC door's calls, as a collector gets them."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs
from support.box import Box, box, start
from support.collector import Collector, attributes, collector, is_of
from support.fleet_models import STATE, add_sleeper
from support.grpc import OVERRIDE, channel, method, refusal, request, stream
from support.ports import free_ports
from support.repository import add_python_model

from appliance.cli import main
from appliance.config import load
from appliance.errors import ConfigError, Outcome, Rejected
from appliance.ingest import bridge
from appliance.ingest.calls import Call
from appliance.wire.pb import inference_pb2 as pb

ROW = np.zeros((1, 4), np.float32)
PARENT = "00f067aa0ba902b7"
SERVER = Span.SPAN_KIND_SERVER
ERROR, UNSET = Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET
BROKEN = """
def run(batch):
    if batch["state"].any():  # it is warmed up with zeros
        raise ValueError("the arm is upside down")
    return {"action": batch["state"]}
"""
Traced = tuple[Any, str]


def to(url: str) -> str:
    return f'ingest.grpc.traces="{url}"'


@pytest.fixture(scope="module")
def told() -> Iterator[Collector]:
    with collector() as told:
        yield told


@pytest.fixture(scope="module")
def running(told: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    root = tmp_path_factory.mktemp("models")
    add_sleeper(root, ms=2, max_batch=8)
    add_sleeper(root, "slow", ms=300)
    manifest = 'engine = "python"\ncallable = "policy:run"\n' + STATE.format(width=4)
    add_python_model(root, "broken", BROKEN, manifest)
    overrides = (OVERRIDE, to(told.url), "log.access_sample=1", 'appliance_id="cell-4"')
    with box(root, overrides=overrides) as running:
        yield running


@pytest.fixture
def asked(running: Box) -> Iterator[grpc.Channel]:
    running.wait_settled()
    with channel(running) as asked:
        yield asked


@pytest.fixture
def infer(asked: grpc.Channel) -> Any:
    return method(asked, "ModelInfer")


@pytest.fixture
def trace() -> str:
    return secrets.token_hex(16)


def under(trace: str, flags: str = "01") -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{trace}-{PARENT}-{flags}"),)


# ------------------------------------------------------------------------------------ calls


def test_a_call_that_is_answered(told: Collector, infer: Any, trace: str) -> None:
    before_ns = time.time_ns()
    metadata = (
        *under(trace),
        ("tracestate", "site=7"),
        ("tracestate", "cell=4"),
        ("client-id", "arm"),
    )
    infer(request("sleeper", np.tile(ROW, (3, 1))), metadata=metadata)
    after_ns = time.time_ns()
    span = told.call(trace)
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    assert span.kind == SERVER
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "site=7,cell=4"
    assert span.status.code == UNSET
    assert before_ns < span.start_time_unix_nano < span.end_time_unix_nano < after_ns
    found = attributes(span)
    assert 1 <= found.pop("appliance.batch_size") <= 3
    assert found == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "appliance.model": "sleeper",
        "appliance.model_version": "1",
        "appliance.client": "arm",
        "appliance.outcome": "OK",
        "appliance.late": False,
        "appliance.rows": 3,
    }
    assert told.resource["service.name"] == "appliance"
    assert told.resource["service.instance.id"] == "cell-4"


def test_where_the_time_of_a_call_went(told: Collector, infer: Any, trace: str) -> None:
    infer(request("slow", ROW), metadata=under(trace))
    span = told.call(trace)
    parts = told.parts(span)
    assert set(parts) == {"queue", "batch", "execute"}
    for part in parts.values():
        assert part.trace_id == span.trace_id
        assert span.start_time_unix_nano <= part.start_time_unix_nano
        assert part.start_time_unix_nano <= part.end_time_unix_nano <= span.end_time_unix_nano
    queue, batch, execute = parts["queue"], parts["batch"], parts["execute"]
    assert queue.start_time_unix_nano == span.start_time_unix_nano
    assert batch.end_time_unix_nano == execute.start_time_unix_nano
    assert execute.end_time_unix_nano - execute.start_time_unix_nano >= 300_000_000


def test_a_call_of_no_trace_begins_one_that_is_in_the_log(
    told: Collector, running: Box, infer: Any
) -> None:
    known = {span.trace_id for span in told.spans}
    infer(request("sleeper", ROW), metadata=(("traceparent", "00-nonsense"),))

    def found() -> list[Span]:
        return [s for s in told.spans if s.trace_id not in known and s.kind == SERVER]

    (span,) = told.wait(found)
    assert not span.parent_span_id
    assert f'"trace_id": "{span.trace_id.hex()}"' in running.log()


def test_who_is_not_sampled_has_no_span(told: Collector, infer: Any, trace: str) -> None:
    infer(request("sleeper", ROW), metadata=under(trace, "00"))
    refusal(lambda: infer(request("nonesuch", ROW), metadata=under(trace, "00")))
    later = secrets.token_hex(16)
    infer(request("sleeper", ROW), metadata=under(later))
    told.call(later)
    assert not [span for span in told.spans if span.trace_id.hex() == trace]


def test_a_call_that_is_refused(told: Collector, infer: Any, trace: str) -> None:
    name = "n" * 1000
    error = refusal(lambda: infer(request("nonesuch", ROW), metadata=under(trace)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    span = told.call(trace)
    found = attributes(span)
    assert (found["rpc.grpc.status_code"], found["appliance.outcome"]) == (5, "UNKNOWN_MODEL")
    assert (found["appliance.model"], found["appliance.batch_size"]) == ("nonesuch", 0)
    assert span.status.code == UNSET  # it is its caller's fault
    assert not told.parts(span)
    other = secrets.token_hex(16)
    refusal(lambda: infer(request(name, ROW), metadata=under(other)))
    assert attributes(told.call(other))["appliance.model"] == name[:255]


def test_bytes_that_are_no_message(told: Collector, asked: grpc.Channel, trace: str) -> None:
    raw = asked.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    refusal(lambda: raw(b"\xff" * 100, metadata=under(trace)))
    assert attributes(told.call(trace))["appliance.outcome"] == "INVALID"


def test_a_call_that_the_engine_fails_on(told: Collector, infer: Any, trace: str) -> None:
    refusal(lambda: infer(request("broken", ROW + 1), metadata=under(trace)))
    span = told.call(trace)
    found = attributes(span)
    assert (found["rpc.grpc.status_code"], found["appliance.outcome"]) == (13, "ENGINE_FAILED")
    assert span.status.code == ERROR
    assert "the arm is upside down" in span.status.message


def test_a_call_whose_deadline_is_over(
    told: Collector, running: Box, infer: Any, trace: str
) -> None:
    busy = infer.future(request("slow", ROW))
    running.wait_until(lambda status: status["requests"]["in_flight"] == 1)
    error = refusal(lambda: infer(request("slow", ROW), timeout=0.05, metadata=under(trace)))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    span = told.call(trace)
    found = attributes(span)
    assert found["rpc.grpc.status_code"] == 4
    assert found["appliance.outcome"] in {"INFEASIBLE", "EXPIRED", "CANCELLED"}
    assert span.status.code == ERROR
    assert "execute" not in told.parts(span)
    assert busy.result().outputs


def test_a_call_that_is_given_up(told: Collector, running: Box, infer: Any, trace: str) -> None:
    busy = infer.future(request("slow", ROW))
    waiting = infer.future(request("slow", ROW), metadata=under(trace))
    running.wait_until(lambda status: status["requests"]["in_flight"] == 2)
    waiting.cancel()
    span = told.call(trace)
    found = attributes(span)
    assert (found["rpc.grpc.status_code"], found["appliance.outcome"]) == (1, "CANCELLED")
    assert span.status.code == UNSET
    assert busy.result().outputs


def test_each_request_of_a_stream(told: Collector, asked: grpc.Channel, trace: str) -> None:
    made = [request("sleeper", ROW), request("nonesuch", ROW), request("sleeper", ROW)]
    assert len(list(stream(asked)(iter(made), metadata=under(trace)))) == 3
    spans = told.calls(trace, 3)
    assert {span.name for span in spans} == {"inference.GRPCInferenceService/ModelStreamInfer"}
    assert {span.parent_span_id.hex() for span in spans} == {PARENT}
    assert len({span.span_id for span in spans}) == 3
    outcomes = [attributes(span)["appliance.outcome"] for span in spans]
    assert outcomes == ["OK", "UNKNOWN_MODEL", "OK"]


def test_a_stream_that_is_left(
    told: Collector, running: Box, asked: grpc.Channel, trace: str
) -> None:
    left = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        for _ in range(4):
            yield request("slow", ROW)
        left.wait(10)

    call = stream(asked)(requests(), metadata=under(trace))
    running.wait_until(lambda status: status["requests"]["in_flight"] == 4)
    next(iter(call))
    call.cancel()
    left.set()
    outcomes = [attributes(span)["appliance.outcome"] for span in told.calls(trace, 4)]
    assert (outcomes[0], outcomes[-1]) == ("OK", "CANCELLED")


def test_questions_have_none(told: Collector, asked: grpc.Channel, trace: str) -> None:
    method(asked, "ServerLive")(pb.ServerLiveRequest(), metadata=under(trace))
    later = secrets.token_hex(16)
    method(asked, "ModelInfer")(request("sleeper", ROW), metadata=under(later))
    told.call(later)
    assert not [span for span in told.spans if span.trace_id.hex() == trace]


# ------------------------------------------------------------------------------ the collector


def test_what_waits_leaves_before_the_end(tmp_path: Path, trace: str) -> None:
    add_sleeper(tmp_path, ms=1)
    with (
        collector() as told,
        box(tmp_path, overrides=(OVERRIDE, to(told.url))) as running,
        channel(running) as asked,
    ):
        for _ in range(20):
            method(asked, "ModelInfer")(request("sleeper", ROW), metadata=under(trace))
        assert running.stop() == 0
        assert len([span for span in told.spans if is_of(span, trace)]) == 20
        assert "spans lost" not in running.log()


@pytest.mark.parametrize("how", ["nobody", "silent"])
def test_a_collector_that_is_away_harms_nobody(tmp_path: Path, how: str) -> None:
    add_sleeper(tmp_path, ms=1)
    port, _ = free_ports()
    with socket.socket() as silent:
        if how == "silent":  # it lets others connect, and that is all
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1/traces"
        with box(tmp_path, overrides=(OVERRIDE, to(url))) as running, channel(running) as asked:
            infer = method(asked, "ModelInfer")
            assert all(infer(request("sleeper", ROW)).outputs for _ in range(50))
            begun = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - begun < 8
            lines = running.log().splitlines()
            (lost,) = [json.loads(line) for line in lines if "spans lost" in line]
            assert lost["lost"] == lost["made"] == 200
            assert all(line.startswith("{") for line in lines)
            assert len([line for line in lines if "the collector" in line]) <= 1


def test_a_collector_that_refuses_is_told_of_once(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    with (
        collector() as told,
        box(tmp_path, overrides=(OVERRIDE, to(told.url))) as running,
        channel(running) as asked,
    ):
        told.status = 400
        for posts in range(1, 4):
            method(asked, "ModelInfer")(request("sleeper", ROW))
            told.wait(lambda posts=posts: told.posts >= posts)
        assert running.stop() == 0
        lines = running.log().splitlines()
        assert len([line for line in lines if "the collector does not take" in line]) == 1
        assert all(line.startswith("{") for line in lines)


async def test_what_the_queue_cannot_hold_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from appliance.ingest import spans as module

    monkeypatch.setattr(module, "QUEUE", 16)
    monkeypatch.setattr(module, "BATCH", 8)
    with collector() as told, capture_logs() as lines:
        told.free.clear()
        spans = module.Spans("service", told.url)
        for _ in range(500):
            _end_one(spans)
        told.free.set()
        await spans.close()
        assert 16 <= len(told.spans) <= 16 + 2 * 8
        told_of = [(line["made"], line["lost"]) for line in lines if line["event"] == "spans lost"]
        assert told_of == [(500, 500 - len(told.spans))]


async def test_the_end_waits_for_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.ingest import spans as module

    monkeypatch.setattr(module, "TIMEOUT_S", 60.0)
    with collector() as told, capture_logs() as lines:
        told.free.clear()
        spans = module.Spans("service", told.url)
        _end_one(spans)
        begun = time.monotonic()
        await spans.close()
        assert time.monotonic() - begun < 15
        assert not told.free.is_set()
        assert [line["lost"] for line in lines if line["event"] == "spans lost"] == [1]


async def test_a_fault_of_ours_is_told_as_one() -> None:
    from appliance.ingest.spans import Spans

    with collector() as told:
        spans = Spans("service", told.url)
        _end_one(spans, ValueError("a slip"))
        _end_one(spans, Rejected(Outcome.SHED, "too many"))
        await spans.close()
        slip, shed = told.spans
        assert (slip.status.code, slip.status.message) == (ERROR, "ValueError: a slip")
        assert attributes(slip)["rpc.grpc.status_code"] == 2
        assert (shed.status.code, attributes(shed)["rpc.grpc.status_code"]) == (UNSET, 8)


def _end_one(spans: Any, error: Exception | None = None) -> None:
    received_ns = time.monotonic_ns()
    span = spans.begin("ModelInfer", (), received_ns)
    call = Call(
        request=pb.ModelInferRequest(),
        client="arm",
        trace_id="",
        received_ns=received_ns,
        timeout_ns=None,
        response=None,  # pyright: ignore[reportArgumentType]
    )
    spans.end(call, span, error)


# ----------------------------------------------------------------------------- without the extra


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenTelemetry that cannot be imported, by this process or those that it starts."""
    package = tmp_path / "path" / "opentelemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError('No module named it')\n")
    paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name in [each for each in sys.modules if each.partition(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "appliance.ingest.spans", raising=False)
    monkeypatch.delattr("appliance.ingest.spans", raising=False)


def test_what_is_missing_is_said(
    without: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(None, (OVERRIDE, to("http://127.0.0.1:4318/v1/traces")))
    with pytest.raises(ConfigError) as caught:
        bridge.load_spans(config.ingest.grpc)
    assert "ingest.grpc.traces: found 'http://127.0.0.1:4318/v1/traces'" in str(caught.value)
    assert "pip install 'appliance[otel]'" in str(caught.value)
    file = tmp_path / "appliance.toml"
    file.write_text('[ingest.grpc]\ntraces = "http://127.0.0.1:4318/v1/traces"\n')
    assert main(["check-config", str(file)]) == 1
    assert "pip install 'appliance[otel]'" in capsys.readouterr().err


def test_an_appliance_that_cannot_do_it_does_not_start(without: None, tmp_path: Path) -> None:
    add_sleeper(tmp_path / "models", ms=1)
    (tmp_path / "config.toml").write_text("")
    flags = ("--models", str(tmp_path / "models"), "--bind", f"ipc://{tmp_path}/door")
    traces = ("--set", to("http://127.0.0.1:4318/v1/traces"))
    process = start(tmp_path, *flags, "--set", OVERRIDE, *traces)
    try:
        assert process.wait(60) == 2
    finally:
        process.kill()
    assert "pip install 'appliance[otel]'" in (tmp_path / "log").read_text()


def test_off_it_is_not_even_imported(without: None, tmp_path: Path) -> None:
    script = "import sys, appliance.app; print([m for m in sys.modules if 'opentelem' in m])"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert found.stdout.strip() == b"[]"
    add_sleeper(tmp_path / "models", ms=1)
    with box(tmp_path / "models", overrides=(OVERRIDE,)) as running, channel(running) as asked:
        infer = method(asked, "ModelInfer")
        assert infer(request("sleeper", ROW), metadata=under("1" * 32)).outputs


@pytest.mark.parametrize(
    "url",
    ["collector:4318", "grpc://box:4317", "http://", "http://box:99999/", "http://a b/", "https:x"],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"ingest\.grpc\.traces: .*must be an URL"):
        load(None, (to(url),))


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:4318/v1/traces", "https://u:p@[::1]/x"])
def test_an_address_that_is_one(url: str) -> None:
    assert load(None, (to(url),)).ingest.grpc.traces == url
