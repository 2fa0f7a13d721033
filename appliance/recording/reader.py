"""Reads recordings back, and finds out where one is broken. Blocking; no Trio.

MCAP is a row of records, each an opcode, a length and that many bytes. They are walked through
here, by hand, so that a wrong length can neither ask for more memory than the file has bytes nor
lose the place; what is in them, the `mcap` package reads, and `chunks` unpacks. Checked are the
lengths, the checksum of each chunk and that of the whole, and each message against its schema's
class. What is held is a chunk as it is in the file, and one message.

A file that was cut off (its process was killed, its disk was full) is read as far as it goes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

from attrs import define, field, frozen
from google.protobuf.message import DecodeError, Message
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Metadata, Schema

from appliance.errors import RecordingError
from appliance.recording import chunks
from appliance.recording.chunks import HEAD_BYTES
from appliance.recording.messages import MESSAGES, Topic

MAGIC = b"\x89MCAP0\r\n"
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Of a message: channel, sequence, log time, publish time."""

MessageT = TypeVar("MessageT", bound=Message)
RecordT = TypeVar("RecordT", Chunk, Channel, DataEnd, Metadata, Schema)
_TOPICS = {MESSAGES[topic].DESCRIPTOR.full_name: topic for topic in Topic}


@frozen
class Entry:
    """One message of a recording.

    Attributes:
        at: The byte at which its record, or the chunk that holds it, begins.
    """

    path: Path
    at: int
    topic: Topic
    log_time_ns: int
    data: bytes

    def read(self, cls: type[MessageT]) -> MessageT:
        """Return the message.

        Raises:
            RecordingError: It is none.
        """
        message = cls()
        try:
            message.ParseFromString(self.data)
        except (DecodeError, UnicodeDecodeError) as error:
            raise RecordingError(
                f"{self.path}: at byte {self.at}: a message of {self.topic.path} cannot be read"
            ) from error
        return message


@define(eq=False)
class RecordingReader:
    """One pass through a file.

    Attributes:
        metadata: What the file says of itself, by name, as far as it was read.
        cut_off_at: The byte at which it ends before its end; None: it is whole.
    """

    path: Path
    metadata: dict[str, dict[str, str]] = field(factory=dict[str, "dict[str, str]"], init=False)
    cut_off_at: int | None = field(default=None, init=False)
    _schemas: dict[int, str] = field(factory=dict[int, str], init=False)
    _channels: dict[int, Topic] = field(factory=dict[int, Topic], init=False)

    def entries(self) -> Generator[Entry, None, None]:
        """Go through the messages, in the order of the file.

        Raises:
            RecordingError: It cannot be read, is no MCAP file, or is broken; says where.
        """
        try:
            with self.path.open("rb") as file:
                yield from self._entries(file)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _entries(self, file: IO[bytes]) -> Generator[Entry, None, None]:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(MAGIC)))
        is_whole = file.read() == MAGIC and size > len(MAGIC)
        file.seek(0)
        start = file.read(len(MAGIC))
        if start != MAGIC:
            raise RecordingError(f"{self.path}: at byte 0: this is no MCAP file")
        checksum = zlib.crc32(start)
        while True:
            at = file.tell()
            head = file.read(HEAD_BYTES)
            length = int.from_bytes(head[1:], "little")
            if len(head) < HEAD_BYTES or length > size - at - HEAD_BYTES:
                if is_whole:
                    raise self._broken(at, "a record reaches beyond the end of the file")
                self.cut_off_at = at
                return
            content = file.read(length)
            if head[0] == Opcode.DATA_END:
                self._check_end(at, content, checksum)
                return  # what follows is an index
            yield from self._record(at, head[0], content)
            checksum = zlib.crc32(content, zlib.crc32(head, checksum))

    def _check_end(self, at: int, content: bytes, checksum: int) -> None:
        end = self._parsed(at, DataEnd, content)
        if end.data_section_crc not in (0, checksum):
            raise self._broken(at, "the checksum of what comes before does not agree")

    def _record(self, at: int, opcode: int, content: bytes) -> Generator[Entry, None, None]:
        if opcode == Opcode.CHUNK:
            yield from self._chunk(at, content)
        elif opcode == Opcode.METADATA:
            found = self._parsed(at, Metadata, content)
            self.metadata[found.name] = found.metadata
        elif opcode == Opcode.SCHEMA:
            self._take(at, self._parsed(at, Schema, content))
        elif opcode == Opcode.CHANNEL:
            self._take(at, self._parsed(at, Channel, content))
        elif opcode == Opcode.MESSAGE:
            yield from self._message(at, len(content), BytesIO(content))
        elif opcode == 0:
            raise self._broken(at, "there is no record 0")

    def _chunk(self, at: int, content: bytes) -> Generator[Entry, None, None]:
        chunk = self._parsed(at, Chunk, content)
        del content
        try:
            chunks.check(chunk)
            for opcode, length, stream in chunks.records(chunk):
                if opcode == Opcode.MESSAGE:
                    yield from self._message(at, length, stream)
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    yield from self._record(at, opcode, stream.read(length))
                else:
                    stream.read(length)  # nothing else belongs there
        except RecordingError:
            raise
        except Exception as error:  # as in _parsed
            raise self._broken(at, f"a chunk cannot be read: {error}") from error

    def _take(self, at: int, record: Schema | Channel) -> None:
        """Learn which channel is which topic."""
        if isinstance(record, Schema):
            self._schemas[record.id] = record.name
        elif record.schema_id and record.schema_id not in self._schemas:
            raise self._broken(at, f"channel {record.id} has an unknown schema {record.schema_id}")
        else:
            topic = _TOPICS.get(self._schemas.get(record.schema_id, ""))
            if topic is not None and record.message_encoding == "protobuf":
                self._channels[record.id] = topic

    def _message(self, at: int, length: int, stream: IO[bytes]) -> Generator[Entry, None, None]:
        if length < MESSAGE_HEAD.size:
            raise self._broken(at, "a message cannot be read")
        channel, _, log_time_ns, _ = MESSAGE_HEAD.unpack(stream.read(MESSAGE_HEAD.size))
        data = stream.read(length - MESSAGE_HEAD.size)
        topic = self._channels.get(channel)
        if topic is not None:  # others may have added what is theirs
            yield Entry(self.path, at, topic, log_time_ns, data)

    def _parsed(self, at: int, cls: type[RecordT], content: bytes) -> RecordT:
        try:
            return cls.read(ReadDataStream(BytesIO(content)))
        except Exception as error:  # whatever the package makes of broken bytes
            raise self._broken(at, f"a {cls.__name__} record cannot be read") from error

    def _broken(self, at: int, why: str) -> RecordingError:
        return RecordingError(f"{self.path}: at byte {at}: {why}")
