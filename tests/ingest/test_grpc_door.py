"""The gRPC door of a whole appliance, asked by plain gRPC."""

from __future__ import annotations

import io
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from support.box import Box, box, start
from support.fleet_models import add_camera_policy, add_sleeper
from support.grpc import OVERRIDE, channel, grpc_address, method, refusal, request, stream
from support.ports import free_ports
from support.repository import add_python_model

from appliance.wire.pb import inference_pb2 as pb

COUNTER = """
def run(inputs):
    new = inputs["h"] + inputs["x"]
    return {"y": new, "h2": new}
"""
COUNTER_MANIFEST = """
engine = "python"
callable = "policy:run"
max_batch = 4
[[inputs]]
name = "x"
dtype = "float32"
shape = [1]
[[state]]
input = "h"
output = "h2"
shape = [1]
dtype = "float32"
"""
ROW = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    root = tmp_path_factory.mktemp("models")
    add_sleeper(root, ms=1, max_batch=8)
    add_sleeper(root, "slow", ms=300)
    add_sleeper(root, "slower", ms=1500)
    add_camera_policy(root)
    add_python_model(root, "counter", COUNTER, COUNTER_MANIFEST)
    with box(root, overrides=(OVERRIDE,)) as running:
        yield running
        assert running.wait_settled()["ledger"]["balanced"]


@pytest.fixture
def asked(running: Box) -> Iterator[grpc.Channel]:
    with channel(running) as asked:
        yield asked


@pytest.fixture
def infer(asked: grpc.Channel) -> Any:
    return method(asked, "ModelInfer")


def first(response: pb.ModelInferResponse) -> list[float]:
    return np.frombuffer(response.raw_output_contents[0], np.float32).tolist()


# --------------------------------------------------------------------------------- inference


def test_a_batch_comes_back_as_one(infer: Any) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    response = infer(request("sleeper", rows, id="five"))
    assert (response.id, response.model_name, response.model_version) == ("five", "sleeper", "1")
    assert list(response.outputs[0].shape) == [5, 4]
    assert first(response) == (rows + 1).reshape(-1).tolist()


def test_a_row_without_a_batch_dimension_comes_back_as_one(infer: Any) -> None:
    response = infer(request("sleeper", ROW[0]))
    assert list(response.outputs[0].shape) == [4]


def _with(**parameters: Any) -> Callable[[], pb.ModelInferRequest]:
    def make() -> pb.ModelInferRequest:
        made = request("sleeper", ROW)
        for name, given in parameters.items():
            kind = "bool_param" if isinstance(given, bool) else "string_param"
            setattr(made.parameters[name], kind, given)
        return made

    return make


def _twice() -> pb.ModelInferRequest:
    made = request("sleeper", ROW)
    made.MergeFrom(request("sleeper", ROW))
    return made


def _output() -> pb.ModelInferRequest:
    made = request("sleeper", ROW)
    made.outputs.add(name="nonesuch")
    return made


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda: request("nonesuch", ROW), NOT_FOUND, "served are: "),
        (lambda: request("sleeper", ROW, model_version="2"), NOT_FOUND, "version '2'"),
        (lambda: request("sleeper", ROW, model_version="x"), INVALID, "a version is a number"),
        (lambda: request("sleeper", ROW, datatype="INT32"), INVALID, "expected dtype FLOAT32"),
        (lambda: request("sleeper", ROW[:, :3]), INVALID, "expected shape [4], came [3]"),
        (lambda: request("sleeper", ROW[None]), INVALID, "expected shape [4]"),
        (lambda: request("sleeper", np.tile(ROW, (9, 1))), INVALID, "1 to 8 rows, came 9"),
        (lambda: request("sleeper", ROW, key="nonesuch"), INVALID, "does not take 'nonesuch'"),
        (lambda: pb.ModelInferRequest(model_name="sleeper"), INVALID, "needs tensor 'state'"),
        (lambda: request("n" * 100_000, ROW), INVALID, "a name has at most 255 bytes"),
        (lambda: request("sleeper", ROW, model_version="9" * 300), INVALID, "at most 255 bytes"),
        (lambda: request("sleeper", ROW, key="k" * 100_000), INVALID, "does not take 'kkk"),
        (_twice, INVALID, "is there twice"),
        (_output, INVALID, "does not give 'nonesuch'"),
        (_with(triton_thing=True), INVALID, "reserved"),
        (_with(priority="high"), INVALID, "expected an integer"),
    ],
)
def test_what_is_wrong_has_its_status(
    infer: Any, make: Callable[[], pb.ModelInferRequest], code: grpc.StatusCode, says: str
) -> None:
    error = refusal(lambda: infer(make()))
    assert error.code() is code
    assert says in error.details()
    expected = "UNKNOWN_MODEL" if code is NOT_FOUND else "INVALID"
    assert dict(error.trailing_metadata())["appliance-code"] == expected
    assert infer(request("sleeper", ROW)).outputs


def test_a_method_that_there_is_not(asked: grpc.Channel) -> None:
    missing = asked.unary_unary("/inference.GRPCInferenceService/Nonesuch")
    assert refusal(lambda: missing(b"")).code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message(asked: grpc.Channel, infer: Any) -> None:
    for name in ("ModelInfer", "ModelConfig"):
        raw = asked.unary_unary(f"/inference.GRPCInferenceService/{name}")
        error = refusal(lambda raw=raw: raw(b"\xff" * 100))
        assert error.code() is INVALID
        assert f"is no {name}Request" in error.details()
    assert infer(request("sleeper", ROW)).outputs


def test_a_file_is_sent_as_it_is(infer: Any) -> None:
    image = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(image, "JPEG")
    data = image.getvalue()
    made = pb.ModelInferRequest(model_name="policy")
    made.inputs.add(name="state", datatype="FP32", shape=(1, 7))
    made.inputs.add(name="camera", datatype="BYTES", shape=(1, 1))
    made.inputs.add(name="prompt", datatype="BYTES", shape=(1, 1))
    made.raw_input_contents.append(bytes(28))
    made.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
    made.raw_input_contents.append(b"\x04\x00\x00\x00pick")
    response = infer(made)
    assert list(response.outputs[0].shape) == [1, 16, 3]
    np.testing.assert_allclose(first(response), 200, atol=2)


def test_a_sequence_carries_its_state(infer: Any) -> None:
    def step(sequence: int, **flags: bool) -> list[float]:
        made = request("counter", np.ones((1, 1), np.float32), key="x")
        made.parameters["sequence_id"].int64_param = sequence
        for name, given in flags.items():
            made.parameters[name].bool_param = given
        return first(infer(made))

    assert [step(5)[0], step(6)[0], step(5)[0], step(5)[0]] == [1, 1, 2, 3]
    assert [step(5, sequence_start=True)[0], step(5)[0], step(6)[0]] == [1, 2, 2]
    assert [step(6, sequence_end=True)[0], step(6)[0]] == [3, 1]


# ------------------------------------------------------------------------- deadlines, giving up


def test_deadlines_stop_work(running: Box, asked: grpc.Channel, infer: Any) -> None:
    before, failed = running.wait_settled(), failures(asked, "slow")
    calls = [infer.future(request("slow", ROW), timeout=0.05) for _ in range(8)]
    codes = {call.exception().code() for call in calls}
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    after = running.wait_settled()
    executed = after["ledger"]["rows_finished"] - before["ledger"]["rows_finished"]
    assert executed <= 1
    assert after["outcomes"]["OK"] == before["outcomes"]["OK"]
    assert failures(asked, "slow") - failed == 8


def failures(asked: grpc.Channel, model: str) -> int:
    found = method(asked, "ModelStatistics")(pb.ModelStatisticsRequest(name=model))
    count: int = found.model_stats[0].inference_stats.fail.count
    return count


def test_who_gives_up_is_not_served(running: Box, infer: Any) -> None:
    before = running.wait_settled()
    calls = [infer.future(request("slower", ROW)) for _ in range(5)]
    running.wait_until(lambda status: status["requests"]["in_flight"] == 5)
    for call in calls[1:]:
        call.cancel()
    assert calls[0].result().outputs
    after = running.wait_settled()
    assert after["ledger"]["rows_finished"] - before["ledger"]["rows_finished"] <= 2
    assert after["outcomes"]["CANCELLED"] - before["outcomes"].get("CANCELLED", 0) >= 3


def test_a_timeout_that_nobody_can_keep(infer: Any) -> None:
    made = request("sleeper", np.tile(ROW, (8, 1)))
    made.parameters["timeout"].int64_param = 60_000_000
    assert infer(made).outputs


def test_the_newest_replaces_what_waits(running: Box, infer: Any) -> None:
    def newest(name: str) -> pb.ModelInferRequest:
        made = request("slower", ROW, id=name)
        made.parameters["keep"].string_param = "latest"
        return made

    def superseded(status: dict[str, Any]) -> int:
        return status["outcomes"].get("SUPERSEDED", 0)

    before = superseded(running.wait_settled())
    busy = infer.future(newest("busy"))
    running.wait_until(lambda status: status["requests"]["in_flight"] == 1)
    calls = [infer.future(newest("0"))]
    running.wait_until(lambda status: status["requests"]["in_flight"] == 2)
    for number in range(1, 4):  # each is there before the next one is sent
        calls.append(infer.future(newest(str(number))))
        running.wait_until(lambda status, n=number: superseded(status) - before == n)
    assert busy.result().outputs
    codes = [call.exception().code() for call in calls[:-1]]
    assert codes == [grpc.StatusCode.ABORTED] * 3
    assert calls[-1].result().id == "3"


# ---------------------------------------------------------------------------------- streaming


def test_a_stream_answers_in_order_and_outlives_a_refusal(asked: grpc.Channel) -> None:
    made = [request("sleeper", ROW + n, id=str(n)) for n in range(200)]
    made.insert(100, request("nonesuch", ROW, id="bad"))
    heard = list(stream(asked)(iter(made)))
    assert [each.infer_response.id for each in heard] == [each.id for each in made]
    assert [bool(each.error_message) for each in heard] == [each.id == "bad" for each in made]
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in heard)


def test_a_stream_that_is_left_leaves_nothing(running: Box, asked: grpc.Channel) -> None:
    left = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        for _ in range(10):
            yield request("slow", ROW)
        left.wait(10)

    call = stream(asked)(requests())
    next(iter(call))
    call.cancel()
    left.set()
    assert running.wait_settled()["ledger"]["balanced"]


# ------------------------------------------------------------------------------- faults, the end


def test_a_model_whose_worker_is_gone(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    with box(tmp_path, overrides=(OVERRIDE,)) as running, channel(running) as asked:
        ready = method(asked, "ModelReady")
        infer = method(asked, "ModelInfer")
        running.kill_worker("cpu-0", signal.SIGSTOP)
        call = infer.future(request("sleeper", ROW))
        running.wait_until(lambda status: status["requests"]["in_flight"] == 1)
        running.kill_worker("cpu-0")
        assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
        new = refusal(lambda: infer(request("sleeper", ROW)))  # its worker needs longer to start
        assert new.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(new.trailing_metadata())["appliance-code"] == "LOADING"
        assert int(dict(new.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        asks = pb.ModelReadyRequest(name="sleeper")
        running.wait_until(lambda status: status["state"] == "ready")
        assert ready(asks).ready
        assert infer(request("sleeper", ROW)).outputs


def test_what_comes_while_it_drains_hears_so(tmp_path: Path) -> None:
    add_sleeper(tmp_path, "slow", ms=500)
    with box(tmp_path, overrides=(OVERRIDE,)) as running, channel(running) as asked:
        infer = method(asked, "ModelInfer")
        accepted = infer.future(request("slow", ROW))
        running.wait_until(lambda status: status["requests"]["in_flight"] == 1)
        running.process.send_signal(signal.SIGTERM)
        running.wait_until(lambda status: status["state"] == "draining")
        error = refusal(lambda: infer(request("slow", ROW)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in error.details()
        assert accepted.result().outputs
        assert running.process.wait(30) == 0


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    add_sleeper(tmp_path / "models", ms=1)
    port, _ = free_ports()
    bind = f"127.0.0.1:{port}"
    with box(tmp_path / "models", overrides=(f'ingest.grpc.bind="{bind}"',)):
        directory = tmp_path / "other"
        directory.mkdir()
        (directory / "config.toml").write_text("")
        process = start(
            directory,
            *("--models", str(tmp_path / "models"), "--bind", f"ipc://{directory}/door"),
            *("--grpc", bind),
        )
        try:
            assert process.wait(60) == 2
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert f"ingest.grpc.bind: {bind} cannot be bound" in (directory / "log").read_text()


# ------------------------------------------------------------------------------------- health


def test_health_follows_the_workers(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    status = health_pb2.HealthCheckResponse
    with box(tmp_path, overrides=(OVERRIDE,)) as running, channel(running) as asked:
        health = health_pb2_grpc.HealthStub(asked)
        for name in ("", "inference.GRPCInferenceService", "sleeper"):
            assert (
                health.Check(health_pb2.HealthCheckRequest(service=name)).status == status.SERVING
            )
        unknown = health_pb2.HealthCheckRequest(service="nonesuch")
        assert refusal(lambda: health.Check(unknown)).code() is NOT_FOUND
        watched = health.Watch(health_pb2.HealthCheckRequest(service="sleeper"), timeout=60)
        assert next(watched).status == status.SERVING
        running.kill_worker("cpu-0", signal.SIGSTOP)  # so that the next one is not up at once
        running.kill_worker("cpu-0")
        assert next(watched).status == status.NOT_SERVING
        assert next(watched).status == status.SERVING
        running.process.send_signal(signal.SIGTERM)
        assert next(watched).status == status.NOT_SERVING
        assert running.process.wait(30) == 0


def test_reflection_says_what_there_is(asked: grpc.Channel) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(asked)
    (listed,) = reflection.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = [each.name for each in listed.list_services_response.service]
    assert "inference.GRPCInferenceService" in names
    assert "grpc.health.v1.Health" in names
    (described,) = reflection.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=names[0])])
    )
    assert described.file_descriptor_response.file_descriptor_proto


# ------------------------------------------------------------------------------------- limits


def test_what_is_too_long_is_refused(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    limit = "ingest.grpc.max_message_bytes=100000"
    with box(tmp_path, overrides=(OVERRIDE, limit)) as running, channel(running) as asked:
        infer = method(asked, "ModelInfer")
        error = refusal(lambda: infer(request("sleeper", np.zeros((1, 50_000), np.float32))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert infer(request("sleeper", ROW)).outputs


def test_many_streams_that_are_left_alone(running: Box, asked: grpc.Channel, infer: Any) -> None:
    never = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield request("sleeper", ROW)
        never.wait(60)

    calls = [stream(asked)(requests()) for _ in range(50)]
    for call in calls:
        next(iter(call))
    for call in calls:
        call.cancel()
    never.set()
    assert infer(request("sleeper", ROW)).outputs
    assert running.wait_settled()["ledger"]["balanced"]


def documented_retries() -> str:
    """The service config of docs/inference.md."""
    page = (Path(__file__).parent.parent.parent / "docs" / "inference.md").read_text()
    return page.split("```json\n")[1].split("```")[0]


def test_retries_as_documented_wait_as_they_are_told(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    limits = ("rate_limits.per_client_hz=10", "rate_limits.burst_s=0.1")
    with box(tmp_path, overrides=(OVERRIDE, *limits)) as running:
        address = grpc_address(running)
        with grpc.insecure_channel(address) as impatient:
            infer = method(impatient, "ModelInfer")
            infer(request("sleeper", ROW))
            error = refusal(lambda: infer(request("sleeper", ROW)))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            trailers = dict(error.trailing_metadata())
            assert trailers["appliance-code"] == "RATE_LIMITED"
            assert 1 <= int(trailers["grpc-retry-pushback-ms"]) <= 100
        options = [("grpc.service_config", documented_retries()), ("grpc.enable_retries", 1)]
        with grpc.insecure_channel(address, options=options) as patient:
            infer = method(patient, "ModelInfer")
            assert all(infer(request("sleeper", ROW)).outputs for _ in range(5))
        outcomes = running.wait_settled()["outcomes"]
        assert outcomes["OK"] == 6
        assert 1 <= outcomes["RATE_LIMITED"] <= 12


KEYED = """
[keys]
required = true
directory = "DIRECTORY"
"""
KNOWN = """
[clients]
accept_unknown = false
[[clients.known]]
id = "arm"
"""


@pytest.mark.parametrize("keys", ["", KEYED])
def test_a_name_is_believed_unless_others_have_keys(tmp_path: Path, keys: str) -> None:
    add_sleeper(tmp_path / "models", ms=1)
    config = keys.replace("DIRECTORY", str(tmp_path / "keys")) + KNOWN
    with (
        box(tmp_path / "models", config=config, overrides=(OVERRIDE,)) as running,
        channel(running) as asked,
    ):
        infer = method(asked, "ModelInfer")
        metadata = (("client-id", "arm"),)
        if keys:
            error = refusal(lambda: infer(request("sleeper", ROW), metadata=metadata))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        else:
            assert infer(request("sleeper", ROW), metadata=metadata).outputs
        error = refusal(lambda: infer(request("sleeper", ROW)))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
