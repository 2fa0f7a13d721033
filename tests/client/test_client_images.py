"""Images: compressed beside the control loop, passed through, made as small as the model wants."""

from __future__ import annotations

import array
import asyncio
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import trio
from fake_appliance import PATIENCE_MS, FakeAppliance, Received
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from appliance import (
    AsyncConnection,
    Connection,
    Encoded,
    ExtraMissing,
    JpegImages,
    Outcome,
    Result,
    TrioConnection,
)
from appliance.client import encoder as encoder_module
from appliance.client import jpeg
from appliance.client.handle import ModelHandle
from appliance.client.images import Job, do, take_frames
from appliance.engines.preprocess import Preprocessor
from appliance.errors import LocalProtocolError
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.structure import structure
from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import DType, Encoding, Kind

Pixels = NDArray[np.uint8]
pytestmark = pytest.mark.usefixtures("no_second_look")
BOTH = (Encoding.RAW, Encoding.JPEG)


def scene(height: int = 48, width: int = 64, channels: int = 3) -> Pixels:
    """Return smooth shapes with some noise, as a camera sees."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, channels))
    waves = 128 + 60 * np.sin(x / 9 + c) + 50 * np.cos(y / 7 - c)
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def spec(*cameras: str, **fields: Any) -> ModelSpec:
    """Return the spec of a model with these cameras."""
    fields = {"encodings": BOTH, **fields}
    return ModelSpec(
        "p",
        "1",
        tuple(
            InputSpec(name, name, DType.UINT8, (-1, -1, 3), (-1, -1, 3), **fields)
            for name in cameras
        ),
        (),
    )


def tell(appliance: FakeAppliance, told: ModelSpec) -> None:
    """Answer the question what the model takes."""
    asked = appliance.receive()
    assert asked.observation.kind is Kind.DESCRIBE
    appliance.reply(asked, spec=told)


def parts(received: Received) -> dict[str, bytes]:
    tensors = received.observation.tensors
    return {t.key: received.payload[t.offset : t.offset + t.length] for t in tensors}


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(data)))


def unlike(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the mean difference of two images."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def encoders() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "appliance images"]


class Gate:
    """Holds the encoder up until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def compress(self, pixels: Pixels, quality: int) -> bytes:
        self.entered.release()
        assert self.opened.wait(PATIENCE_MS / 1000)
        return bytes([pixels[0, 0, 0], quality])

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=PATIENCE_MS / 1000)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(jpeg, "compress", made.compress)
    yield made
    made.opened.set()


def pumped(connection: Connection, appliance: FakeAppliance) -> Received:
    """Return the next message, the connection moving it meanwhile."""
    while not appliance.has_message():
        connection.wait_settled(1)
    return appliance.receive()


def test_an_image_goes_as_jpeg_and_its_buffer_is_free_at_once(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p", images=JpegImages(quality=90))
    tell(appliance, spec("camera"))
    frame, joints = scene(), np.arange(7, dtype=np.float32)
    before, joints_before = frame.copy(), joints.copy()
    sequence = model.observe(camera=frame, joints=joints, prompt="pick")
    frame[:] = 0
    joints[:] = 0
    received = pumped(connection, appliance)
    assert received.observation.sequence == sequence
    assert received.observation.metadata == {"prompt": "pick"}
    assert {t.key: t.encoding for t in received.observation.tensors} == {
        "joints": Encoding.RAW,
        "camera": Encoding.JPEG,
    }
    sent = parts(received)
    assert sent["joints"] == joints_before.tobytes()
    assert unlike(decoded(sent["camera"]), before) < 5
    assert len(sent["camera"]) < before.nbytes / 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "wrapped", [bytes, bytearray, memoryview, lambda data: memoryview(array.array("B", data))]
)
def test_what_is_compressed_already_passes_untouched(
    appliance: FakeAppliance, connection: Connection, kind: str, wrapped: Callable[[bytes], Any]
) -> None:
    file = BytesIO()
    Image.fromarray(scene()).save(file, kind)
    model = connection.model("p", images=JpegImages())
    tell(appliance, spec("camera"))
    model.observe(camera=wrapped(file.getvalue()), state=np.zeros(2, np.float32))
    received = appliance.receive()
    assert parts(received)["camera"] == file.getvalue()
    assert received.observation.tensors[0].encoding is Encoding[kind]
    model.observe(camera=Encoded(file.getvalue(), kind))
    assert parts(appliance.receive()) == {"camera": file.getvalue()}


def test_other_bytes_are_no_value(connection: Connection) -> None:
    with pytest.raises(TypeError, match="'camera': bytes are taken for a JPEG or PNG file"):
        connection.model("p").observe(camera=b"GIF89a")


def test_each_camera_as_it_is_told(appliance: FakeAppliance, connection: Connection) -> None:
    model = connection.model("p", images={"front": JpegImages(95), "wrist": JpegImages(20)})
    tell(appliance, spec("front", "wrist", "depth"))
    model.observe(front=scene(), wrist=scene(), depth=scene())
    received = pumped(connection, appliance)
    sent = parts(received)
    assert sent["depth"] == scene().tobytes()
    assert len(sent["wrist"]) < len(sent["front"]) / 2


@pytest.mark.parametrize(
    "value",
    [
        scene()[:, :, 0],
        scene().astype(np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_stays_as_it_is(value: NDArray[Any]) -> None:
    assert take_frames({"x": value, "y": "text", "z": None}, JpegImages(), {}) == ()


def test_a_row_of_one_and_a_view_are_images() -> None:
    frames = take_frames({"x": scene()[None], "y": scene()[:, ::-1]}, JpegImages(), {})
    for frame, expected in zip(frames, (scene(), scene()[:, ::-1]), strict=True):
        assert_array_equal(frame.pixels, expected)
        assert frame.pixels.flags.c_contiguous


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(24, 32), (47, 64), (20, 60)])
def test_made_smaller_as_the_appliance_does(size: tuple[int, int], channels: int) -> None:
    document = {"name": "x", "dtype": "uint8", "resize": list(size), "decode": ["jpeg"]}
    if channels == 1:
        document["color"] = "GRAY"
    plan = input_plan(structure(document, Input, "test"), None, 1)
    there = Preprocessor(plan)

    def row(pixels: Pixels) -> Pixels:
        out = np.empty(there.row_shape(pixels.shape), there.dtype)
        there.write(pixels, out)
        return out

    def sent(item: InputSpec) -> Any:
        frames = take_frames({"x": scene(channels=channels)}, JpegImages(90), {"x": item})
        done = do(Job("p", 1, frames, (), b"", 0, {"x": item}))
        assert not done.error
        (header,) = done.headers
        assert header.shape == (*size, channels)
        return header.encoding, done.payload

    # Raw, for a model that takes no files: exactly its pixels.
    raw = InputSpec("x", "x", DType.UINT8, (-1, -1, channels), (), resize=size)
    encoding, payload = sent(raw)
    assert encoding is Encoding.RAW
    expected = row(scene(channels=channels))
    assert_array_equal(np.frombuffer(payload, np.uint8).reshape(expected.shape), expected)
    # As JPEG: off by what the compression of the smaller image takes.
    encoding, payload = sent(plan.spec)
    assert encoding is Encoding.JPEG
    assert unlike(row(there.decode(payload, Encoding.JPEG)), expected) < 3


@pytest.mark.parametrize(
    ("images", "resize"), [(JpegImages(), (96, 128)), (JpegImages(resize=False), (24, 32))]
)
def test_never_made_larger_nor_smaller_if_not_wanted(
    appliance: FakeAppliance,
    connection: Connection,
    images: JpegImages,
    resize: tuple[int, int],
) -> None:
    model = connection.model("p", images=images)
    tell(appliance, spec("camera", resize=resize))
    model.observe(camera=scene())
    assert decoded(parts(pumped(connection, appliance))["camera"]).shape == (48, 64, 3)


def test_a_model_that_takes_no_jpeg_gets_none(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p", images=JpegImages())
    tell(appliance, spec("camera", encodings=(Encoding.RAW,)))
    model.observe(camera=scene())
    assert parts(pumped(connection, appliance))["camera"] == scene().tobytes()
    model.observe(camera=scene())  # now it is known: at once
    assert parts(appliance.receive())["camera"] == scene().tobytes()


def test_an_image_that_fails_ends_its_observation_alone(
    appliance: FakeAppliance, connection: Connection
) -> None:
    model = connection.model("p", images=JpegImages())
    tell(appliance, spec("front", "wrist"))
    since_ns = time.monotonic_ns()
    broken = model.observe(front=scene(), wrist=np.zeros((1, 70_000, 3), np.uint8))
    result = check_refused(model.wait(PATIENCE_MS), since_ns)
    assert result.sequence == broken
    assert "'wrist'" in result.message
    assert "65535" in result.message
    assert model.last_status is Outcome.INVALID
    sequence = model.observe(front=scene())
    assert pumped(connection, appliance).observation.sequence == sequence
    statistics = connection.statistics()
    assert (statistics.asked, statistics.outstanding) == (2, 1)
    assert statistics.answers == {Outcome.INVALID: 1}
    assert statistics.encoding_failed == 1


def test_the_newest_waits_and_observing_does_not(
    appliance: FakeAppliance, connection: Connection, gate: Gate
) -> None:
    model = connection.model("p", images=JpegImages())
    tell(appliance, spec("camera"))
    frame = np.zeros((4, 4, 3), np.uint8)
    connection._link.wait(lambda: bool(model._channel.known.inputs), PATIENCE_MS)
    first = model.observe(camera=frame)
    gate.wait_entered()
    began_ns = time.monotonic_ns()
    for value in range(1, 10):
        frame[:] = value
        last = model.observe(camera=frame)
    assert connection.statistics().superseded_locally == 8
    while time.monotonic_ns() - began_ns < 3_000_000:
        connection.pump()
    gate.opened.set()
    received = [pumped(connection, appliance) for _ in range(2)]
    assert [each.observation.sequence for each in received] == [first, last]
    assert [each.payload[0] for each in received] == [0, 9]
    assert all(each.observation.age_us >= 3000 for each in received)  # from the capture on


def test_nothing_of_an_old_episode_is_sent(
    appliance: FakeAppliance, connection: Connection, gate: Gate
) -> None:
    model = connection.model("p", images=JpegImages())
    tell(appliance, spec("camera"))
    connection._link.wait(lambda: bool(model._channel.known.inputs), PATIENCE_MS)
    with model.episode() as episode:
        for _ in range(2):
            episode.observe(camera=scene())
        gate.wait_entered()
        episode.reset()
        episode.observe(camera=scene())
        gate.opened.set()
        ended = pumped(connection, appliance).observation
        assert (ended.kind, ended.episode) == (Kind.END_EPISODE, 1)
        observed = pumped(connection, appliance).observation
        assert (observed.kind, observed.episode) == (Kind.OBSERVE, 2)
    assert connection.statistics().answers == {Outcome.CANCELLED: 2}


def test_an_observation_on_its_way_to_the_wire_is_under_way(
    appliance: FakeAppliance, connection: Connection, gate: Gate
) -> None:
    model = connection.model("p", images=JpegImages())
    with model.episode() as episode:
        now_ns = time.monotonic_ns()
        assert episode.due(now_ns)
        episode.observe(now_ns, camera=scene())
        assert not episode.due(now_ns + 1_000_000_000)


def test_every_observation_in_order(appliance: FakeAppliance, connection: Connection) -> None:
    model = connection.model("p", keep="all", images=JpegImages())
    tell(appliance, spec("camera"))
    asked = [
        model.observe(camera=scene()) if number % 3 else model.observe(state=np.zeros(1))
        for number in range(9)
    ]
    model.end_episode()
    arrived = [pumped(connection, appliance).observation for _ in range(10)]
    assert [each.sequence for each in arrived[:-1]] == asked
    assert arrived[-1].kind is Kind.END_EPISODE


def test_an_event_loop_of_its_own_hears_of_it(
    appliance: FakeAppliance, connection: Connection, gate: Gate
) -> None:
    """Who waits on the descriptor alone is woken by an image that is done."""
    descriptor = connection.fileno()
    model = connection.model("p", images=JpegImages())
    tell(appliance, spec("camera"))
    while not model._channel.known.inputs:
        assert select.select([descriptor], [], [], PATIENCE_MS / 1000)[0]
        connection.pump()
    model.observe(camera=scene())
    while select.select([descriptor], [], [], 0)[0]:
        connection.pump()
    assert not appliance.has_message()
    gate.opened.set()
    assert select.select([descriptor], [], [], PATIENCE_MS / 1000)[0]
    connection.pump()
    assert parts(appliance.receive()).keys() == {"camera"}
    while select.select([descriptor], [], [], 0)[0]:  # and is quiet again
        connection.pump()


def check_refused(result: Result | None, since_ns: int) -> Result:
    """Check that who waited was woken by an image that failed."""
    assert result is not None
    assert result.status is Outcome.INVALID
    assert time.monotonic_ns() - since_ns < PATIENCE_MS * 1_000_000 / 2
    return result


def see(model: ModelHandle) -> Pixels:
    """Observe an image; return what is to arrive."""
    model.observe_at({"camera": scene()})
    return scene()


def test_asyncio(appliance: FakeAppliance) -> None:
    async def main() -> None:
        async with AsyncConnection(appliance.address, reconnect_ivl_ms=10) as connection:
            heard = asyncio.ensure_future(connection.wait_reachable(PATIENCE_MS))
            appliance.reply(await appliance.arrival(heartbeat=True))
            assert await heard
            model = connection.model("p", images=JpegImages())  # after the loop watches
            model.cancel(0)
            asked = await appliance.arrival()
            appliance.reply(asked, spec=spec("camera"))
            seen = see(model)
            assert unlike(decoded(parts(await appliance.arrival())["camera"]), seen) < 5
            since_ns = time.monotonic_ns()
            await model.observe(camera=np.zeros((1, 70_000, 3), np.uint8))
            check_refused(await model.wait(PATIENCE_MS), since_ns)

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_MS / 1000))
    assert not encoders()


async def test_trio(appliance: FakeAppliance) -> None:
    async def arrival() -> Received:
        while not appliance.has_message():  # noqa: ASYNC110  the other end is no part of Trio
            await trio.sleep(0.001)
        return appliance.receive()

    with trio.fail_after(PATIENCE_MS / 1000):
        async with TrioConnection(appliance.address, reconnect_ivl_ms=10) as connection:
            model = connection.model("p", images=JpegImages())
            appliance.reply(await arrival(), spec=spec("camera"))
            seen = see(model)
            assert unlike(decoded(parts(await arrival())["camera"]), seen) < 5
            since_ns = time.monotonic_ns()
            await model.observe(camera=np.zeros((1, 70_000, 3), np.uint8))
            check_refused(await model.wait(PATIENCE_MS), since_ns)
    assert not encoders()


def test_closing_waits_for_no_encoder(
    appliance: FakeAppliance, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "CLOSE_S", 0.01)
    connection = Connection(appliance.address)
    assert not encoders()  # there is one only where it is used
    model = connection.model("p", images=JpegImages())
    connection._link.wait(lambda: connection._link.up, PATIENCE_MS)
    connection.pump()
    tell(appliance, spec("camera"))
    connection._link.wait(lambda: bool(model._channel.known.inputs), PATIENCE_MS)
    model.observe(camera=scene())
    gate.wait_entered()
    connection.close()
    statistics = connection.statistics()
    assert (statistics.unanswered, statistics.outstanding) == (1, 0)
    gate.opened.set()
    for thread in encoders():  # it ends by itself
        thread.join(PATIENCE_MS / 1000)
    assert not encoders()


def test_closing_ends_the_encoder(appliance: FakeAppliance) -> None:
    with Connection(appliance.address) as connection:
        connection.model("p", images=JpegImages())
        assert len(encoders()) == 1
    assert not encoders()
    with pytest.raises(LocalProtocolError, match="closed"):
        connection.model("p", images=JpegImages())
    assert not encoders()


def test_without_the_extra_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("appliance.client.jpeg")
    monkeypatch.delitem(sys.modules, "appliance.client.jpeg")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ExtraMissing, match=r"simplejpeg.*pip install 'appliance\[images\]'"):
        JpegImages()


def test_what_is_no_option(connection: Connection) -> None:
    with pytest.raises(ValueError, match="quality"):
        JpegImages(quality=101)
    for wrong in ("jpeg", {"camera": 85}):
        with pytest.raises(TypeError, match="images: JpegImages, a dict"):
            connection.model("p", images=wrong)  # type: ignore[arg-type]


def test_of_a_model_that_nothing_is_known_of_images_go_as_they_are() -> None:
    frames = take_frames({"front": scene()}, JpegImages(), {})
    done = do(Job("p", 1, frames, (), b"", 0))
    (header,) = done.headers
    assert (header.encoding, header.shape) == (Encoding.RAW, (48, 64, 3))
    assert done.payload == scene().tobytes()


def test_what_is_not_to_its_liking_is_asked_about(
    appliance: FakeAppliance, connection: Connection
) -> None:
    camera = connection.model("p", images=JpegImages())
    described = appliance.receive()
    assert described.observation.kind is Kind.DESCRIBE
    appliance.reply(described, Outcome.LOADING)
    connection.wait_reachable(PATIENCE_MS)
    thread = appliance.reply_from_a_thread(Outcome.INVALID)
    camera.observe(front=scene())
    assert camera.wait(PATIENCE_MS) is not None
    thread.join()
    connection._link.pump()
    assert appliance.receive().observation.kind is Kind.DESCRIBE


def test_a_connection_is_its_process_s(connection: Connection) -> None:
    model = connection.model("p")
    connection._link._pid = -1
    with pytest.raises(LocalProtocolError, match="process that made it"):
        model.observe(front=scene())
