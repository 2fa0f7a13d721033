"""Does an observation hold what its model takes? Headers only: nothing is decoded here.

`match` returns the observation's tensors in the order of the model's inputs, and the shapes that
decide which requests may share a batch.
"""

from __future__ import annotations

from math import prod

from appliance.errors import Outcome, Rejected
from appliance.values import value
from appliance.wire.media import audio_header, image_header
from appliance.wire.spec import FREE, METADATA, InputSpec, ModelSpec
from appliance.wire.types import DType, Encoding, Observation, Tensor

IMAGES = (Encoding.JPEG, Encoding.PNG)
SOUNDS = (Encoding.WAV, Encoding.FLAC)
_RAW = Encoding.RAW  # members are slow to find before Python 3.12


@value
class Feed:
    """What one model input is fed from.

    Attributes:
        data: Its bytes in the received payload; None is an optional input that was left out.
        dtype, encoding, shape: Of `data`.
    """

    data: memoryview | bytes | None
    dtype: DType
    encoding: Encoding
    shape: tuple[int, ...]


def match(
    spec: ModelSpec, observation: Observation, payload: memoryview
) -> tuple[list[Feed], tuple[tuple[int, ...], ...]]:
    """Match an observation against a model.

    Returns:
        One feed for each of the model's inputs, and for each input whose shape follows the
        request, that shape (an empty tuple for the others).

    Raises:
        Rejected: INVALID or TOO_LARGE, naming the tensor, what was expected and what came.
    """
    tensors = {tensor.key: tensor for tensor in observation.tensors}
    feeds: list[Feed] = []
    shapes: list[tuple[int, ...]] = []
    for wanted in spec.inputs:
        if wanted.source.startswith(METADATA):
            feed, shape = _text(wanted, observation), ()
        else:
            tensor = tensors.pop(wanted.source, None)
            if tensor is None:
                feed, shape = _left_out(wanted, spec, observation), ()
            else:
                feed, shape = _tensor(wanted, tensor, payload)
        feeds.append(feed)
        shapes.append(shape)
    if tensors:
        takes = ", ".join(repr(i.source) for i in spec.inputs) or "none"
        extra = ", ".join(repr(key) for key in list(tensors)[:5])
        raise _invalid(f"model {spec.model_id!r} takes {takes}; it does not take {extra}")
    return feeds, tuple(shapes)


def _invalid(message: str) -> Rejected:
    return Rejected(Outcome.INVALID, message)


def _left_out(wanted: InputSpec, spec: ModelSpec, observation: Observation) -> Feed:
    if wanted.optional:
        return Feed(None, wanted.dtype, Encoding.RAW, ())
    came = ", ".join(repr(tensor.key) for tensor in observation.tensors[:5]) or "none"
    raise _invalid(f"model {spec.model_id!r} needs tensor {wanted.source!r}; came: {came}")


def _text(wanted: InputSpec, observation: Observation) -> Feed:
    """A string from the metadata, in the wire's form for one string element."""
    name = wanted.source[len(METADATA) :]
    text = observation.metadata.get(name)
    if text is None:
        if wanted.optional:
            return Feed(None, DType.STRING, Encoding.RAW, ())
        raise _invalid(f"metadata {name!r} is missing")
    data = text.encode()
    if len(data) > wanted.max_bytes:
        raise Rejected(
            Outcome.TOO_LARGE,
            f"metadata {name!r}: at most {wanted.max_bytes} bytes, came {len(data)}",
        )
    return Feed(len(data).to_bytes(4, "little") + data, DType.STRING, Encoding.RAW, (1,))


def _tensor(wanted: InputSpec, tensor: Tensor, payload: memoryview) -> tuple[Feed, tuple[int, ...]]:
    if tensor.encoding not in wanted.encodings:
        allowed = ", ".join(encoding.name for encoding in wanted.encodings)
        raise _invalid(
            f"tensor {tensor.key!r}: expected encoding {allowed}, came {tensor.encoding.name}"
        )
    data = payload[tensor.offset : tensor.offset + tensor.length]
    if tensor.encoding is _RAW:
        shape = tensor.shape
        if shape == wanted.shape and tensor.dtype is wanted.dtype and wanted.is_fixed:
            return Feed(data, tensor.dtype, tensor.encoding, shape), ()
        shape = _raw_shape(wanted, tensor)
        _check_bytes(wanted, tensor)
        natural = _size(wanted, shape)
    else:
        shape = ()
        _check_bytes(wanted, tensor)
        natural = _media_shape(wanted, tensor, data)
    follows = FREE in wanted.row_shape
    return Feed(data, tensor.dtype, tensor.encoding, shape), natural if follows else ()


def _check_bytes(wanted: InputSpec, tensor: Tensor) -> None:
    if tensor.length > wanted.max_bytes:
        raise Rejected(
            Outcome.TOO_LARGE,
            f"tensor {tensor.key!r}: at most {wanted.max_bytes} bytes, came {tensor.length}",
        )


def _size(wanted: InputSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return of a raw shape what `_media_shape` returns of a file: both may share a batch."""
    if wanted.max_pixels:
        return shape[:2]
    return shape[-1:] if wanted.max_samples else shape


def _raw_shape(wanted: InputSpec, tensor: Tensor) -> tuple[int, ...]:
    """Check dtype and shape; a leading dimension of 1 (a batch of one) is dropped."""
    if tensor.dtype is not wanted.dtype:
        raise _invalid(
            f"tensor {tensor.key!r}: expected dtype {wanted.dtype.name}, came {tensor.dtype.name}"
        )
    shape = tensor.shape
    expected = wanted.shape
    if len(shape) == len(expected) + 1 and shape[0] == 1:
        shape = shape[1:]
    if shape != expected and not (
        len(shape) == len(expected)
        and all(want in (FREE, came) for want, came in zip(expected, shape, strict=True))
    ):
        raise _invalid(
            f"tensor {tensor.key!r}: expected shape {_shown(expected)}, came {_shown(tensor.shape)}"
        )
    if wanted.max_pixels and len(shape) >= 2 and shape[0] * shape[1] > wanted.max_pixels:
        raise _too_many(tensor.key, "pixels", wanted.max_pixels, shape[0] * shape[1])
    if wanted.max_samples and prod(shape) > wanted.max_samples:
        raise _too_many(tensor.key, "samples", wanted.max_samples, prod(shape))
    if 0 in shape:
        raise _invalid(f"tensor {tensor.key!r}: is empty, its shape is {_shown(shape)}")
    return shape


def _media_shape(wanted: InputSpec, tensor: Tensor, data: memoryview) -> tuple[int, ...]:
    """Read the header of an encoded image or sound and check it against the limits."""
    try:
        if tensor.encoding in IMAGES:
            image = image_header(data, tensor.encoding)
            what, allowed, came = "pixels", wanted.max_pixels, image.height * image.width
            shape = (image.height, image.width)
        else:
            sound = audio_header(data, tensor.encoding)
            what, allowed, came = "samples", wanted.max_samples, sound.frames * sound.channels
            shape = (sound.frames,)
    except Rejected as rejected:
        message = f"tensor {tensor.key!r}: {rejected.message}"
        raise Rejected(rejected.outcome, message) from rejected
    if came > allowed:
        raise _too_many(tensor.key, what, allowed, came)
    return shape


def _too_many(key: str, what: str, allowed: int, came: int) -> Rejected:
    return Rejected(Outcome.TOO_LARGE, f"tensor {key!r}: at most {allowed} {what}, came {came}")


def _shown(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join("any" if size == FREE else str(size) for size in shape) + "]"
