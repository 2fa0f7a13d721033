"""Files: read back by the `mcap` package, cut off, on a full disk, and broken."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from recording.recordings import MS, observation, outcome, write

from appliance.errors import RecordingError
from appliance.recording.files import RecordingFile
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.wire.pb import recording_pb2

TESTS = Path(__file__).parent.parent


def contents(path: Path) -> list[tuple[Topic, bytes]]:
    return [(entry.topic, entry.data) for entry in RecordingReader(path).entries()]


def test_the_mcap_package_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write(path, [observation(1, at_ns=MS), outcome(1, at_ns=3 * MS)])
    assert not path.with_name("a.mcap.partial").exists()
    assert path.stat().st_mode & 0o777 == 0o640
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 2
        found = [(s.name, c.topic, m) for s, c, m in reader.iter_messages() if s is not None]
        names = {each.name: each.metadata for each in reader.iter_metadata()}
    assert [(name, topic) for name, topic, _ in found] == [
        ("appliance.recording.Observation", "/observations"),
        ("appliance.recording.Outcome", "/outcomes"),
    ]
    assert found[0][2].log_time == 1_700_000_000_000_000_000 + MS
    assert recording_pb2.Outcome.FromString(found[1][2].data).sequence == 1
    assert names == {
        "appliance": {"appliance_id": "cell-4"},
        "recording": {"dropped_messages": "0"},
    }


def test_we_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write(path, [observation(number) for number in range(5)])
    reader = RecordingReader(path)
    found = [entry.read(recording_pb2.Observation) for entry in reader.entries()]
    assert [message.envelope.sequence for message in found] == list(range(5))
    assert reader.cut_off_at is None
    assert reader.metadata["appliance"] == {"appliance_id": "cell-4"}


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_text("precious")
    with pytest.raises(RecordingError, match="is there already"):
        RecordingFile(path, images=True, wall_offset_ns=0).open({})
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/a.mcap", "a" * 300])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        RecordingFile(tmp_path / name, images=True, wall_offset_ns=0).open({})


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """Let files have so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_from_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with full_after(10), pytest.raises(RecordingError, match=os.strerror(errno.EFBIG)):
        RecordingFile(path, images=True, wall_offset_ns=0).open({})


def test_what_is_there_under_either_name_stays(tmp_path: Path) -> None:
    path, precious = tmp_path / "a.mcap", tmp_path / "precious"
    precious.write_text("precious")
    for make in (
        lambda there: there.symlink_to(precious),
        lambda there: there.symlink_to(tmp_path / "nowhere"),
        lambda there: there.write_text("precious"),
        os.mkfifo,
    ):
        for there in (path, tmp_path / "a.mcap.partial"):
            make(there)
            with pytest.raises(RecordingError, match="is there already"):
                RecordingFile(path, images=True, wall_offset_ns=0).open({})
            there.unlink()
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_what_came_there_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    file = RecordingFile(path, images=True, wall_offset_ns=0)
    file.open({})
    file.write([observation(1)])
    path.write_text("precious")
    with pytest.raises(RecordingError, match="File exists"):
        file.finish({})
    assert path.read_text() == "precious"
    assert len(list(RecordingReader(file.partial).entries())) == 1


def _write_on(file: RecordingFile) -> None:
    for start in range(0, 100_000, 100):
        numbers = range(start, start + 100)
        file.write([observation(n, padding=1 + 3000 * (n % 7 == 0)) for n in numbers])


def test_a_disk_that_fills_up_leaves_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    file = RecordingFile(path, images=True, wall_offset_ns=0)
    file.open({})
    with full_after(100_000), pytest.raises(RecordingError, match="can be read") as caught:
        _write_on(file)
    assert "File too large" in str(caught.value)
    assert not path.exists()
    reader = RecordingReader(file.partial)
    found = [entry.read(recording_pb2.Observation) for entry in reader.entries()]
    assert [message.envelope.sequence for message in found] == list(range(len(found)))
    assert len(found) > 100
    assert reader.cut_off_at == file.bytes == file.partial.stat().st_size


def test_a_process_that_is_killed_leaves_what_can_be_read(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from recording.recordings import observation
from appliance.recording.files import RecordingFile
file = RecordingFile(Path(sys.argv[1]), images=True, wall_offset_ns=0)
file.open({})
number = 0
while True:
    file.write([observation(number + i, padding=500) for i in range(1000)])
    number += 1000
    print(number, flush=True)
"""
    path = tmp_path / "a.mcap"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        text=True,
    )
    assert child.stdout is not None
    with child.stdout:
        written = [int(child.stdout.readline()) for _ in range(3)][-1]
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    partial = path.with_name("a.mcap.partial")
    reader = RecordingReader(partial)
    found = [entry.read(recording_pb2.Observation) for entry in reader.entries()]
    assert [message.envelope.sequence for message in found] == list(range(len(found)))
    assert len(found) > written - 1000  # all but the last chunk
    assert reader.cut_off_at is not None


# --------------------------------------------------------------------------------- broken


@pytest.mark.parametrize("data", [b"", b"\x89MCAP", b"{}" * 50, b"\x89MCAP0\r\n"[::-1] * 4])
def test_what_is_no_mcap_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match="at byte 0: this is no MCAP file"):
        contents(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        contents(tmp_path / "a.mcap")


@settings(max_examples=300)
@given(st.data())
def test_a_flipped_byte_is_found_or_harmless(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "a.mcap"
        write(path, [each for n in range(20) for each in (observation(n), outcome(n))])
        before = contents(path)
        whole = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        reader = RecordingReader(path)
        try:
            found = [(entry.topic, entry.data) for entry in reader.entries()]
        except RecordingError as error:
            told = str(error)
            assert told.startswith(f"{path}: at byte ")
        else:
            assert found == before[: len(found)]
            assert found == before or reader.cut_off_at is not None


@settings(max_examples=100)
@given(st.data())
def test_a_file_that_was_cut_is_read_as_far_as_it_goes(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "a.mcap"
        file = RecordingFile(path, images=True, wall_offset_ns=0)
        file.open({})
        for start in range(0, 60, 20):
            file.write([observation(n, padding=6000) for n in range(start, start + 20)])
        file.finish({})
        before = contents(path)
        size = data.draw(st.integers(8, path.stat().st_size - 1))
        path.write_bytes(path.read_bytes()[:size])
        reader = RecordingReader(path)
        found = [(entry.topic, entry.data) for entry in reader.entries()]
        assert found == before[: len(found)]
        assert found == before or reader.cut_off_at is not None


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_whatever_follows_the_magic_is_no_traceback(data: bytes) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "a.mcap"
        path.write_bytes(b"\x89MCAP0\r\n" + data)
        with contextlib.suppress(RecordingError):
            assert contents(path) == []
