"""Shapes said twice: by the manifest and by the model. -1 is open."""

from __future__ import annotations

from appliance.errors import ConfigError
from appliance.wire.spec import FREE

ALIGNMENT = 64
"""Every output of a batch starts at a multiple of this."""


def merged_shape(key: str, said: tuple[int, ...], found: tuple[int, ...]) -> tuple[int, ...]:
    """Return the narrower of the manifest's and the model's row shape.

    Raises:
        ConfigError: They differ in rank or in a dimension that neither leaves open.
    """
    if len(said) != len(found) or any(
        FREE not in pair and pair[0] != pair[1] for pair in zip(said, found, strict=True)
    ):
        raise disagreement(key, list(said), f"{list(found)} for one row")
    return tuple(b if a == FREE else a for a, b in zip(said, found, strict=True))


def check_batch_dimension(key: str, dimension: int, max_batch: int) -> None:
    """Refuse a fixed batch dimension that `max_batch` does not fit.

    Raises:
        ConfigError: What it is, and what to do.
    """
    if dimension not in (FREE, 1):
        raise ConfigError(
            f"{key}: its batch dimension is fixed at {dimension}; "
            "export the model with an open one (dynamic_axes)"
        )
    if dimension == 1 and max_batch > 1:
        raise ConfigError(
            f"{key}: its batch dimension is fixed at 1, but max_batch is {max_batch}; "
            "set max_batch = 1, or export the model with an open one (dynamic_axes)"
        )


def disagreement(key: str, said: object, found: object) -> ConfigError:
    """Return the error for a key whose value the model contradicts."""
    return ConfigError(f"{key}: found {said}; the model has {found}")


def aligned(size: int) -> int:
    """Return `size` bytes rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
