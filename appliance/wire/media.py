"""Image and audio headers: how large would it be, decoded? Reads headers only, never samples.

Admission asks before anything is decoded, so that a small file that declares an enormous picture
is refused at the door. What several decoders could read differently (a second frame header, a
length that lies, an unknown number of samples) is refused too: the decoder must not see another
size than the one that was checked here.
"""

from __future__ import annotations

from zlib import crc32

from attrs import frozen

from appliance.errors import Outcome, Rejected
from appliance.wire.types import Buffer, Encoding

MAX_STEPS = 1024
"""Segments or chunks looked at before a file is given up; an ICC profile alone may take 255."""


@frozen
class ImageHeader:
    """What an image file declares; `channels` after a palette is applied."""

    height: int
    width: int
    channels: int


@frozen
class AudioHeader:
    """What an audio file declares; a frame is one sample of every channel."""

    sample_rate: int
    channels: int
    frames: int
    bits: int


def image_header(data: Buffer, encoding: Encoding) -> ImageHeader:
    """Read the header of a JPEG or PNG file.

    Raises:
        Rejected: INVALID, when it is no such file or its header is broken.
    """
    if encoding is Encoding.JPEG:
        return _jpeg(data)
    if encoding is Encoding.PNG:
        return _png(data)
    raise _invalid(f"an image is expected, {encoding.name} came")


def audio_header(data: Buffer, encoding: Encoding) -> AudioHeader:
    """Read the header of a WAV or FLAC file.

    Raises:
        Rejected: INVALID, when it is no such file, its header is broken or claims more samples
            than there are bytes for.
    """
    if encoding is Encoding.WAV:
        return _wav(data)
    if encoding is Encoding.FLAC:
        return _flac(data)
    raise _invalid(f"an audio file is expected, {encoding.name} came")


# -------------------------------------------------------------------------------------- JPEG

_FILL, _SOS, _TEM = 0xFF, 0xDA, 0x01
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those are DHT, JPG and DAC
_STANDALONE = frozenset(range(0xD0, 0xD8)) | {_TEM}
_MISPLACED = frozenset({0x00, 0xD8, 0xD9})  # a stuffed byte, SOI, EOI


def _jpeg(data: Buffer) -> ImageHeader:
    """Walk the segments up to the image data; ITU-T T.81, annex B."""
    if bytes(data[:2]) != b"\xff\xd8":
        raise _invalid("JPEG: no start of image")
    position = 2
    found: ImageHeader | None = None
    for _ in range(MAX_STEPS):
        marker, size = _jpeg_segment(data, position)
        if marker == _SOS:
            if found is None:
                raise _invalid("JPEG: image data before the frame header")
            return found
        if marker in _SOF:
            if found is not None:
                raise _invalid("JPEG: two frame headers")
            found = _jpeg_frame(data, position + 2, size - 2)
        position += size
    raise _invalid(f"JPEG: no image data within {MAX_STEPS} segments")


def _jpeg_segment(data: Buffer, position: int) -> tuple[int, int]:
    """Return the marker at `position` and how many bytes its segment takes, marker included."""
    prefix, marker = _field(data, position, 2, "JPEG")
    if prefix != _FILL or marker in _MISPLACED:
        raise _invalid(
            f"JPEG: a marker is expected at byte {position}, {prefix:02x}{marker:02x} came"
        )
    if marker == _FILL:
        return marker, 1
    if marker in _STANDALONE:
        return marker, 2
    length = _big(data, position + 2, 2, "JPEG")
    if length < 2 or position + 2 + length > len(data):
        raise _invalid(f"JPEG: segment {marker:02x} of {length} bytes exceeds the file")
    return marker, 2 + length


def _jpeg_frame(data: Buffer, position: int, length: int) -> ImageHeader:
    if length < 8:
        raise _invalid(f"JPEG: a frame header of {length} bytes")
    height = _big(data, position + 3, 2, "JPEG")
    width = _big(data, position + 5, 2, "JPEG")
    channels = data[position + 7]
    if not height or not width or not 1 <= channels <= 4 or length != 8 + 3 * channels:
        raise _invalid(f"JPEG: a frame of {height}x{width} with {channels} components")
    return ImageHeader(height, width, channels)


# --------------------------------------------------------------------------------------- PNG

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


def _png(data: Buffer) -> ImageHeader:
    """Walk the chunks up to the image data; PNG specification, clauses 5 and 11."""
    if bytes(data[:8]) != _PNG_SIGNATURE:
        raise _invalid("PNG: no signature")
    size = len(data)
    position = 8
    found: ImageHeader | None = None
    for _ in range(MAX_STEPS):
        length = _big(data, position, 4, "PNG")
        kind = bytes(data[position + 4 : position + 8])
        if position + 12 > size or (position + 12 + length > size and kind != b"IDAT"):
            raise _invalid("PNG: ends within its header")
        if kind == b"IHDR":
            if found is not None:
                raise _invalid("PNG: two image headers")
            found = _png_header(data, position, length)
        elif found is None:
            raise _invalid("PNG: its first chunk is no image header")
        elif kind == b"IDAT":
            return found
        elif kind == b"IEND":
            raise _invalid("PNG: no image data")
        position += 12 + length
    raise _invalid(f"PNG: no image data within {MAX_STEPS} chunks")


def _png_header(data: Buffer, position: int, length: int) -> ImageHeader:
    if length != 13:
        raise _invalid(f"PNG: an image header of {length} bytes")
    if crc32(data[position + 4 : position + 21]) != _big(data, position + 21, 4, "PNG"):
        raise _invalid("PNG: wrong checksum of the image header")
    width = _big(data, position + 8, 4, "PNG")
    height = _big(data, position + 12, 4, "PNG")
    depth, color = data[position + 16], data[position + 17]
    if not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise _invalid(f"PNG: an image of {height}x{width}")
    if depth not in _PNG_DEPTHS.get(color, ()):
        raise _invalid(f"PNG: color type {color} with {depth} bits")
    return ImageHeader(height, width, _PNG_CHANNELS[color])


# --------------------------------------------------------------------------------------- WAV

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WAV_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def _wav(data: Buffer) -> AudioHeader:
    """Walk the RIFF chunks up to the samples."""
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"WAVE":
        raise _invalid("WAV: no RIFF WAVE header")
    size = len(data)
    position = 12
    layout: tuple[int, int, int] | None = None
    for _ in range(MAX_STEPS):
        kind = bytes(data[position : position + 4])
        length = _little(data, position + 4, 4, "WAV")
        position += 8
        if position + length > size:
            raise _invalid(
                f"WAV: chunk {kind!r} declares {length} bytes, {size - position} are there"
            )
        if kind == b"fmt ":
            if layout is not None:
                raise _invalid("WAV: two formats")
            layout = _wav_format(data, position, length)
        elif kind == b"data":
            if layout is None:
                raise _invalid("WAV: samples before their format")
            rate, channels, bits = layout
            frames, rest = divmod(length, channels * bits // 8)
            if rest:
                raise _invalid(f"WAV: {length} bytes are no whole number of frames")
            return AudioHeader(rate, channels, frames, bits)
        position += length + length % 2
    raise _invalid(f"WAV: no samples within {MAX_STEPS} chunks")


def _wav_format(data: Buffer, position: int, length: int) -> tuple[int, int, int]:
    """Return rate, channels and bits."""
    if length < 16:
        raise _invalid(f"WAV: a format of {length} bytes")
    tag = _little(data, position, 2, "WAV")
    channels = _little(data, position + 2, 2, "WAV")
    rate = _little(data, position + 4, 4, "WAV")
    align = _little(data, position + 12, 2, "WAV")
    bits = _little(data, position + 14, 2, "WAV")
    if tag == _EXTENSIBLE:
        if length < 40 or bytes(data[position + 26 : position + 40]) != _SUBFORMAT_TAIL:
            raise _invalid("WAV: an unknown extensible format")
        tag = _little(data, position + 24, 2, "WAV")
    if bits not in _WAV_BITS.get(tag, ()):
        raise _invalid(f"WAV: PCM or float samples are expected, format {tag} of {bits} bits came")
    if not channels or not rate or align != channels * bits // 8:
        raise _invalid(
            f"WAV: {channels} channels of {bits} bits at {rate} Hz in frames of {align} bytes"
        )
    return rate, channels, bits


# -------------------------------------------------------------------------------------- FLAC


def _flac(data: Buffer) -> AudioHeader:
    """Read STREAMINFO, always the first metadata block; RFC 9639, section 8.2."""
    if bytes(data[:4]) != b"fLaC":
        raise _invalid("FLAC: no stream marker")
    if len(data) < 42 or data[4] & 0x7F or _big(data, 5, 3, "FLAC") != 34:
        raise _invalid("FLAC: no stream information")
    packed = _big(data, 18, 8, "FLAC")
    rate = packed >> 44
    channels = (packed >> 41 & 0x7) + 1
    bits = (packed >> 36 & 0x1F) + 1
    frames = packed & 0xFFFFFFFFF
    if not rate or bits < 4:
        raise _invalid(f"FLAC: {channels} channels of {bits} bits at {rate} Hz")
    if not frames:
        raise _invalid("FLAC: it does not say how many samples it has")
    return AudioHeader(rate, channels, frames, bits)


def _big(data: Buffer, position: int, count: int, what: str) -> int:
    return int.from_bytes(_field(data, position, count, what), "big")


def _little(data: Buffer, position: int, count: int, what: str) -> int:
    return int.from_bytes(_field(data, position, count, what), "little")


def _field(data: Buffer, position: int, count: int, what: str) -> Buffer:
    if position + count > len(data):
        raise _invalid(f"{what}: ends within its header")
    return data[position : position + count]


def _invalid(message: str) -> Rejected:
    return Rejected(Outcome.INVALID, message)
