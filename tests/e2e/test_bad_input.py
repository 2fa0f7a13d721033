"""Whatever a client sends: a typed outcome for it, nothing for anyone else, all of it counted."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from attrs import evolve
from PIL import Image
from support.box import Box, box
from support.fleet_models import add_sleeper
from support.repository import add_python_model

from appliance import Encoded, Outcome
from appliance.wire.pb import session_pb2
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import DType, Encoding, Observation, Tensor

SEES = """
engine = "python"
callable = "policy:run"
max_batch = 4

[[inputs]]
name = "image"
dtype = "uint8"
shape = [8, 8, 3]
decode = ["jpeg", "png"]
resize = [8, 8]
layout = "HWC"
max_pixels = 1000000
"""
HEARS = """
engine = "python"
callable = "policy:run"
max_batch = 4

[[inputs]]
name = "sound"
dtype = "float32"
shape = [-1]
decode = ["wav", "flac"]
sample_rate = 16000
max_samples = 16000
"""
ONES = """
import numpy as np

def run(batch):
    return {"seen": np.ones((len(next(iter(batch.values()))), 1), np.float32)}
"""
LARGE = (32 << 20) + 16
PLAIN = Tensor("state", DType.FLOAT32, (4,), 0, 16)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    root = tmp_path_factory.mktemp("models")
    add_sleeper(root, "sleeper", ms=1, max_batch=4)
    add_python_model(root, "image", ONES, SEES)
    add_python_model(root, "sound", ONES, HEARS)
    with box(root) as running:
        yield running


class Raw:
    """A DEALER that sends whatever it is told to."""

    def __init__(self, running: Box, identity: bytes | None = None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        if identity is not None:
            self.socket.set(zmq.IDENTITY, identity)
        self.socket.connect(running.address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart([b"", *frames])

    def answer(self, timeout_ms: int = 5000) -> tuple[Outcome, str] | None:
        if not self.socket.poll(timeout_ms):
            return None
        _, envelope, payload = self.socket.recv_multipart()
        response = decode_response(envelope, len(payload))
        return response.outcome, response.message

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def raw(running: Box) -> Iterator[Raw]:
    peer = Raw(running)
    yield peer
    peer.close()


@pytest.fixture(autouse=True)
def everything_is_counted_and_others_are_served(running: Box) -> Iterator[None]:
    before = running.wait_settled()
    yield
    with running.connect("bystander") as connection:
        policy = connection.model("sleeper", latency_budget_ms=1000)
        policy.observe(state=np.zeros(4, np.float32))
        answer = policy.wait(5000)
        assert answer is not None
        assert answer.status is Outcome.OK
    after = running.wait_settled()
    assert after["requests"]["asked"] >= before["requests"]["asked"] + 2
    assert sum(after["outcomes"].values()) == after["requests"]["asked"]
    assert after["ledger"]["balanced"]
    assert [w["generation"] for w in after["workers"]] == [1]


def observation(**changes: object) -> Observation:
    base = Observation(
        client_id="raw",
        model_id="sleeper",
        tensors=(PLAIN,),
        protocol_version=1,
        sequence=1,
        wants_status=True,
        latency_budget_us=1_000_000,
    )
    return evolve(base, **changes)


def message(**changes: object) -> bytes:
    return encode_observation(observation(**changes))


def unchecked(change: object) -> bytes:
    """An envelope with what our own encoder would refuse."""
    parsed = session_pb2.Observation.FromString(message())
    change(parsed)  # type: ignore[operator]
    return parsed.SerializeToString()


@pytest.mark.parametrize(
    ("envelope", "payload", "outcome", "says"),
    [
        (message(), bytes(8), Outcome.INVALID, "state"),
        (
            message(tensors=(evolve(PLAIN, shape=(LARGE // 4,), length=LARGE),)),
            bytes(LARGE),
            Outcome.TOO_LARGE,
            "payload",
        ),
        (message(tensors=(evolve(PLAIN, shape=(5,)),)), bytes(16), Outcome.INVALID, "state"),
        (message(tensors=(evolve(PLAIN, shape=(2, 2)),)), bytes(16), Outcome.INVALID, "shape"),
        (
            message(tensors=(evolve(PLAIN, dtype=DType.INT32),)),
            bytes(16),
            Outcome.INVALID,
            "FLOAT32",
        ),
        (message(tensors=()), b"", Outcome.INVALID, "needs tensor 'state'"),
        (
            message(tensors=(PLAIN, evolve(PLAIN, key="more", offset=16))),
            bytes(32),
            Outcome.INVALID,
            "more",
        ),
        (
            message(tensors=(PLAIN, evolve(PLAIN, key="other"))),
            bytes(16),
            Outcome.INVALID,
            "where 'state' ends",
        ),
        (
            message(tensors=tuple(evolve(PLAIN, key=f"t{i}", offset=16 * i) for i in range(300))),
            bytes(4800),
            Outcome.TOO_LARGE,
            "300",
        ),
        (message(model_id="nonesuch"), bytes(16), Outcome.UNKNOWN_MODEL, "sleeper"),
        (message(model_version="9"), bytes(16), Outcome.UNKNOWN_MODEL, "version"),
        (
            unchecked(lambda o: setattr(o, "urgency", math.nan)),
            bytes(16),
            Outcome.INVALID,
            "urgency",
        ),
        (
            unchecked(lambda o: setattr(o.tensors[0], "dtype", 99)),
            bytes(16),
            Outcome.INVALID,
            "dtype",
        ),
        (
            unchecked(lambda o: setattr(o.tensors[0], "encoding", 77)),
            bytes(16),
            Outcome.INVALID,
            "encoding",
        ),
        (
            unchecked(lambda o: o.tensors[0].shape.__setitem__(0, -4)),
            bytes(16),
            Outcome.INVALID,
            "state",
        ),
        (
            unchecked(lambda o: setattr(o.tensors[0], "byte_offset", 2**63)),
            bytes(16),
            Outcome.INVALID,
            "state",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_is_wrong_is_told_so(
    raw: Raw, envelope: bytes, payload: bytes, outcome: Outcome, says: str
) -> None:
    raw.send(envelope, payload)
    answer = raw.answer()
    assert answer is not None
    assert answer[0] is outcome, answer
    assert says in answer[1]


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff\xfe garbage", b""],
        [b"\x08"],
        [b""] * 7,
        [b"\x0a\xff\xff\xff\xff\x0f", b""],
    ],
    ids=["garbage", "too few frames", "too many frames", "a length that lies"],
)
def test_what_nobody_could_read_is_counted_as_invalid(
    running: Box, raw: Raw, frames: list[bytes]
) -> None:
    before = running.status()["outcomes"].get("INVALID", 0)
    raw.send(*frames)
    running.wait_until(lambda status: status["outcomes"].get("INVALID", 0) == before + 1)
    assert raw.answer(0) is None


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A JPEG whose header declares 60000 x 60000."""
    data = bytearray(jpeg(8, 8))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(data)


def wav(declared: int, actual: int) -> bytes:
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + declared, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16),
        *(b"data", declared),
    )
    return header + bytes(actual)


@pytest.mark.parametrize(
    ("key", "encoding", "data", "outcome"),
    [
        ("image", Encoding.JPEG, jpeg(8, 8), Outcome.OK),
        ("image", Encoding.JPEG, bomb(), Outcome.TOO_LARGE),
        ("image", Encoding.JPEG, jpeg(200, 200)[:-400], Outcome.INVALID),
        ("image", Encoding.JPEG, b"not a JPEG at all", Outcome.INVALID),
        ("image", Encoding.PNG, jpeg(8, 8), Outcome.INVALID),
        ("image", Encoding.WAV, wav(32, 32), Outcome.INVALID),
        ("sound", Encoding.WAV, wav(3200, 3200), Outcome.OK),
        ("sound", Encoding.WAV, wav(2_000_000_000, 3200), Outcome.INVALID),
        ("sound", Encoding.WAV, wav(64_000, 64_000), Outcome.TOO_LARGE),
        ("sound", Encoding.FLAC, b"fLaC" + bytes(50), Outcome.INVALID),
    ],
    ids=[
        *("image", "bomb", "truncated", "no image", "another format", "no image but a sound"),
        *("sound", "a header that lies", "too long", "an empty header"),
    ],
)
def test_images_and_sounds(
    running: Box, key: str, encoding: Encoding, data: bytes, outcome: Outcome
) -> None:
    with running.connect("camera") as connection:
        model = connection.model(key, latency_budget_ms=1000)
        model.observe_at({key: Encoded(data, encoding)})
        answer = model.wait(5000)
        assert answer is not None
        assert answer.status is outcome, answer.message


@pytest.mark.parametrize("identity", [b"x" * 255, b"\xff\xfe", None])
def test_identities_of_every_kind_are_answered(running: Box, identity: bytes | None) -> None:
    peer = Raw(running, identity)
    peer.send(message(protocol_version=0), bytes(16))
    answer = peer.answer()
    assert answer is not None
    assert answer[0] is Outcome.OK
    peer.close()


def test_an_identity_of_256_bytes_is_not_let_in(running: Box, tmp_path: Path) -> None:
    peer = Raw(running)
    with pytest.raises(zmq.ZMQError):
        peer.socket.set(zmq.IDENTITY, b"x" * 256)
    peer.send(message(), bytes(16))
    assert peer.answer() is not None
    peer.close()


def test_a_client_that_leaves_before_its_answer_is_counted_as_gone(running: Box) -> None:
    before = running.status()["outcomes"].get("CLIENT_GONE", 0)
    for _ in range(20):
        peer = Raw(running)
        peer.send(message(), bytes(16))
        running.wait_until(lambda status: status["clients"]["connected"] > 0)
        peer.close()
    running.wait_settled()
    assert running.status()["outcomes"].get("CLIENT_GONE", 0) >= before


def test_a_second_client_with_the_same_id_gets_its_own_answers_only(running: Box) -> None:
    first, second = running.connect("twin"), running.connect("twin")
    ours = first.model("sleeper", latency_budget_ms=1000)
    theirs = second.model("sleeper", latency_budget_ms=1000)
    for i in range(20):
        ours.observe(state=np.full(4, i, np.float32))
        theirs.observe(state=np.full(4, 100 + i, np.float32))
        for model, wanted in ((ours, i + 1), (theirs, 101 + i)):
            answer = model.wait(5000)
            assert answer is not None
            assert answer.status is Outcome.OK
            assert answer["action"][0] == wanted
    first.close()
    second.close()


def test_an_old_client_is_never_sent_an_error(running: Box) -> None:
    peer = Raw(running, b"old")
    old = {"protocol_version": 0, "wants_status": False, "sequence": 0}
    peer.send(message(model_id="nonesuch", **old), bytes(16))
    peer.send(message(**old), bytes(8))
    peer.send(message(**old), bytes(16))
    answer = peer.answer()
    assert answer is not None
    assert answer[0] is Outcome.OK
    assert peer.answer(0) is None
    peer.close()


def test_a_client_that_never_reads_loses_only_its_own_replies(running: Box) -> None:
    deaf = Raw(running)
    deaf.socket.set(zmq.RCVHWM, 1)
    for i in range(1000):
        deaf.send(message(model_id="nonesuch", sequence=i, tensors=()), b"")
    status = running.wait_until(lambda status: status["outcomes"]["UNKNOWN_MODEL"] >= 1000)
    assert status["replies_lost"]["slow_reader"] > 0
    deaf.close()
