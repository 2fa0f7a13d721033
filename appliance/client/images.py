"""Which images of an observation are compressed here, and into what. PURE but for the codec.

An observation with such images is a `Job`: its images, copied once, and everything else that it
sends, laid out already. Whoever does the job returns a `Done`. What the model takes decides: an
input that takes JPEG gets it, and what the appliance would only make smaller is made smaller here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, instance_of, le
from numpy.typing import NDArray

from appliance.client.codec import pack_inputs
from appliance.client.result import Encoded
from appliance.errors import ExtraMissing
from appliance.wire.spec import InputSpec
from appliance.wire.types import Encoding, Tensor

if TYPE_CHECKING:
    from types import ModuleType


@frozen
class JpegImages:
    """Compress images here, off the caller's thread: `model("arm", images=JpegImages())`.

    An image is a uint8 array [height, width, 3], RGB, or [height, width, 1]. If the model takes it
    as JPEG it is sent so; if the appliance would make it smaller, that is done here, before.

    Attributes:
        quality: 1 to 100.
        resize: Whether to make images smaller here.

    Raises:
        ExtraMissing: The extra `images` is not installed.
        ValueError: `quality` is out of range.
    """

    quality: int = field(default=85, validator=and_(instance_of(int), ge(1), le(100)))
    resize: bool = True

    def __attrs_post_init__(self) -> None:
        codec()


Images = JpegImages | Mapping[str, JpegImages]
"""For all images of a model, or by key for some."""


@frozen
class Frame:
    """One image: pixels of our own, uint8[height, width, 1 or 3], and what to do with them."""

    key: str
    pixels: NDArray[np.uint8]
    images: JpegImages


@frozen
class Job:
    """An observation whose images are not compressed yet.

    Attributes:
        headers: Of its other tensors.
        payload: Their bytes.
        inputs: What the model takes, by key; empty if nobody knows.
    """

    model_id: str
    sequence: int
    frames: tuple[Frame, ...]
    headers: tuple[Tensor, ...]
    payload: bytes
    timestamp_ns: int
    inputs: Mapping[str, InputSpec] = {}


@frozen
class Done:
    """What came of a job: the headers of all tensors and the payload, or which image failed."""

    model_id: str
    sequence: int
    headers: tuple[Tensor, ...] = ()
    payload: bytes = b""
    error: str = ""


def codec() -> ModuleType:
    """Return what resizes and compresses.

    Raises:
        ExtraMissing: It is not installed.
    """
    try:
        from appliance.client import jpeg  # noqa: PLC0415  the base install is without
    except ImportError as error:
        raise ExtraMissing(
            f"{error.name} is not installed: pip install 'appliance[images]'"
        ) from error
    return jpeg


def check_images(images: object) -> None:
    """Refuse what is no `images` option.

    Raises:
        TypeError: It is not a `JpegImages`, a mapping of keys to such, or None.
    """
    by_key = isinstance(images, Mapping)
    each = cast("Mapping[str, object]", images).values() if by_key else (images,)
    for item in each:
        if not isinstance(item, JpegImages) and images is not None:
            raise TypeError(
                "images: JpegImages, a dict of key to JpegImages or None is expected, "
                f"{type(item).__name__} came"
            )


def take_frames(
    values: Mapping[str, Any], images: Images, inputs: Mapping[str, InputSpec]
) -> tuple[Frame, ...]:
    """Copy the images among an observation's values that something is to be done with here."""
    frames: list[Frame] = []
    for key, value in values.items():
        options = images if isinstance(images, JpegImages) else images.get(key)
        if options is None or not isinstance(value, np.ndarray):
            continue
        pixels = cast("NDArray[Any]", value)
        if pixels.dtype != np.uint8:
            continue
        if pixels.ndim == 4 and len(pixels) == 1:
            pixels = pixels[0]
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
            continue  # another tensor; the appliance says if it is a wrong one
        item = inputs.get(key)
        if item is None or Encoding.JPEG in item.encodings or _smaller(pixels, item, options):
            frames.append(Frame(key, np.array(pixels, order="C"), options))
    return tuple(frames)


def do(job: Job) -> Done:
    """Do a job; what goes wrong is said in what is returned."""
    made: dict[str, Encoded | NDArray[np.uint8]] = {}
    key = ""
    try:
        for frame in job.frames:
            key = frame.key
            made[key] = _made(frame, job.inputs.get(key))
        images, _, files = pack_inputs(made, job.timestamp_ns)
        start = len(job.payload)
        moved = tuple(evolve(header, offset=start + header.offset) for header in images)
        return Done(job.model_id, job.sequence, (*job.headers, *moved), job.payload + files)
    except Exception as error:  # noqa: BLE001  codecs raise what they like
        reason = str(error) or type(error).__name__
        error_text = f"{key!r}: the image cannot be compressed: {reason}"
        return Done(job.model_id, job.sequence, error=error_text)


def _made(frame: Frame, item: InputSpec | None) -> Encoded | NDArray[np.uint8]:
    pixels = frame.pixels
    if item is not None and _smaller(pixels, item, frame.images):
        pixels = codec().resize(pixels, *item.resize)
    if item is None or Encoding.JPEG not in item.encodings:  # raw is what is taken nearly always
        return pixels
    data = codec().compress(pixels, frame.images.quality)
    return Encoded(data, Encoding.JPEG, pixels.shape)


def _smaller(pixels: NDArray[np.uint8], item: InputSpec, images: JpegImages) -> bool:
    """Return whether the appliance would make it smaller, which is done here then."""
    if not images.resize or not item.resize:
        return False
    height, width = pixels.shape[:2]
    return item.resize[0] * item.resize[1] < height * width
