"""Sounds by libsndfile. Imported only where a loaded model needs it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from appliance.errors import Outcome, Rejected
from appliance.wire.media import audio_header
from appliance.wire.types import Encoding


def decode(
    data: bytes, encoding: Encoding, *, max_samples: int, sample_rate: int, integers: bool
) -> NDArray[Any]:
    """Decode a WAV or FLAC file to one channel, the mean of all.

    Args:
        max_samples: Frames times channels; refused by the header alone.
        sample_rate: Hz; another one is refused. 0 takes any.
        integers: int16 samples rather than float32 in -1 to 1.

    Returns:
        float32[frames] or int16[frames].

    Raises:
        Rejected: TOO_LARGE; or INVALID, it is broken, cut off or of another rate.
    """
    header = audio_header(data, encoding)
    samples = header.frames * header.channels
    if samples > max_samples:
        raise Rejected(Outcome.TOO_LARGE, f"at most {max_samples} samples, came {samples}")
    if sample_rate and header.sample_rate != sample_rate:
        raise Rejected(Outcome.INVALID, f"expected {sample_rate} Hz, came {header.sample_rate} Hz")
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            block: NDArray[Any] = file.read(
                header.frames, dtype="int16" if integers else "float32", always_2d=True
            )
    except Exception as error:  # libsndfile's own, and ValueError or MemoryError on the way
        raise Rejected(Outcome.INVALID, f"{encoding.name} cannot be decoded: {error}") from error
    if block.shape != (header.frames, header.channels):
        raise Rejected(
            Outcome.INVALID,
            f"{encoding.name} is cut off: its header says {header.frames} frames of "
            f"{header.channels} channels, {block.shape[0]} of {block.shape[1]} are there",
        )
    if header.channels == 1:
        return block[:, 0]
    mean = block.mean(axis=1, dtype=np.float32)
    return np.rint(mean).astype(np.int16) if integers else mean


def encode(samples: NDArray[Any], encoding: Encoding, sample_rate: int) -> bytes:
    """Write one channel as a 16-bit file; warm-up rows are made with it."""
    file = BytesIO()
    soundfile.write(file, samples, sample_rate, format=encoding.name, subtype="PCM_16")
    return file.getvalue()
