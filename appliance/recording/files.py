"""An MCAP file being written. Blocking: it runs in a process of its own (`__main__`).

It is written beside its name, as `NAME.partial`, and gets its name when it is whole. What is there
at any time can be read up to its last chunk; one that could not be finished is cut back to that.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from stat import S_ISREG
from typing import IO

from attrs import define, field
from mcap.writer import CompressionType, Writer

from appliance.errors import RecordingError
from appliance.io.partial import give_name, open_partial
from appliance.recording.buffers import Record
from appliance.recording.incidents import DIRECTORY_MODE, Kept, is_incident, to_delete
from appliance.recording.messages import Topic, encode, schema

CHUNK_BYTES = 256 * 1024
"""Before compression: what a recording loses at most when its process is killed."""

MODE = 0o640
"""What robots see is not for everybody."""

LIBRARY = "appliance"


@define(eq=False)
class RecordingFile:
    """See the module's docstring.

    Args:
        path: Where the file is to be.
        images: Whether the bytes of images are written.
        wall_offset_ns: Wall clock minus monotonic clock, for MCAP's log_time.

    Attributes:
        messages: Written so far.
        bytes: Of the file so far, as far as it can be read.
    """

    path: Path
    images: bool = field(kw_only=True)
    wall_offset_ns: int = field(kw_only=True)
    messages: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    _stream: IO[bytes] = field(init=False)
    _writer: Writer = field(init=False)
    _channels: dict[int, int] = field(factory=dict[int, int], init=False)
    _counts: dict[int, int] = field(factory=dict[int, int], init=False)

    @property
    def partial(self) -> Path:
        """Where it is until it is whole."""
        return self.path.with_name(f"{self.path.name}.partial")

    def open(self, about: dict[str, str]) -> None:
        """Begin the file.

        Args:
            about: Becomes its metadata `appliance`.

        Raises:
            RecordingError: There is such a file, or none can be made there.
        """
        try:
            if os.path.lexists(self.path):
                raise RecordingError(f"{self.path}: is there already; choose another name")
            self._stream = os.fdopen(open_partial(self.partial, MODE), "wb")
        except FileExistsError as error:
            raise RecordingError(
                f"{self.partial}: is there already, written by somebody now or left by somebody "
                "who was cut off; choose another name, or move it away"
            ) from error
        except OSError as error:
            raise RecordingError(f"{self.partial}: cannot be written: {error.strerror}") from error
        try:
            self._begin(about)
        except Exception as error:  # whatever it is, the file is closed
            raise self.fail(error) from error

    def _begin(self, about: dict[str, str]) -> None:
        self._writer = Writer(
            self._stream,
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.ZSTD,
            enable_data_crcs=True,
        )
        self._writer.start(profile="", library=LIBRARY)
        self._writer.add_metadata("appliance", about)
        for topic in Topic:
            name, definition = schema(topic)
            number = self._writer.register_schema(name, "protobuf", definition)
            self._channels[topic] = self._writer.register_channel(topic.path, "protobuf", number)
        self._settle()

    def write(self, records: list[Record]) -> None:
        """Add records.

        Raises:
            RecordingError: The file cannot be written any further; it was cut back.
        """
        try:
            for record in records:
                self._add(record)
            self._settle()
        except Exception as error:  # whatever it is, the file is closed
            raise self.fail(error) from error

    def _add(self, record: Record) -> None:
        kind, at_ns, _, _ = record
        message = encode(record, images=self.images)
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        log_time = at_ns + self.wall_offset_ns
        self._writer.add_message(self._channels[kind], log_time, message, log_time, count)
        self.messages += 1
        if self._stream.tell() > self.bytes:  # it was the end of a chunk
            self._settle()

    def _settle(self) -> None:
        self._stream.flush()
        self.bytes = self._stream.tell()

    def finish(self, about: dict[str, str]) -> None:
        """End the file and give it its name.

        Args:
            about: Becomes its metadata `recording`.

        Raises:
            RecordingError: It cannot be written; it was cut back, and keeps its partial name.
        """
        try:
            self._writer.add_metadata("recording", about)
            self._writer.finish()
            self._settle()
            os.fsync(self._stream.fileno())
            self._stream.close()
            give_name(self.partial, self.path)
        except Exception as error:  # whatever it is, the file is closed
            raise self.fail(error) from error

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self.partial.unlink(missing_ok=True)

    def fail(self, error: Exception) -> RecordingError:
        """Close the file where it could be read; return what is to be said."""
        with contextlib.suppress(OSError):
            self._stream.close()  # it may try once more to write what it holds
        with contextlib.suppress(OSError):
            os.truncate(self.partial, self.bytes)
        why = error.strerror if isinstance(error, OSError) else repr(error)
        return RecordingError(
            f"{self.path}: cannot be written: {why}; {self.partial} holds the first "
            f"{self.bytes} bytes and can be read"
        )


def make_room(directory: Path, most_bytes: int, needed: int) -> None:
    """Delete the oldest incidents, until `needed` more bytes are within `most_bytes`.

    A directory that is gone is made again.

    Raises:
        RecordingError: They cannot be listed or deleted.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        kept = [_kept(path) for path in directory.iterdir() if is_incident(path.name)]
        files = [each for each in kept if each is not None]
        for name in to_delete(files, most_bytes, needed):
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise RecordingError(f"{directory}: cannot be tidied up: {error.strerror}") from error


def _kept(path: Path) -> Kept | None:
    """Return what is to be known of a file; None for what is not ours, or is gone by now."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return Kept(path.name, found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else None
