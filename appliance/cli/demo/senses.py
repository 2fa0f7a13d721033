"""What the simulated robots see and hear: frames with text, and something like speech."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FRAME_WIDTH, FRAME_HEIGHT = 384, 96
LABELS = (
    "PALLET 4711",
    "THIS SIDE UP",
    "BIN 12 B",
    "KEEP DRY",
    "LOT 2231 / 07",
    "HANDLE WITH CARE",
    "DOCK 7 EAST",
    "CAUTION HOT",
)
JPEG_QUALITY = 85
MARGIN = 20
GRAIN = 8.0

RATE_HZ = 16_000
STEP = 512
CONTEXT = 64
FULL_SCALE = 32_767
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Formants in Hz."""

Samples = NDArray[np.float64]


@frozen
class Frame:
    """A camera frame, and what is in it."""

    jpeg: bytes
    upside_down: bool


def frames(seed: int, count: int = 16) -> list[Frame]:
    """Return frames of labels on boxes, about half of them upside down."""
    random = np.random.default_rng(seed)
    return [
        _frame(LABELS[number % len(LABELS)], bool(random.integers(2)), random)
        for number in range(count)
    ]


def _frame(label: str, upside_down: bool, random: np.random.Generator) -> Frame:  # noqa: FBT001
    font = ImageFont.load_default(size=48)
    left, top, right, bottom = font.getbbox(label)
    paper, ink = int(random.integers(180, 240)), int(random.integers(0, 80))
    size = (round(right - left) + 2 * MARGIN, round(bottom - top) + 2 * MARGIN)
    image = Image.new("RGB", size, (paper, paper, paper - 20))
    ImageDraw.Draw(image).text(
        (MARGIN - left, MARGIN - top), label, font=font, fill=(ink, ink, ink + 20)
    )
    image = image.resize((FRAME_WIDTH, FRAME_HEIGHT), Image.Resampling.BILINEAR)
    pixels: NDArray[Any] = np.asarray(image) + random.normal(
        0, GRAIN, (FRAME_HEIGHT, FRAME_WIDTH, 1)
    )
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if upside_down:
        image = image.rotate(180)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Frame(buffer.getvalue(), upside_down)


def sound(seed: int, seconds: int = 4) -> Samples:
    """Return a loop of something like speech in its first half and quiet noise in its second."""
    random = np.random.default_rng(seed)
    half = seconds * RATE_HZ // 2
    speech = np.concatenate([0.2 * _speech(half, random), np.zeros(half)])
    return speech + random.normal(0, 0.003, speech.size)


def _speech(count: int, random: np.random.Generator) -> Samples:
    """Return a voice that glides through vowels, two syllables a second."""
    time = np.arange(count) / RATE_HZ
    pitch = random.uniform(110, 180) * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    formants = np.array(VOWELS, dtype=float)[(time * 4).astype(int) % len(VOWELS)]
    glide = np.ones(800) / 800
    tracks = [np.convolve(formants[:, number], glide, "same") for number in range(3)]
    voice = np.zeros(count)
    for harmonic in range(1, 31):
        frequency = harmonic * pitch
        loudness = 0.01 / harmonic + sum(
            gain * np.exp(-(((frequency - track) / width) ** 2))
            for track, gain, width in zip(tracks, (1, 0.5, 0.25), (90, 120, 160), strict=True)
        )
        voice += loudness * np.sin(harmonic * phase)
    voice *= np.sqrt(np.clip(np.sin(2 * np.pi * 2 * time), 0, 1))
    return voice / np.abs(voice).max()


def window(samples: Samples, number: int) -> Samples:
    """Return the model's input for step `number` of an endless loop: context, then new samples."""
    start = number * STEP
    return samples[np.arange(start - CONTEXT, start + STEP) % samples.size]


def wav(samples: Samples) -> bytes:
    """Return a 16-bit mono WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples.clip(-1, 1) * FULL_SCALE).astype("<i2").tobytes())
    return buffer.getvalue()
