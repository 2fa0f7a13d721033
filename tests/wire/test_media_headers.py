from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from appliance.errors import Outcome, Rejected
from appliance.wire.media import (
    MAX_STEPS,
    AudioHeader,
    ImageHeader,
    audio_header,
    image_header,
)
from appliance.wire.types import Encoding

JPEG, PNG, WAV, FLAC = Encoding.JPEG, Encoding.PNG, Encoding.WAV, Encoding.FLAC


def image(mode: str, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (31, 17)).save(out, kind, **options)
    return out.getvalue()


def sound(kind: str, subtype: str, *, channels: int = 2, frames: int = 1001) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros((frames, channels)), 16000, format=kind, subtype=subtype)
    return out.getvalue()


def refused(data: bytes, encoding: Encoding, words: str) -> None:
    read = image_header if encoding in (JPEG, PNG) else audio_header
    with pytest.raises(Rejected, match=words) as caught:
        read(data, encoding)
    assert caught.value.outcome is Outcome.INVALID


# ------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("mode", "channels", "options"),
    [
        ("RGB", 3, {}),
        ("L", 1, {}),
        ("CMYK", 4, {}),
        ("RGB", 3, {"progressive": True}),
        ("RGB", 3, {"icc_profile": bytes(200_000), "comment": b"c" * 100, "dpi": (300, 300)}),
        ("RGB", 3, {"subsampling": 0, "optimize": True, "restart_marker_rows": 1}),
    ],
)
def test_jpeg_files(mode, channels, options) -> None:
    data = image(mode, "JPEG", **options)
    assert image_header(data, JPEG) == ImageHeader(17, 31, channels)
    assert image_header(memoryview(data), JPEG) == ImageHeader(17, 31, channels)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("RGB", 3), ("RGBA", 4), ("L", 1), ("LA", 2), ("P", 3), ("1", 1), ("I;16", 1)],
)
def test_png_files(mode, channels) -> None:
    data = image(mode, "PNG")
    assert image_header(memoryview(data), PNG) == ImageHeader(17, 31, channels)


def frame(height: int, width: int, *, marker: int = 0xC0, channels: int = 3) -> bytes:
    components = b"".join(bytes((number, 0x11, 0)) for number in range(channels))
    body = struct.pack(">BHHB", 8, height, width, channels) + components
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


SOI, SCAN = b"\xff\xd8", b"\xff\xda\x00\x02"


@pytest.mark.parametrize("marker", [c for c in range(0xC0, 0xD0) if c not in (0xC4, 0xC8, 0xCC)])
def test_every_kind_of_jpeg_frame(marker) -> None:
    data = SOI + frame(5, 6, marker=marker) + SCAN
    assert image_header(data, JPEG) == ImageHeader(5, 6, 3)


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC, 0xE0, 0xFE])
def test_other_segments_are_no_frames(marker) -> None:
    decoy = frame(5, 6, marker=marker)
    assert image_header(SOI + decoy + frame(7, 8) + SCAN, JPEG) == ImageHeader(7, 8, 3)


def test_a_bomb_is_told_by_its_header() -> None:
    assert image_header(SOI + frame(60000, 60000) + SCAN, JPEG) == ImageHeader(60000, 60000, 3)
    assert image_header(png((60000, 60000)), PNG) == ImageHeader(60000, 60000, 3)


def test_fill_bytes_and_markers_without_a_segment() -> None:
    data = SOI + b"\xff\xff\xff\x01\xff\xd0" + frame(5, 6) + b"\xff" + SCAN
    assert image_header(data, JPEG) == ImageHeader(5, 6, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no start of image"),
        (b"\xff\xd9", "no start of image"),
        (SOI, "ends within its header"),
        (SOI + b"\x00\x00", "a marker is expected at byte 2, 0000 came"),
        (SOI + b"\xff\xd9", "a marker is expected at byte 2, ffd9 came"),
        (SOI + b"\xff\xe0\x00", "ends within its header"),
        (SOI + b"\xff\xe0\x00\x01", "segment e0 of 1 bytes"),
        (SOI + b"\xff\xe0\x01\x00", "segment e0 of 256 bytes exceeds the file"),
        (SOI + SCAN, "image data before the frame header"),
        (SOI + frame(5, 6), "ends within its header"),
        (SOI + frame(0, 6) + SCAN, "a frame of 0x6 with 3 components"),
        (SOI + frame(6, 0) + SCAN, "a frame of 6x0 with 3 components"),
        (SOI + frame(6, 6, channels=5) + SCAN, "with 5 components"),
        (SOI + b"\xff\xc0\x00\x04ab" + SCAN, "a frame header of 4 bytes"),
        (SOI + frame(5, 6) + frame(60000, 60000) + SCAN, "two frame headers"),
        (SOI + b"\xff\xe0\x00\x02" * MAX_STEPS + frame(5, 6), "no image data within 1024"),
        (SOI + b"\xff" * 5_000_000, "no image data within 1024"),
        (b"\x89PNG\r\n\x1a\n", "no start of image"),
    ],
)
def test_broken_jpegs(data, words) -> None:
    refused(data, JPEG, f"JPEG: .*{words}|JPEG: {words}")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ihdr(size: tuple[int, int], depth: int = 8, color: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, color, 0, 0, 0))


def png(size: tuple[int, int], depth: int = 8, color: int = 2) -> bytes:
    return SIGNATURE + ihdr(size, depth, color) + chunk(b"IDAT", b"")


SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no signature"),
        (SIGNATURE, "ends within its header"),
        (SIGNATURE + ihdr((5, 6)), "ends within its header"),
        (SIGNATURE + ihdr((5, 6))[:-1], "ends within its header"),
        (SIGNATURE + chunk(b"gAMA", b"") + ihdr((5, 6)), "first chunk is no image header"),
        (SIGNATURE + ihdr((5, 6)) + chunk(b"IEND", b""), "no image data"),
        (SIGNATURE + ihdr((5, 6)) + ihdr((60000, 60000)) + chunk(b"IDAT", b""), "two image"),
        (SIGNATURE + ihdr((5, 6)) + b"\xff\xff\xff\xffabcd" + bytes(50), "ends within"),
        (SIGNATURE + chunk(b"IHDR", bytes(12)), "an image header of 12 bytes"),
        (SIGNATURE + ihdr((5, 6))[:-1] + b"\x00" + chunk(b"IDAT", b""), "wrong checksum"),
        (png((0, 6)), "an image of 0x6"),
        (png((6, 1 << 31)), "an image of 6x2147483648"),
        (png((5, 6), depth=3), "color type 2 with 3 bits"),
        (png((5, 6), color=1), "color type 1 with 8 bits"),
        (SIGNATURE + ihdr((5, 6)) + chunk(b"tEXt", b"") * MAX_STEPS, "no image data within 1024"),
    ],
)
def test_broken_pngs(data, words) -> None:
    refused(data, PNG, words)


@pytest.mark.parametrize(
    ("data", "encoding"), [(image("RGB", "JPEG"), JPEG), (image("RGB", "PNG"), PNG)]
)
def test_images_cut_before_their_data(data, encoding) -> None:
    start = data.index(b"\xff\xda" if encoding is JPEG else b"IDAT")
    for end in range(start):
        refused(data[:end], encoding, encoding.name)


# -------------------------------------------------------------------------------- audio


@pytest.mark.parametrize(
    ("subtype", "bits"),
    [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32), ("FLOAT", 32), ("DOUBLE", 64)],
)
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_wav_files(kind, subtype, bits, channels) -> None:
    data = sound(kind, subtype, channels=channels)
    assert audio_header(memoryview(data), WAV) == AudioHeader(16000, channels, 1001, bits)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_S8", 8), ("PCM_16", 16), ("PCM_24", 24)])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_flac_files(subtype, bits, channels) -> None:
    data = sound("FLAC", subtype, channels=channels)
    assert audio_header(memoryview(data), FLAC) == AudioHeader(16000, channels, 1001, bits)


def wav(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WAVE" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(tag: int = 1, channels: int = 1, rate: int = 8000, align: int = 2, bits: int = 16) -> bytes:
    return struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits)


def test_other_chunks_are_skipped() -> None:
    data = wav((b"LIST", b"odd"), (b"fmt ", fmt()), (b"fact", bytes(4)), (b"data", bytes(6)))
    assert audio_header(data, WAV) == AudioHeader(8000, 1, 3, 16)


def test_no_samples_are_no_error() -> None:
    assert audio_header(wav((b"fmt ", fmt()), (b"data", b"")), WAV) == AudioHeader(8000, 1, 0, 16)


def lying(length: int) -> bytes:
    data = bytearray(wav((b"fmt ", fmt()), (b"data", bytes(6))))
    data[40:44] = struct.pack("<I", length)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no RIFF WAVE header"),
        (b"RIFX" + bytes(50), "no RIFF WAVE header"),
        (b"RIFF\0\0\0\0WAVE", "ends within its header"),
        (lying(8), "chunk b'data' declares 8 bytes, 6 are there"),
        (lying(0xFFFFFFFF), "chunk b'data' declares 4294967295 bytes, 6 are there"),
        (lying(5), "5 bytes are no whole number of frames"),
        (wav((b"data", bytes(6))), "samples before their format"),
        (wav((b"fmt ", fmt()), (b"fmt ", fmt())), "two formats"),
        (wav((b"fmt ", fmt()[:15])), "a format of 15 bytes"),
        (wav((b"fmt ", fmt(tag=2, bits=4))), "format 2 of 4 bits"),
        (wav((b"fmt ", fmt(tag=3, bits=16))), "format 3 of 16 bits"),
        (wav((b"fmt ", fmt(tag=0xFFFE))), "an unknown extensible format"),
        (wav((b"fmt ", fmt(tag=0xFFFE) + bytes(24))), "an unknown extensible format"),
        (wav((b"fmt ", fmt(channels=0, align=0))), "0 channels"),
        (wav((b"fmt ", fmt(rate=0))), "at 0 Hz"),
        (wav((b"fmt ", fmt(align=3))), "in frames of 3 bytes"),
        (wav(*[(b"junk", b"")] * MAX_STEPS), "no samples within 1024 chunks"),
    ],
)
def test_broken_wavs(data, words) -> None:
    refused(data, WAV, words)


def test_a_truncated_wav() -> None:
    data = sound("WAV", "PCM_16")
    for end in [*range(44), len(data) - 1]:
        refused(data[:end], WAV, "WAV")


def flac(rate: int = 8000, channels: int = 1, bits: int = 16, frames: int = 9) -> bytes:
    packed = rate << 44 | (channels - 1) << 41 | (bits - 1) << 36 | frames
    return b"fLaC\x80\x00\x00\x22" + bytes(10) + packed.to_bytes(8, "big") + bytes(16)


def test_the_fields_of_flac() -> None:
    largest = flac(rate=655350, channels=8, bits=32, frames=2**36 - 1)
    assert audio_header(largest, FLAC) == AudioHeader(655350, 8, 2**36 - 1, 32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no stream marker"),
        (b"OggS" + bytes(50), "no stream marker"),
        (flac()[:41], "no stream information"),
        (b"fLaC\x84\x00\x00\x22" + bytes(34), "no stream information"),
        (b"fLaC\x80\x00\x00\x21" + bytes(34), "no stream information"),
        (flac(rate=0), "at 0 Hz"),
        (flac(bits=3), "of 3 bits"),
        (flac(frames=0), "does not say how many samples"),
    ],
)
def test_broken_flacs(data, words) -> None:
    refused(data, FLAC, words)


@pytest.mark.parametrize("encoding", [Encoding.RAW, WAV, FLAC])
def test_no_image(encoding) -> None:
    with pytest.raises(Rejected, match=f"an image is expected, {encoding.name} came"):
        image_header(b"", encoding)


@pytest.mark.parametrize("encoding", [Encoding.RAW, JPEG, PNG])
def test_no_audio(encoding) -> None:
    with pytest.raises(Rejected, match=f"an audio file is expected, {encoding.name} came"):
        audio_header(b"", encoding)
