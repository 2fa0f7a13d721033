"""What a model takes and gives: the one description both doors, the core and the workers share.

A `ModelSpec` is made by a worker from the manifest and the model file, travels to the core in
READY, is what admission checks against, and what DESCRIBE answers.
"""

from __future__ import annotations

import hashlib

from attrs import Factory, evolve, field, frozen

from appliance.wire.types import DType, Encoding

FREE = -1
"""A dimension that each request may choose."""

METADATA = "metadata:"
"""What the source of an input begins with that is a text of the metadata."""


@frozen
class InputSpec:
    """One tensor a client sends.

    Attributes:
        name: The model's own name for the input.
        source: Wire tensor key, or `metadata:NAME` for a string from the metadata.
        dtype: Of raw tensors on the wire, before preprocessing.
        shape: One row on the wire, without the batch dimension; `FREE` where open.
        row_shape: One row after preprocessing; `FREE` where it follows the request.
        encodings: What may be sent; always holds RAW unless the manifest forbids it.
        optional: May be left out.
        max_pixels: Of an encoded image, by its header; 0 is no image.
        max_samples: Of an encoded audio file (frames times channels), by its header; 0 is no audio.
        max_bytes: Of the tensor on the wire.
        resize: Height and width that an image is resized to, bilinear with antialiasing; empty: it
            is taken as it comes.
        is_fixed: A raw tensor of exactly `shape` needs no further look: nothing is open or limited.
    """

    name: str
    source: str
    dtype: DType
    shape: tuple[int, ...]
    row_shape: tuple[int, ...]
    encodings: tuple[Encoding, ...] = (Encoding.RAW,)
    optional: bool = False
    max_pixels: int = 0
    max_samples: int = 0
    max_bytes: int = 64 << 20
    resize: tuple[int, ...] = ()
    is_fixed: bool = field(
        default=Factory(lambda self: _is_fixed(self), takes_self=True),  # noqa: PLW0108  defined below
        init=False,
        eq=False,
        repr=False,
    )


def _is_fixed(spec: InputSpec) -> bool:
    limited = spec.max_pixels or spec.max_samples or 0 in spec.shape
    return not limited and FREE not in spec.shape and FREE not in spec.row_shape


@frozen
class OutputSpec:
    """One tensor a model gives; `shape` is one row, `FREE` where it depends on the input."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@frozen
class ModelSpec:
    """A loaded model version.

    Attributes:
        state_bytes: Bytes of each recurrent state tensor of one row; empty if not recurrent.
        output_bytes_per_row: Upper bound for all outputs of one row, for the arena.
        horizon: Steps in an action chunk; 0 if the model gives no chunk.
        step_period_us: Microseconds between the steps of a chunk; 0 if unknown.
    """

    model_id: str
    version: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    max_batch: int = 1
    output_bytes_per_row: int = 1 << 20
    state_bytes: tuple[int, ...] = ()
    horizon: int = 0
    step_period_us: int = 0
    hash: str = field(default="")

    @property
    def recurrent(self) -> bool:
        """Whether the model carries state from one observation to the next."""
        return bool(self.state_bytes)


def with_hash(spec: ModelSpec) -> ModelSpec:
    """Return `spec` with `hash` set: 16 hex digits over everything else in it."""
    bare = evolve(spec, hash="")
    return evolve(bare, hash=hashlib.sha256(repr(bare).encode()).hexdigest()[:16])
