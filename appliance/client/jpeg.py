"""Resize and compress images. Needs the extra `images`; only what compresses imports it.

simplejpeg: the fastest of four measured (640 x 480: 0.7 ms, 1280 x 720: 2.2; Pillow 1.0 and
3.1), without the GIL (Pillow keeps it), MIT, with wheels for x86_64 and aarch64. Pillow resizes:
it is what the appliance does it with, so the pixels are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image


def resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8[h, w, 1 or 3] to uint8[height, width, 1 or 3], bilinear with antialiasing."""
    gray = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if gray else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return resized[:, :, np.newaxis] if gray else resized


def compress(pixels: NDArray[Any], quality: int) -> bytes:
    """Write contiguous uint8[h, w, 1 or 3] as a JPEG file, colors at half of the resolution.

    Raises:
        ValueError: It is larger than a JPEG file can be.
    """
    if max(pixels.shape) > 65535:
        raise ValueError("a JPEG file has at most 65535 pixels by 65535")
    color, subsampling = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "420")
    return simplejpeg.encode_jpeg(
        pixels, quality=quality, colorspace=color, colorsubsampling=subsampling, fastdct=True
    )
