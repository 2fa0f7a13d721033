"""Clients that keep no rules get an error, or nothing; it costs nobody else anything."""

from __future__ import annotations

import signal
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.box import Box, box
from support.fleet_models import CAMERA_POLICY, add_sleeper
from support.grpc import OVERRIDE, SERVICE, channel, grpc_address, method, refusal, request, stream
from support.http2 import DATA, END_STREAM, HEADERS, PONG, RawClient, message
from support.repository import add_python_model

from appliance.wire.pb import inference_pb2 as pb

X = np.zeros((1, 4), np.float32)
INFER = SERVICE + "ModelInfer"
STREAM = SERVICE + "ModelStreamInfer"
MIB = 1 << 20
MESSAGE_BYTES = 64 * MIB
"""What a message may have: so far it is unpacked."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    models = tmp_path_factory.mktemp("models")
    add_sleeper(models, ms=1, max_batch=8)
    echo = "def run(batch):\n    return {'size': batch['image'].sum(axis=(1, 2, 3))}\n"
    manifest = CAMERA_POLICY.partition("[chunk]")[0]
    add_python_model(models, "camera", echo, manifest)
    with box(models, overrides=(OVERRIDE,)) as running:
        running.wait_settled()
        yield running
        assert running.stop() == 0


def infer(running: Box) -> None:
    with channel(running) as open_channel:
        answer = method(open_channel, "ModelInfer")(request("sleeper", X), timeout=10)
        assert answer.model_name == "sleeper"


def rss_bytes(running: Box) -> int:
    text = Path(f"/proc/{running.process.pid}/statm").read_text("ascii")
    return int(text.split()[1]) * 4096


@contextmanager
def unharmed(running: Box, most_bytes: int = 40 * MIB) -> Iterator[None]:
    """Others are served during and after it; it costs little memory; the count is right."""
    infer(running)
    before = rss_bytes(running)
    yield
    infer(running)
    assert rss_bytes(running) - before < most_bytes
    status = running.wait_until(lambda status: status["requests"]["in_flight"] == 0)
    assert status["state"] == "ready"
    assert status["ledger"]["balanced"]


# ------------------------------------------------------------------------------ too much


def test_a_gibibyte_is_refused_by_its_first_bytes(running: Box) -> None:
    with unharmed(running), RawClient(grpc_address(running)) as client:
        client.open(1, INFER)
        client.frame(DATA, 0, 1, message(1 << 30, bytes(1000)))
        came = client.wait_for(b"grpc-message")
        assert b"grpc-status" in came
        assert b"larger than max" in came


def test_what_unpacks_to_too_much_is_refused(running: Box) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with (
        unharmed(running, 40 * MIB + MESSAGE_BYTES),
        grpc.insecure_channel(grpc_address(running), options, grpc.Compression.Gzip) as packing,
    ):
        asks = packing.unary_unary(INFER, request_serializer=bytes, response_deserializer=bytes)
        refused = refusal(lambda: asks(bytes(256 * MIB), timeout=60))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in refused.details()


def png(width: int, height: int, body: bytes) -> bytes:
    """Return a file that says it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_an_image_that_unpacks_to_too_much_is_refused(running: Box) -> None:
    asked = request("camera", np.zeros((1, 7), np.float32))
    picture = png(60_000, 60_000, zlib.compress(bytes(MIB)))
    asked.inputs.add(name="camera", datatype="BYTES", shape=[1, 1])
    asked.raw_input_contents.append(struct.pack("<I", len(picture)) + picture)
    with unharmed(running), channel(running) as open_channel:
        refused = refusal(lambda: method(open_channel, "ModelInfer")(asked, timeout=10))
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "60000" in refused.details()


# ------------------------------------------------------------------------------- too slow


def test_messages_that_never_end_hold_up_nobody(running: Box) -> None:
    clients = [RawClient(grpc_address(running)) for _ in range(50)]
    with unharmed(running):
        for client in clients:
            client.open(1, STREAM)
            client.frame(DATA, 0, 1, message(1000, b"\n"))
        for _ in range(5):
            infer(running)
        for client in clients:
            client.socket.close()


def test_a_thousand_streams_opened_and_abandoned_cost_nothing(running: Box) -> None:
    with unharmed(running):
        for _ in range(4):
            with RawClient(grpc_address(running)) as client:
                for number in range(250):
                    client.open(2 * number + 1, STREAM)
                infer(running)
        with channel(running) as open_channel:
            calls = [stream(open_channel)(iter([request("sleeper", X)])) for _ in range(1000)]
            answered = 0
            for call in calls:
                try:
                    answered += bool(next(call).infer_response.model_name)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
                call.cancel()
            assert answered > 500


# -------------------------------------------------------------------------- broken off


@pytest.mark.parametrize("how", ["reset", "vanish", "close", "half"])
def test_a_message_that_breaks_off_ends_there(running: Box, how: str) -> None:
    body = request("sleeper", X).SerializeToString()
    with unharmed(running):
        for _ in range(20):
            client = RawClient(grpc_address(running))
            client.open(1, INFER)
            client.frame(DATA, 0, 1, message(len(body), body[: len(body) // 2]))
            if how == "reset":
                client.reset(1)
            elif how == "vanish":
                client.vanish()
                continue
            elif how == "half":
                client.socket.shutdown(socket.SHUT_WR)
            client.socket.close()


def test_bytes_that_are_no_message_are_an_invalid_argument(running: Box) -> None:
    with unharmed(running), channel(running) as open_channel:
        garbage = open_channel.unary_unary(
            INFER, request_serializer=bytes, response_deserializer=pb.ModelInferResponse.FromString
        )
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x7f", bytes(range(256)) * 20):
            refused = refusal(lambda data=data: garbage(data, timeout=10))
            assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_who_pings_without_need_is_sent_away(running: Box) -> None:
    with unharmed(running), RawClient(grpc_address(running)) as client, suppress(BrokenPipeError):
        for _ in range(10):
            client.ping()
        assert b"too_many_pings" in client.wait_for(b"too_many_pings")


def test_frames_that_are_none_end_their_connection_only(running: Box) -> None:
    with unharmed(running):
        for payload in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b""):
            with RawClient(grpc_address(running)) as client, suppress(ConnectionError):
                client.socket.sendall(payload)
                client.frame(HEADERS, 0, 1, b"\xff" * 200)
                client.frame(DATA, 0, 7, bytes(100))
                client.wait_for(b"never")


# ------------------------------------------------------------------- too much of something small


def _inputs(count: int) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="sleeper")
    for _ in range(count):
        made.inputs.add()
    return made


def _shaped(*shape: int, datatype: str = "FP32", key: str = "state") -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="camera" if key == "camera" else "sleeper")
    made.inputs.add(name=key, datatype=datatype, shape=shape)
    made.raw_input_contents.append(b"")
    return made


def _typed(count: int, field: str, item: object, datatype: str) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="sleeper")
    tensor = made.inputs.add(name="state", datatype=datatype, shape=[count])
    getattr(tensor.contents, field).extend([item] * count)
    return made


def _parameters(count: int) -> pb.ModelInferRequest:
    made = request("sleeper", X)
    for index in range(count):
        made.parameters[str(index)].bool_param = True
    return made


def _sequence(text: str) -> pb.ModelInferRequest:
    made = request("sleeper", X)
    made.parameters["sequence_id"].string_param = text
    return made


TOO_MUCH = {
    "at most 256 are allowed, 100000 came": lambda: _inputs(100_000),
    "at most 16 dimensions": lambda: _shaped(*[1 << 62] * 300),
    "has 24519928653854221733733552434404946937899825954937634816 bytes": lambda: _shaped(
        *[1 << 60] * 3, 1, 4
    ),
    "at most 65536 elements of BYTES": lambda: _shaped(1, 1 << 40, datatype="BYTES", key="camera"),
    "at most 65536 elements in bytes_contents": lambda: _typed(
        1 << 17, "bytes_contents", b"", "BYTES"
    ),
    "at most 1048576 elements in fp32_contents": lambda: _typed(
        (1 << 20) + 1, "fp32_contents", 0.0, "FP32"
    ),
    "parameters: at most 256": lambda: _parameters(10_000),
    "id: at most 4096": lambda: request("sleeper", X, id="x" * 5000),
    "'sequence_id': has at most 255 bytes": lambda: _sequence("x" * 300),
}


@pytest.mark.parametrize("told", TOO_MUCH)
def test_small_messages_that_take_long_to_look_at_are_refused(running: Box, told: str) -> None:
    asked = TOO_MUCH[told]()
    with unharmed(running), channel(running) as open_channel:
        error = refusal(lambda: method(open_channel, "ModelInfer")(asked, timeout=30))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
        assert told in error.details()


def test_a_refusal_that_would_be_long_keeps_its_status(running: Box) -> None:
    asked = request("x" * 200_000, X)
    with unharmed(running), channel(running) as open_channel:
        error = refusal(lambda: method(open_channel, "ModelInfer")(asked, timeout=30))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        error = refusal(
            lambda: method(open_channel, "ModelReady")(
                pb.ModelReadyRequest(name="m", version="9" * 200_000), timeout=30
            )
        )
        assert error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED


def test_clients_that_keep_their_calls_open_leave_room_for_others(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    held = threading.Event()

    def asks() -> Iterator[pb.ModelInferRequest]:
        yield request("sleeper", X)
        held.wait(60)

    with (
        box(tmp_path, overrides=(OVERRIDE, "ingest.grpc.max_calls=8")) as running,
        channel(running) as open_channel,
    ):
        running.wait_settled()
        health = health_pb2_grpc.HealthStub(open_channel)

        def opened(client: str) -> grpc.Call:
            return stream(open_channel)(asks(), metadata=[("client-id", client)])

        open_streams = [opened("greedy") for _ in range(4)] + [opened("second")]
        watched = health.Watch(
            health_pb2.HealthCheckRequest(), metadata=[("client-id", "watching")]
        )
        try:
            for each in open_streams:
                assert next(each).infer_response.model_name == "sleeper"
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            for client, told in (
                ("greedy", "there are 6 streams open"),
                ("third", "there are 6 streams open"),
            ):
                error = refusal(lambda client=client: next(opened(client)))
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert told in error.details()
            error = refusal(
                lambda: method(open_channel, "ModelInfer")(
                    request("sleeper", X), metadata=[("client-id", "greedy")]
                )
            )
            assert "client 'greedy' has 4 calls under way" in error.details()
            infer(running)
            for _ in range(20):
                checked = health.Check(health_pb2.HealthCheckRequest())
                assert checked.status == health_pb2.HealthCheckResponse.SERVING
        finally:
            held.set()
            watched.cancel()
        for each in open_streams:
            assert list(each) == []
        assert next(opened("greedy")).infer_response.model_name == "sleeper"
        assert running.wait_settled()["ledger"]["balanced"]
        assert running.stop() == 0


LIVE = SERVICE + "ServerLive"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


def test_calls_that_do_not_end_leave_room_for_others(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    with (
        box(tmp_path, overrides=(OVERRIDE, "ingest.grpc.max_calls=8")) as running,
        ExitStack() as stack,
    ):
        running.wait_settled()
        address = grpc_address(running)

        def many(path: str, body: bytes | None) -> None:
            """Let two connections begin calls and end none: what is to come or to go does not."""
            for _ in range(2):
                client = stack.enter_context(RawClient(address, reads=False))
                for number in range(1, 2 * 60, 2):
                    client.open(number, path, client_id="greedy")
                    if body is not None:
                        client.frame(DATA, END_STREAM, number, body)
                client.ping()
                client.wait_for(PONG)

        for path, body in ((INFER, None), (LIVE, message(0)), (WATCH, message(0)), (CHECK, None)):
            many(path, body)
            with channel(running) as open_channel:
                answer = method(open_channel, "ModelInfer")(
                    request("sleeper", X), timeout=10, metadata=[("client-id", "other")]
                )
                assert answer.model_name == "sleeper"
                check = health_pb2_grpc.HealthStub(open_channel).Check
                asked = health_pb2.HealthCheckRequest()
                if path == CHECK:  # from the same address
                    error = refusal(lambda: check(asked, timeout=10))  # noqa: B023
                    assert "16 calls under way" in error.details()
                else:
                    assert check(asked, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
            stack.close()

        def is_free(_: object) -> bool:
            with channel(running) as open_channel, suppress(grpc.RpcError):
                streams = [
                    stream(open_channel)(iter([request("sleeper", X)] * 2), timeout=10)
                    for _ in range(4)
                ]
                return all(len(list(each)) == 2 for each in streams)
            return False

        running.wait_until(is_free)  # all places are there again
        assert running.stop() == 0


def test_one_that_watches_and_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    add_sleeper(tmp_path, ms=1)
    serving = health_pb2.HealthCheckResponse.SERVING
    with box(tmp_path, overrides=(OVERRIDE,)) as running, channel(running) as open_channel:
        running.wait_settled()
        check = health_pb2_grpc.HealthStub(open_channel).Check
        with ExitStack() as stack:
            for name in (b"", b"sleeper", b"inference.GRPCInferenceService"):
                asked = health_pb2.HealthCheckRequest(service=name.decode()).SerializeToString()
                client = stack.enter_context(RawClient(grpc_address(running), reads=False))
                client.open(1, WATCH)
                client.frame(DATA, END_STREAM, 1, message(len(asked), asked))
                client.ping()
                client.wait_for(PONG)
            running.kill_worker("cpu-0")
            for name in ("", "sleeper", "inference.GRPCInferenceService"):
                asked = health_pb2.HealthCheckRequest(service=name)
                running.wait_until(lambda _, asked=asked: check(asked).status == serving)
            running.kill_worker("cpu-0", signal.SIGSTOP)  # it is busy: its end is noticed as such
            running.kill_worker("cpu-0")
            running.wait_until(
                lambda _: check(health_pb2.HealthCheckRequest(service="sleeper")).status != serving
            )
            assert running.stop() == 0


def test_answers_that_nobody_reads_are_few(tmp_path: Path) -> None:
    add_python_model(
        tmp_path,
        "large",
        "import numpy as np\n\n"
        "def run(batch):\n"
        "    return {'action': np.zeros((len(batch['state']), 1 << 18), np.float32)}\n",
        'engine = "python"\ncallable = "policy:run"\nmax_batch = 1\n'
        '\n[[inputs]]\nname = "state"\ndtype = "float32"\nshape = [4]\n',
    )
    count, window_mib = 60, 3
    most = 4 * (16 + window_mib)  # of 1 MiB: ahead of the reader; with it, as it gives room for
    with box(tmp_path, overrides=(OVERRIDE,)) as running:
        running.wait_settled()
        # Left to itself gRPC's client gives room for as much as its connection seems to carry.
        bounds = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", window_mib * MIB)
        with channel(running, *bounds) as open_channel:
            before = rss_bytes(running)
            asked = [request("large", X, id=str(number)) for number in range(count)]
            heard = [stream(open_channel)(iter(asked)) for _ in range(4)]
            running.wait_until(lambda status: status["outcomes"].get("OK", 0) >= 4 * 16)
            assert running.wait_settled()["outcomes"]["OK"] <= most
            assert rss_bytes(running) - before <= 2 * most * MIB
            for each in heard:
                assert [answer.infer_response.id for answer in each] == [a.id for a in asked]
        assert running.wait_settled()["outcomes"]["OK"] == 4 * count
        assert running.stop() == 0
