"""Images by Pillow. Imported only where a loaded model needs it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from appliance.errors import Outcome, Rejected
from appliance.wire.media import image_header
from appliance.wire.types import Encoding


def decode(data: bytes, encoding: Encoding, *, max_pixels: int, gray: bool) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file.

    Args:
        max_pixels: Refused by the header alone, before memory is taken.
        gray: One channel rather than three.

    Returns:
        uint8[height, width, channels], RGB.

    Raises:
        Rejected: TOO_LARGE; or INVALID, it is broken or cut off.
    """
    header = image_header(data, encoding)
    if header.height * header.width > max_pixels:
        raise Rejected(
            Outcome.TOO_LARGE,
            f"at most {max_pixels} pixels, came {header.height} by {header.width}",
        )
    try:
        with Image.open(BytesIO(data), formats=(encoding.name,)) as image:
            if image.size != (header.width, header.height):
                raise ValueError(f"header says {header}, decoder {image.size}")  # noqa: TRY301
            if image.mode.startswith("I"):  # 16 bits a sample, which a conversion would cut off
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # noqa: PLW2901
            pixels = np.asarray(image.convert("L" if gray else "RGB"))
    except Exception as error:  # Pillow's plugins raise a dozen kinds for a broken file
        raise Rejected(Outcome.INVALID, f"{encoding.name} cannot be decoded: {error}") from error
    return pixels[:, :, np.newaxis] if gray else pixels


def resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8[h, w, 1 or 3] to uint8[height, width, 1 or 3]: bilinear, antialiased."""
    gray = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if gray else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return resized[:, :, np.newaxis] if gray else resized


def encode(pixels: NDArray[Any], encoding: Encoding) -> bytes:
    """Write uint8[height, width, 1 or 3] as a file; warm-up rows are made with it."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = BytesIO()
    image.save(file, format=encoding.name)
    return file.getvalue()
