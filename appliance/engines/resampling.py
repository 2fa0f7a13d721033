"""How an image is resized, in numbers: what Pillow does for `Resampling.BILINEAR`. PURE.

Of each pixel made in one direction: the first pixel that it is made of, how many, and the weight of
each. Weights are whole numbers, so who adds up with them gets, in that direction, what Pillow gets,
bit for bit. The other direction is done with what came of the first, rounded to bytes. Here that is
down after across. Pillow 13 begins with down where that leaves much less to do, and then a byte may
differ by one.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22
"""A weight of one is 1 << 22: 255 of them fit an int32."""
_BOUNDS = 2
"""Numbers before the weights."""


def length_of(source: int, target: int) -> int:
    """Return how many numbers there are for each pixel made, from `source` pixels to `target`."""
    return _BOUNDS + ceil(max(source / target, 1.0)) * 2 + 1


@lru_cache(maxsize=64)
def bilinear(source: int, target: int) -> NDArray[np.int32]:
    """Return the numbers: int32[target, length_of(source, target)], read-only, unused weights 0."""
    scale = source / target
    support = max(scale, 1.0)  # fewer pixels are made of as many as they cover
    centers = (np.arange(target) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centers + support + 0.5).astype(np.int64), source) - first
    table = np.zeros((target, length_of(source, target)), np.int32)
    table[:, 0], table[:, 1] = first, count
    at = np.arange(table.shape[1] - _BOUNDS)
    offsets = at + first[:, np.newaxis] - centers[:, np.newaxis] + 0.5
    distances = np.abs(offsets * (1.0 / support))  # not divided: that rounds differently
    weights = np.where(at < count[:, np.newaxis], np.maximum(1.0 - distances, 0.0), 0.0)
    # Added up one after the other, as Pillow does: `sum` may do it in another order.
    weights /= np.cumsum(weights, axis=1)[:, -1:]
    table[:, _BOUNDS:] = (weights * (1 << PRECISION_BITS) + 0.5).astype(np.int32)
    table.flags.writeable = False
    return table
