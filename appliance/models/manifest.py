"""`model.toml`: what a model's owner says of it. One preprocess schema for both doors.

Everything but the inputs of a python model may be left out: it is then read from the model file
(see `resolve.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le, matches_re, optional

from appliance.structure import KEY, parse_toml, read_text, structure
from appliance.wire.spec import METADATA
from appliance.wire.types import DType

MANIFEST = "model.toml"
NO_AXIS = -1
"""`batch_axis` of a state that has no batch dimension."""

DTypeName = Literal[
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "uint8",
    "int32",
    "int64",
    "bool",
    "int8",
    "int16",
    "uint16",
    "uint32",
    "uint64",
    "string",
]
Codec = Literal["jpeg", "png", "wav", "flac"]
EngineName = Literal["auto", "onnxruntime", "python", "tensorrt"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]

MAX_PIXELS = 1 << 26
"""Below what Pillow takes for a decompression bomb by itself."""

IMAGES = frozenset({"jpeg", "png"})
SOUNDS = frozenset({"wav", "flac"})


def _each(least: int, most: int = 1 << 32) -> Callable[[Any, Attribute[Any], Any], None]:
    """Make a validator for a list of integers, or a table of such lists, or None."""

    def validate(_: Any, attribute: Attribute[Any], value: Any) -> None:
        numbers: Iterable[int] = value or ()
        if isinstance(value, dict):
            numbers = chain.from_iterable(cast("dict[str, tuple[int, ...]]", value).values())
        for number in numbers:
            if not least <= number <= most:
                raise ValueError(f"'{attribute.name}' must be {least} to {most} each: {number}")

    return validate


@frozen(kw_only=True)
class Input:
    """One `[[inputs]]` table: where a model's input comes from and what is done to it.

    Attributes:
        name: The model's input.
        source: Key `from`. Wire tensor key, or `metadata:NAME`; empty is `name`.
        dtype: Of the model's input. `bfloat16` is what clients send; the model gets float32.
        shape: One row as the model wants it, -1 where open.
        decode: Encodings accepted besides raw.
        raw: Raw tensors are accepted. A raw image is uint8, height by width by channel.
        resize: Height and width, bilinear.
        layout: Of an image as the model wants it; HWC, as images arrive, if left out.
        color: RGB (as images arrive) if left out.
        scale: With `mean` and `std`, y = (x * scale - mean) / std, in float32.
        mean: One number, or one for each channel (of an image) or for the last dimension.
        std: As `mean`.
        sample_rate: Of a sound, Hz; another one is refused. 0 takes any.
        optional: May be left out; the model then gets zeros, or an empty string.
        max_pixels: Of an image, by its header.
        max_samples: Of a sound, frames times channels, by its header.
    """

    name: str = field(validator=matches_re(r".{1,256}"))
    source: str = field(default="", metadata={KEY: "from"})
    dtype: DTypeName | None = None
    shape: tuple[int, ...] | None = field(default=None, validator=_each(-1))
    decode: tuple[Codec, ...] = ()
    raw: bool = True
    resize: tuple[int, int] | None = field(default=None, validator=_each(1, 1 << 14))
    layout: Literal["CHW", "HWC"] | None = None
    color: Literal["RGB", "BGR", "GRAY"] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    sample_rate: int = field(default=0, validator=ge(0))
    optional: bool = False
    max_pixels: int = field(default=1 << 24, validator=and_(ge(1), le(MAX_PIXELS)))
    max_samples: int = field(default=1_920_000, validator=and_(ge(1), le(1 << 28)))

    @property
    def key(self) -> str:
        """Wire tensor key, or `metadata:NAME`."""
        return self.source or self.name

    @property
    def is_image(self) -> bool:
        """Whether rows are images, encoded or not."""
        return bool(IMAGES.intersection(self.decode) or self.resize or self.layout or self.color)

    @property
    def is_sound(self) -> bool:
        """Whether rows are sounds, encoded or not."""
        return bool(SOUNDS.intersection(self.decode) or self.sample_rate)

    @property
    def is_text(self) -> bool:
        """Whether rows are strings."""
        return self.dtype == "string" or self.key.startswith(METADATA)

    @property
    def is_scaled(self) -> bool:
        """Whether there is arithmetic to do."""
        return bool(self.scale != 1.0 or self.mean or self.std)

    def __attrs_post_init__(self) -> None:
        """Refuse keys that contradict each other."""
        if self.is_image and self.is_sound:
            raise ValueError("decode: an input is an image or a sound, not both")
        if self.is_text and (self.is_image or self.is_sound or self.is_scaled):
            raise ValueError("dtype: a string takes no decode, resize, layout, color or scale")
        if self.is_text and self.dtype not in (None, "string"):
            raise ValueError(f'dtype: found "{self.dtype}"; metadata is a "string"')
        if not self.raw and not self.decode:
            raise ValueError("raw: found false without decode; then nothing could be sent")
        if 0.0 in self.std:
            raise ValueError("std: found 0; it divides")
        lengths = {len(self.mean), len(self.std)} - {0, 1}
        if len(lengths) > 1:
            raise ValueError(f"std: found {len(self.std)} numbers; mean has {len(self.mean)}")


@frozen(kw_only=True)
class State:
    """One `[[state]]` table: an input that a row's previous output is fed back to.

    Attributes:
        input: The model's input; zeros at the start of an episode.
        output: The model's output that becomes the next input.
        batch_axis: Where the batch dimension sits; -1: there is none, and max_batch must be 1.
        shape: One row, without the batch dimension; needed where the model does not say it.
        dtype: Likewise.
    """

    input: str
    output: str
    batch_axis: int = field(default=0, validator=and_(ge(NO_AXIS), le(7)))
    shape: tuple[int, ...] | None = field(default=None, validator=_each(1))
    dtype: DTypeName | None = None


@frozen(kw_only=True)
class Chunk:
    """The `[chunk]` table: a model that answers with several steps of actions at once."""

    horizon: int = field(validator=and_(ge(1), le(1 << 16)))
    step_period_ms: float = field(default=0.0, validator=ge(0))


@frozen(kw_only=True)
class WarmUp:
    """The `[warmup]` table.

    Attributes:
        iterations: Timed runs for each batch size; the median counts.
        shapes: Row shape to warm up with, by input name, for inputs with open dimensions.
    """

    iterations: int = field(default=5, validator=and_(ge(1), le(1000)))
    shapes: dict[str, tuple[int, ...]] = field(
        factory=dict[str, "tuple[int, ...]"],
        validator=_each(1),
    )


@frozen(kw_only=True)
class Manifest:
    """The whole of `model.toml`.

    Attributes:
        engine: `auto`: if the version holds a model.onnx, tensorrt on a GPU and onnxruntime on the
            CPU; else python.
        callable: `module:callable` of a python model.
        max_batch: Left out: 8 if the model has an open batch dimension, else 1.
        buckets: Batch sizes to warm up and time; left out: powers of two up to `max_batch`.
        output_bytes: Upper bound of one row's outputs; needed where their shapes are open.
        precision: Of an engine for a GPU: what float32 in the file becomes. `tf32`: it stays, and
            is rounded where it is multiplied. Inputs and outputs keep their types; other engines
            run the file as it is.
        cuda_graphs: On a GPU, the work of each batch size is captured and replayed.
        cuda_preprocessing: On a GPU, images are resized, reordered and scaled there.
        urgent: On a GPU its kernels come before those of models that are not.
    """

    engine: EngineName = "auto"
    callable: str = field(default="", validator=matches_re(r"([\w.]+:[\w.]+)?"))
    max_batch: int | None = field(default=None, validator=optional(and_(ge(1), le(256))))
    buckets: tuple[int, ...] = field(default=(), validator=_each(1))
    output_bytes: int | None = field(default=None, validator=optional(and_(ge(1), le(1 << 32))))
    precision: Precision = "fp32"
    cuda_graphs: bool = True
    cuda_preprocessing: bool = True
    urgent: bool = False
    description: str = ""
    inputs: tuple[Input, ...] = ()
    state: tuple[State, ...] = ()
    chunk: Chunk | None = None
    warmup: WarmUp = WarmUp()

    def __attrs_post_init__(self) -> None:
        """Refuse keys that contradict each other."""
        for key, names in (
            ("inputs", [item.name for item in self.inputs]),
            ("inputs", [item.key for item in self.inputs]),
            ("state", [item.input for item in self.state]),
            ("state", [item.output for item in self.state]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{key}: {twice[0]!r} is there more than once")
        for item in self.inputs:
            if item.name in {state.input for state in self.state}:
                raise ValueError(f"inputs: {item.name!r} is a state; clients cannot send it")
        if self.max_batch is not None and max(self.buckets, default=1) > self.max_batch:
            raise ValueError(
                f"buckets: found {max(self.buckets)}; at most max_batch, {self.max_batch}"
            )
        if self.engine == "python" and not self.callable:
            raise ValueError('callable: is missing; allowed: module:callable, as "policy:Policy"')


def read_manifest(path: Path) -> Manifest:
    """Read and check a `model.toml`.

    Raises:
        ConfigError: It cannot be read, or as `parse_manifest`.
    """
    return parse_manifest(read_text(path), str(path))


def parse_manifest(text: str, where: str) -> Manifest:
    """Check what a `model.toml` says.

    Raises:
        ConfigError: It is not TOML, or a key is unknown, of the wrong type, out of range or at odds
            with another: where, key, what was found, what is allowed.
    """
    return structure(parse_toml(text, where), Manifest, where)


def dtype_named(name: DTypeName) -> DType:
    """Return the wire's number for a manifest's dtype."""
    return DType[name.upper()]
