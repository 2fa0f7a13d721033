"""An observation against a model's spec, by headers alone."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
from PIL import Image

from appliance.admission.tensors import Feed, match
from appliance.errors import Outcome, Rejected
from appliance.wire.spec import FREE, InputSpec, ModelSpec
from appliance.wire.types import DType, Encoding, Observation, Tensor

FIXED = InputSpec("x", "joints", DType.FLOAT32, (7,), (7,))
OPEN = InputSpec("x", "points", DType.FLOAT32, (FREE, 3), (FREE, 3))
PROMPT = InputSpec("p", "metadata:prompt", DType.STRING, (1,), (1,), max_bytes=16)
CODECS = (Encoding.RAW, Encoding.JPEG, Encoding.PNG)
IMAGE = InputSpec(
    "i", "camera", DType.UINT8, (FREE, FREE, 3), (3, 48, 64), CODECS, max_pixels=100 * 100
)
OPEN_IMAGE = InputSpec(
    "i", "camera", DType.UINT8, (FREE, FREE, 3), (FREE, FREE, 3), CODECS, max_pixels=100 * 100
)
SOUND = InputSpec(
    "s",
    "microphone",
    DType.FLOAT32,
    (FREE,),
    (FREE,),
    (Encoding.RAW, Encoding.WAV, Encoding.FLAC),
    max_samples=1000,
)

Sent = tuple[str, DType, tuple[int, ...], bytes, Encoding]


def raw(key: str, shape: tuple[int, ...], dtype: DType = DType.FLOAT32) -> Sent:
    item_bytes = {DType.FLOAT32: 4, DType.UINT8: 1, DType.INT32: 4}[dtype]
    return key, dtype, shape, bytes(int(np.prod(shape)) * item_bytes), Encoding.RAW


def image(height: int, width: int, encoding: Encoding = Encoding.PNG) -> Sent:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, encoding.name)
    return "camera", DType.UINT8, (), file.getvalue(), encoding


def sound(frames: int, channels: int = 1, encoding: Encoding = Encoding.WAV) -> Sent:
    file = io.BytesIO()
    if encoding is Encoding.WAV:
        with wave.open(file, "wb") as writer:
            writer.setparams((channels, 2, 16000, frames, "NONE", ""))
            writer.writeframes(bytes(2 * frames * channels))
    else:
        soundfile.write(file, np.zeros((frames, channels), "int16"), 16000, format="FLAC")
    return "microphone", DType.FLOAT32, (), file.getvalue(), encoding


def matched(
    inputs: Sequence[InputSpec], sent: Sequence[Sent] = (), **metadata: str
) -> tuple[list[Feed], tuple[tuple[int, ...], ...]]:
    tensors: list[Tensor] = []
    payload = b""
    for key, dtype, shape, data, encoding in sent:
        tensors.append(Tensor(key, dtype, shape, len(payload), len(data), encoding))
        payload += data
    spec = ModelSpec("policy", "1", tuple(inputs), ())
    observation = Observation(model_id="policy", tensors=tuple(tensors), metadata=metadata)
    return match(spec, observation, memoryview(payload))


def refused(
    outcome: Outcome, inputs: Sequence[InputSpec], sent: Sequence[Sent] = (), **metadata: str
) -> str:
    with pytest.raises(Rejected) as caught:
        matched(inputs, sent, **metadata)
    assert caught.value.outcome is outcome
    return caught.value.message


def test_feeds_come_in_the_order_of_the_models_inputs_and_hold_their_own_bytes() -> None:
    second = InputSpec("y", "speed", DType.UINT8, (2,), (2,))
    speed = ("speed", DType.UINT8, (2,), b"\x01\x02", Encoding.RAW)
    feeds, shapes = matched([FIXED, second], [speed, raw("joints", (7,))])
    assert [bytes(feed.data or b"") for feed in feeds] == [bytes(28), b"\x01\x02"]
    assert [feed.shape for feed in feeds] == [(7,), (2,)]
    assert shapes == ((), ())


def test_a_missing_tensor_is_named_with_those_that_came() -> None:
    message = refused(Outcome.INVALID, [FIXED, PROMPT], [raw("joint", (7,))], prompt="go")
    assert message == "model 'policy' needs tensor 'joints'; came: 'joint'"
    assert refused(Outcome.INVALID, [FIXED]).endswith("came: none")


def test_an_extra_tensor_is_named_with_those_that_are_taken() -> None:
    message = refused(Outcome.INVALID, [FIXED], [raw("joints", (7,)), raw("speed", (2,))])
    assert message == "model 'policy' takes 'joints'; it does not take 'speed'"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (raw("joints", (7,), DType.INT32), "expected dtype FLOAT32, came INT32"),
        (raw("joints", (6,)), "expected shape [7], came [6]"),
        (raw("joints", (7, 1)), "expected shape [7], came [7, 1]"),
        (raw("joints", (1, 1, 7)), "expected shape [7], came [1, 1, 7]"),
        (raw("joints", (2, 7)), "expected shape [7], came [2, 7]"),
        (raw("joints", ()), "expected shape [7], came []"),
        (
            ("joints", DType.FLOAT32, (7,), bytes(28), Encoding.JPEG),
            "expected encoding RAW, came JPEG",
        ),
    ],
)
def test_a_wrong_tensor_hears_what_was_expected_and_what_came(sent: Sent, expected: str) -> None:
    assert refused(Outcome.INVALID, [FIXED], [sent]) == f"tensor 'joints': {expected}"


def test_a_batch_of_one_is_a_row() -> None:
    feeds, _ = matched([FIXED], [raw("joints", (1, 7))])
    assert feeds[0].shape == (7,)


@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 3)])
def test_an_open_dimension_takes_any_size_which_decides_the_lane(shape: tuple[int, ...]) -> None:
    feeds, shapes = matched([OPEN], [raw("points", shape)])
    assert feeds[0].shape == (5, 3)
    assert shapes == ((5, 3),)


def test_the_dimensions_that_are_not_open_still_count() -> None:
    message = refused(Outcome.INVALID, [OPEN], [raw("points", (5, 2))])
    assert message == "tensor 'points': expected shape [any, 3], came [5, 2]"


def test_an_empty_tensor_is_refused() -> None:
    assert "is empty" in refused(Outcome.INVALID, [OPEN], [raw("points", (0, 3))])


def test_a_tensor_larger_than_the_model_takes_is_too_large() -> None:
    small = InputSpec("x", "points", DType.FLOAT32, (FREE, 3), (FREE, 3), max_bytes=120)
    matched([small], [raw("points", (10, 3))])
    message = refused(Outcome.TOO_LARGE, [small], [raw("points", (11, 3))])
    assert message == "tensor 'points': at most 120 bytes, came 132"


@pytest.mark.parametrize("encoding", [Encoding.PNG, Encoding.JPEG])
def test_an_encoded_image_is_taken_within_its_pixels(encoding: Encoding) -> None:
    feeds, shapes = matched([IMAGE], [image(100, 100, encoding)])
    assert (feeds[0].encoding, feeds[0].shape) == (encoding, ())
    assert shapes == ((),)  # it is resized: any image shares a batch
    message = refused(Outcome.TOO_LARGE, [IMAGE], [image(101, 100, encoding)])
    assert message == "tensor 'camera': at most 10000 pixels, came 10100"


def test_a_raw_image_is_held_to_the_same_pixels() -> None:
    matched([IMAGE], [raw("camera", (100, 100, 3), DType.UINT8)])
    refused(Outcome.TOO_LARGE, [IMAGE], [raw("camera", (101, 100, 3), DType.UINT8)])


def test_a_broken_image_is_named() -> None:
    broken = ("camera", DType.UINT8, (), b"no image at all", Encoding.JPEG)
    assert refused(Outcome.INVALID, [IMAGE], [broken]).startswith("tensor 'camera': JPEG: ")


def test_images_of_one_size_share_a_lane_raw_or_encoded() -> None:
    lanes = {
        matched([OPEN_IMAGE], [sent])[1]
        for sent in (
            image(40, 30),
            image(40, 30, Encoding.JPEG),
            raw("camera", (40, 30, 3), DType.UINT8),
        )
    }
    assert lanes == {((40, 30),)}
    assert matched([OPEN_IMAGE], [image(30, 40)])[1] == ((30, 40),)


def test_sounds_of_one_length_share_a_lane_raw_or_encoded() -> None:
    sent = (
        sound(500),
        sound(500, 2),
        sound(500, 1, Encoding.FLAC),
        raw("microphone", (500,)),
    )
    assert {matched([SOUND], [one])[1] for one in sent} == {((500,),)}


@pytest.mark.parametrize(
    "sent", [sound(1001), sound(501, 2), sound(1001, 1, Encoding.FLAC), raw("microphone", (1001,))]
)
def test_a_sound_with_too_many_samples_is_too_large(sent: Sent) -> None:
    assert "at most 1000 samples" in refused(Outcome.TOO_LARGE, [SOUND], [sent])


def test_a_string_from_the_metadata_has_the_wires_form() -> None:
    feeds, shapes = matched([PROMPT], prompt="größer")
    assert feeds[0].data == b"\x08\x00\x00\x00" + "größer".encode()
    assert (feeds[0].dtype, feeds[0].shape) == (DType.STRING, (1,))
    assert shapes == ((),)


def test_missing_metadata_is_named() -> None:
    assert refused(Outcome.INVALID, [PROMPT]) == "metadata 'prompt' is missing"


def test_a_string_is_measured_in_bytes() -> None:
    matched([PROMPT], prompt="ö" * 8)
    message = refused(Outcome.TOO_LARGE, [PROMPT], prompt="ö" * 9)
    assert message == "metadata 'prompt': at most 16 bytes, came 18"


def test_metadata_that_no_input_takes_is_nobodys_business() -> None:
    matched([FIXED], [raw("joints", (7,))], note="hello")


def test_what_is_optional_may_be_left_out() -> None:
    joints = InputSpec("x", "joints", DType.FLOAT32, (7,), (7,), optional=True)
    prompt = InputSpec("p", "metadata:prompt", DType.STRING, (1,), (1,), optional=True)
    feeds, shapes = matched([joints, prompt])
    assert [feed.data for feed in feeds] == [None, None]
    assert shapes == ((), ())
    feeds, _ = matched([joints, prompt], [raw("joints", (7,))], prompt="")
    assert [feed.data is None for feed in feeds] == [False, False]


def test_a_scalar_may_come_as_a_vector_of_one() -> None:
    scalar = InputSpec("x", "speed", DType.FLOAT32, (), ())
    assert matched([scalar], [raw("speed", (1,))])[0][0].shape == ()
