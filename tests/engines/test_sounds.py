from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from appliance.engines import sounds
from appliance.engines.preprocess import Preprocessor
from appliance.errors import Outcome, Rejected
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.structure import structure
from appliance.wire.types import Encoding

RATE = 16_000
TONE = np.sin(np.arange(800) / 10).astype(np.float32) * 0.5


def file(samples: NDArray[Any], kind: str, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def decode(data: bytes, kind: str, **changes: Any) -> NDArray[Any]:
    limits = {"max_samples": 10_000, "sample_rate": RATE, "integers": False, **changes}
    return sounds.decode(data, Encoding[kind], **limits)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16")],
)
def test_samples_come_back(kind: str, subtype: str) -> None:
    decoded = decode(file(TONE, kind, subtype=subtype), kind)
    assert decoded.dtype == np.float32
    assert_allclose(decoded, TONE, atol=2**-15)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_channels_are_averaged(kind: str) -> None:
    left = (TONE * 20_000).astype(np.int16)
    both = np.stack([left, left // 2], axis=1)
    assert_allclose(decode(file(both, kind), kind), both.mean(axis=1) / 32768, atol=1e-6)
    integers = decode(file(both, kind), kind, integers=True)
    assert_array_equal(integers, np.rint(both.mean(axis=1)).astype(np.int16))


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_another_rate_is_refused(kind: str) -> None:
    data = file(TONE, kind, rate=8000)
    with pytest.raises(Rejected, match="expected 16000 Hz, came 8000 Hz") as caught:
        decode(data, kind)
    assert caught.value.outcome is Outcome.INVALID
    assert decode(data, kind, sample_rate=0).shape == (800,)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_too_many_samples_are_refused_by_the_header(kind: str) -> None:
    stereo = np.stack([TONE, TONE], axis=1)
    with pytest.raises(Rejected, match="at most 1599 samples, came 1600") as caught:
        decode(file(stereo, kind), kind, max_samples=1599)
    assert caught.value.outcome is Outcome.TOO_LARGE


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_refused(kind: str, keep: float) -> None:
    data = file(TONE, kind)
    with pytest.raises(Rejected) as caught:
        decode(data[: int(len(data) * keep)], kind)
    assert caught.value.outcome is Outcome.INVALID


def test_a_wav_header_that_lies() -> None:
    data = bytearray(file(TONE, "WAV"))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 9000 * 2)
    with pytest.raises(Rejected, match="declares 18000 bytes") as caught:
        decode(bytes(data), "WAV")
    assert caught.value.outcome is Outcome.INVALID


def test_a_flac_header_that_lies() -> None:
    data = bytearray(file(TONE, "FLAC"))
    packed = int.from_bytes(data[18:26], "big")
    assert packed & 0xFFFFFFFFF == len(TONE)
    data[18:26] = (packed + 5000).to_bytes(8, "big")
    with pytest.raises(Rejected) as caught:
        decode(bytes(data), "FLAC")
    assert caught.value.outcome is Outcome.INVALID


@given(st.binary(max_size=100), st.sampled_from(["WAV", "FLAC"]), st.integers(0, 1000))
def test_nothing_but_rejected_comes_out_of_a_broken_file(noise: bytes, kind: str, at: int) -> None:
    data = bytearray(file(TONE[:200], kind))
    data[at : at + len(noise)] = noise
    try:
        decoded = decode(bytes(data), kind)
    except Rejected:
        return
    assert decoded.dtype == np.float32
    assert decoded.size <= 10_000


def test_a_sound_becomes_a_row() -> None:
    document = {"name": "x", "dtype": "float32", "shape": [1, -1], "decode": ["flac"]}
    made = Preprocessor(input_plan(structure(document, Input, "test"), None, 1))
    samples = made.decode(file(TONE, "FLAC"), Encoding.FLAC)
    assert made.row_shape(samples.shape) == (1, 800)
    out = np.empty((1, 800), np.float32)
    made.write(samples, out)
    assert_array_equal(out[0], samples)
