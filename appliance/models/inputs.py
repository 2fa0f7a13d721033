"""One input: from its manifest table and the model's own declaration to its plan. PURE."""

from __future__ import annotations

from math import prod

from appliance.errors import ConfigError
from appliance.models.manifest import Input, dtype_named
from appliance.models.plans import InputPlan, RowKind, TensorSignature
from appliance.models.shapes import check_batch_dimension, disagreement, merged_shape
from appliance.wire.spec import FREE, METADATA, InputSpec
from appliance.wire.types import ITEM_BYTES, DType, Encoding

MAX_BYTES = 64 << 20
MAX_TEXT_BYTES = 1 << 20
HEADER_BYTES = 64 << 10
"""What an encoded image or sound may take beyond its raw size."""

FLOATS = frozenset({DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.BFLOAT16})
NOT_OF_IMAGES = frozenset({DType.BOOL, DType.INT8})
"""What cannot hold 0 to 255."""
OF_SOUNDS = FLOATS | {DType.INT16}


def input_plan(item: Input, found: TensorSignature | None, max_batch: int) -> InputPlan:
    """Make the plan of one input.

    Args:
        item: What the manifest says.
        found: What the model says; None for a python model.

    Raises:
        ConfigError: They disagree, or neither says what is needed.
    """
    key = f"inputs.{item.name}"
    dtype = _dtype(item, found)
    kind = _kind(item, dtype)
    row_shape = _row_shape(item, found, kind, max_batch)
    if kind is RowKind.IMAGE:
        row_shape = _image_row(item, row_shape)
        wire_shape = _image_on_the_wire(item, row_shape)
        wire_dtype = DType.UINT8
    else:
        wire_shape, wire_dtype = row_shape, dtype
    if kind is RowKind.SOUND and not (len(row_shape) == 1 or row_shape[:-1] == (1,)):
        raise ConfigError(f"{key}.shape: found {list(row_shape)}; a sound is [samples]")
    if item.optional and FREE in row_shape:
        raise ConfigError(f"{key}.shape: found {list(row_shape)}; an optional input has no -1")
    factor, shift = _arithmetic(item, dtype, row_shape, kind)
    spec = InputSpec(
        name=item.name,
        source=item.key,
        dtype=wire_dtype,
        shape=wire_shape,
        row_shape=row_shape,
        encodings=_encodings(item),
        optional=item.optional,
        max_pixels=item.max_pixels if kind is RowKind.IMAGE else 0,
        max_samples=item.max_samples if kind is RowKind.SOUND else 0,
        max_bytes=_max_bytes(item, kind, wire_dtype, wire_shape),
        resize=item.resize or (),
    )
    return InputPlan(
        spec=spec,
        kind=kind,
        dtype=DType.FLOAT32 if dtype is DType.BFLOAT16 else dtype,
        resize=item.resize,
        planes_first=item.layout == "CHW",
        color=item.color or "RGB",
        factor=factor,
        shift=shift,
        sample_rate=item.sample_rate,
    )


def _dtype(item: Input, found: TensorSignature | None) -> DType:
    key = f"inputs.{item.name}.dtype"
    said = dtype_named(item.dtype) if item.dtype else None
    if said is None and item.key.startswith(METADATA):
        said = DType.STRING
    if found is None:
        if said is None:
            raise ConfigError(f"{key}: is missing; a python model cannot say it")
        return said
    # bfloat16 is widened on the way in, for models that know only float32.
    if said in (None, found.dtype) or (said, found.dtype) == (DType.BFLOAT16, DType.FLOAT32):
        return said or found.dtype
    raise disagreement(key, item.dtype or "string", found.dtype.name.lower())


def _kind(item: Input, dtype: DType) -> RowKind:
    if dtype is DType.STRING:
        if item.is_image or item.is_sound or item.is_scaled:
            raise ConfigError(f"inputs.{item.name}: is a string; it takes no decode or scale")
        return RowKind.TEXT
    kind = RowKind.TENSOR
    if item.is_image:
        kind = RowKind.IMAGE
    elif item.is_sound:
        kind = RowKind.SOUND
    if (kind is RowKind.IMAGE and dtype in NOT_OF_IMAGES) or (
        kind is RowKind.SOUND and dtype not in OF_SOUNDS
    ):
        raise ConfigError(
            f"inputs.{item.name}.dtype: found {dtype.name.lower()}, "
            f"which holds no {kind.value}; export the model with a float input"
        )
    return kind


def _row_shape(
    item: Input, found: TensorSignature | None, kind: RowKind, max_batch: int
) -> tuple[int, ...]:
    """Return one row as the model wants it, as far as model and manifest say."""
    key = f"inputs.{item.name}"
    if found is not None:
        if not found.shape:
            raise ConfigError(
                f"{key}: the model wants one number, without a batch dimension; "
                "make it a constant of the model"
            )
        check_batch_dimension(key, found.shape[0], max_batch)
        shape = found.shape[1:]
        return shape if item.shape is None else merged_shape(f"{key}.shape", item.shape, shape)
    if item.shape is not None:
        return item.shape
    if kind is RowKind.TEXT:
        return ()
    if kind is RowKind.IMAGE:
        return (FREE, FREE, FREE)
    if kind is RowKind.SOUND:
        return (FREE,)
    raise ConfigError(f"{key}.shape: is missing; a python model cannot say it")


def _channels(item: Input) -> int:
    return 1 if item.color == "GRAY" else 3


def _image_row(item: Input, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Fill in what resize and color decide, and check that the layout is the model's."""
    layout = item.layout or "HWC"
    height, width = item.resize or (FREE, FREE)
    channels = _channels(item)
    made = (channels, height, width) if layout == "CHW" else (height, width, channels)
    # Left out, the layout has to be plain: an open [3, -1, -1] would fit HWC, three pixels high.
    unclear = item.layout is None and shape[-1:] == (FREE,) and shape[0] != FREE
    if (
        len(shape) != 3
        or unclear
        or any(FREE not in pair and pair[0] != pair[1] for pair in zip(shape, made, strict=True))
    ):
        raise ConfigError(
            f"inputs.{item.name}: resize, color and layout make {list(made)} ({layout}), "
            f"but one row is {list(shape)}; layout is CHW or HWC, color RGB, BGR or GRAY"
        )
    return merged_shape(f"inputs.{item.name}.shape", made, shape)


def _image_on_the_wire(item: Input, row_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a raw image: height by width by channel, any size if it is resized."""
    channels = _channels(item)
    if item.resize:
        return (FREE, FREE, channels)
    height, width = row_shape[1:] if item.layout == "CHW" else row_shape[:2]
    return (height, width, channels)


def _arithmetic(
    item: Input, dtype: DType, row_shape: tuple[int, ...], kind: RowKind
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return factor and shift such that (x * scale - mean) / std = x * factor + shift."""
    if not item.is_scaled:
        return (), ()
    key = f"inputs.{item.name}"
    if dtype not in FLOATS:
        raise ConfigError(
            f"{key}: scale, mean and std need a float input; the model's is {dtype.name.lower()}"
        )
    places = 1
    if kind is RowKind.IMAGE:
        places = _channels(item)
    elif kind is RowKind.TENSOR and row_shape:
        places = row_shape[-1]
    count = max(len(item.mean), len(item.std), 1)
    for name, numbers in (("mean", item.mean), ("std", item.std)):
        if len(numbers) not in (0, 1, places):
            raise ConfigError(f"{key}.{name}: found {len(numbers)} numbers; allowed: 1 or {places}")
    mean = item.mean or (0.0,)
    std = item.std or (1.0,)
    means = mean * (count // len(mean))
    stds = std * (count // len(std))
    return (
        tuple(item.scale / each for each in stds),
        tuple(-m / s for m, s in zip(means, stds, strict=True)),
    )


def _encodings(item: Input) -> tuple[Encoding, ...]:
    decoded = tuple(Encoding[codec.upper()] for codec in item.decode)
    return (Encoding.RAW, *decoded) if item.raw else decoded


def _max_bytes(item: Input, kind: RowKind, dtype: DType, shape: tuple[int, ...]) -> int:
    """Return the most bytes one row may take on the wire, raw or encoded."""
    if kind is RowKind.TEXT:
        return MAX_TEXT_BYTES
    if kind is RowKind.IMAGE and (item.decode or FREE in shape):
        return min(MAX_BYTES, item.max_pixels * _channels(item) + HEADER_BYTES)
    if kind is RowKind.SOUND and (item.decode or FREE in shape):
        return min(MAX_BYTES, item.max_samples * 8 + HEADER_BYTES)
    if FREE in shape:
        return MAX_BYTES
    return prod(shape) * ITEM_BYTES[dtype]
