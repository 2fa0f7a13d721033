"""What a chunk of an MCAP file holds. Blocking.

A few bytes of a file may stand for gigabytes, or say that they do. So a chunk is unpacked twice, a
block at a time: once to see whether its length and its checksum are what it says, and once to go
through its records, of which one is held at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from io import BufferedReader, BytesIO
from typing import IO, Any, cast

import lz4.frame  # pyright: ignore[reportMissingTypeStubs]
import zstandard
from mcap.opcode import Opcode
from mcap.records import Chunk

HEAD_BYTES = 9
"""Of a record: its opcode, and its length."""

BLOCK_BYTES = 1 << 20

MOST_BYTES = 2 << 30
"""Of a chunk: more than the longest message that an appliance takes."""

MOST_OTHER_BYTES = 64 << 20
"""Of a chunk, without its longest message. Ours have 256 KiB."""

MOST_WINDOW_BYTES = 64 << 20
"""How far back what is compressed may refer; that much is held."""


def check(chunk: Chunk) -> None:
    """Check a chunk's length and checksum.

    Raises:
        ValueError: One of them is not what it says; or whatever unpacking raises.
    """
    size = chunk.uncompressed_size
    if size > MOST_BYTES:
        raise ValueError(f"its {size} bytes are too many")
    length = checksum = 0
    with _unpacked(chunk) as stream:
        while length <= size and (block := stream.read(BLOCK_BYTES)):
            length += len(block)
            checksum = zlib.crc32(block, checksum)
    if length != size:
        raise ValueError(f"it says {size} bytes and holds {'more' if length > size else length}")
    if chunk.uncompressed_crc not in (0, checksum):
        raise ValueError("its checksum does not agree")


def records(chunk: Chunk) -> Generator[tuple[int, int, IO[bytes]], None, None]:
    """Go through a chunk that was checked.

    Yields:
        Opcode and length of each record, and where so many bytes of it are to be read from.

    Raises:
        ValueError: A record is broken, or all but the longest message are too much.
    """
    left = chunk.uncompressed_size
    longest = 0
    with _unpacked(chunk) as stream:
        while left:
            head = stream.read(HEAD_BYTES)
            opcode, length = head[0], int.from_bytes(head[1:], "little")
            left -= HEAD_BYTES + length
            if len(head) < HEAD_BYTES or left < 0:
                raise ValueError("a record reaches beyond its end")
            if not opcode:
                raise ValueError("there is no record 0")
            if opcode == Opcode.MESSAGE:
                longest = max(longest, length)
            if chunk.uncompressed_size - left - longest > MOST_OTHER_BYTES:
                raise ValueError(f"its {chunk.uncompressed_size} bytes are too many")
            yield opcode, length, stream


def _unpacked(chunk: Chunk) -> IO[bytes]:
    if chunk.compression == "zstd":
        unpacker = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW_BYTES)
        return BufferedReader(cast("Any", unpacker.stream_reader(chunk.data)), BLOCK_BYTES)
    if chunk.compression == "lz4":
        return cast("IO[bytes]", lz4.frame.LZ4FrameFile(BytesIO(chunk.data)))
    if chunk.compression:
        raise ValueError(f"unknown compression {chunk.compression!a}")
    return BytesIO(chunk.data)
