"""Chunks that are not what they say, in a process that may not use much memory."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame  # pyright: ignore[reportMissingTypeStubs]
import pytest
import zstandard
from mcap.opcode import Opcode

from appliance.errors import RecordingError
from appliance.recording import chunks
from appliance.recording.messages import Topic, schema
from appliance.recording.reader import RecordingReader

MIB = 1 << 20
TESTS = Path(__file__).parent.parent

READ = """
import resource, sys
from pathlib import Path
from appliance.errors import RecordingError
from appliance.recording.reader import RecordingReader
from appliance.recording.messages import Topic
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
count = 0
try:
    for entry in RecordingReader(Path(sys.argv[1])).entries():
        count += 1
        longest = len(entry.data)
        del entry
    print(count, longest)
except RecordingError as error:
    print(error)
"""


def record(opcode: int, content: bytes) -> bytes:
    return bytes([opcode]) + struct.pack("<Q", len(content)) + content


def text(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def message(data: bytes) -> bytes:
    return record(Opcode.MESSAGE, struct.pack("<HIQQ", 1, 1, 1, 1) + data)


def channel() -> bytes:
    """The records that say that channel 1 holds observations."""
    name, definition = schema(Topic.OBSERVATIONS)
    kind = struct.pack("<H", 1) + text(name.encode()) + text(b"protobuf") + text(definition)
    about = struct.pack("<HH", 1, 1) + text(b"/observations") + text(b"protobuf") + text(b"")
    return record(Opcode.SCHEMA, kind) + record(Opcode.CHANNEL, about)


def write_chunk(
    path: Path, data: bytes, *, size: int, compression: str = "zstd", checksum: int = 0
) -> Path:
    """Write a file of one chunk, and what it says of itself."""
    head = struct.pack("<QQQI", 0, 0, size, checksum) + text(compression.encode())
    chunk = head + struct.pack("<Q", len(data)) + data
    path.write_bytes(b"\x89MCAP0\r\n" + record(Opcode.CHUNK, chunk))
    return path


def zstd(size: int) -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()


def lz4_frame(size: int) -> bytes:
    packer = lz4.frame.LZ4FrameCompressor()
    parts = [packer.begin(), *(packer.compress(bytes(MIB)) for _ in range(size // MIB))]
    return b"".join([*parts, packer.flush()])


def read(path: Path, mib: int) -> str:
    """Read a file in a process that may use so much more memory; return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(mib)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("kind", "pack"), [("zstd", zstd), ("lz4", lz4_frame)])
def test_what_is_more_than_it_says_is_not_unpacked(
    tmp_path: Path, kind: str, pack: Callable[[int], bytes]
) -> None:
    path = write_chunk(tmp_path / "a.mcap", pack(400 * MIB), size=100, compression=kind)
    said = read(path, 100)
    assert said == f"{path}: at byte 8: a chunk cannot be read: it says 100 bytes and holds more"


def test_many_messages_are_not_held_at_once(tmp_path: Path) -> None:
    some = channel() + message(b"") * (1 * MIB)
    path = write_chunk(tmp_path / "a.mcap", zstandard.compress(some), size=len(some))
    assert read(path, 100) == f"{MIB} 0"


def test_more_messages_than_a_chunk_may_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MOST_OTHER_BYTES", MIB)
    many = channel() + message(b"") * (1 + MIB // 31)
    path = write_chunk(tmp_path / "a.mcap", zstandard.compress(many), size=len(many))
    with pytest.raises(RecordingError, match=f"its {len(many)} bytes are too many"):
        list(RecordingReader(path).entries())


def test_a_message_may_be_longer_than_all_others(tmp_path: Path) -> None:
    length = chunks.MOST_OTHER_BYTES + 16 * MIB
    one = channel() + message(bytes(length)) + message(b"x")
    for kind, packed in (
        ("zstd", zstandard.compress(one)),
        ("lz4", lz4.frame.compress(one)),
        ("", one),
    ):
        path = write_chunk(tmp_path / "a.mcap", packed, size=len(one), compression=kind)
        found = [len(entry.data) for entry in RecordingReader(path).entries()]
        assert found == [length, 1]


def test_a_chunk_that_says_too_much_is_not_even_begun(tmp_path: Path) -> None:
    path = write_chunk(tmp_path / "a.mcap", b"nonsense", size=chunks.MOST_BYTES + 1)
    with pytest.raises(RecordingError, match="its 2147483649 bytes are too many"):
        list(RecordingReader(path).entries())


@pytest.mark.parametrize(
    ("content", "more", "why"),
    [
        (message(b"abc"), {"size": 35}, "it says 35 bytes and holds 34"),
        (message(b"abc"), {"checksum": 1}, "its checksum does not agree"),
        (message(b"abc"), {"compression": "gzip"}, "unknown compression 'gzip'"),
        (bytes(9), {}, "there is no record 0"),
        (message(b"abc")[:-1], {}, "a record reaches beyond its end"),
        (message(b"abc") + b"\x05", {}, "a record reaches beyond its end"),
        (record(Opcode.MESSAGE, bytes(21)), {}, "a message cannot be read"),
    ],
)
def test_a_broken_chunk_says_why(
    tmp_path: Path, content: bytes, more: dict[str, int | str], why: str
) -> None:
    said = {"size": len(content), "compression": "", **more}
    path = write_chunk(tmp_path / "a.mcap", content, **said)
    with pytest.raises(RecordingError, match=why):
        list(RecordingReader(path).entries())


def test_a_chunk_in_a_chunk_is_nothing(tmp_path: Path) -> None:
    inner = write_chunk(tmp_path / "b.mcap", b"x", size=5, compression="").read_bytes()[8:]
    whole = channel() + inner + message(b"abc")
    checksum = zlib.crc32(whole)
    path = tmp_path / "a.mcap"
    write_chunk(path, whole, size=len(whole), compression="", checksum=checksum)
    assert [entry.data for entry in RecordingReader(path).entries()] == [b"abc"]
