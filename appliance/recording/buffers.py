"""What was taken down and is not written yet, within bounds. Pure.

A record is a plain tuple of plain values, for two reasons: nobody can change it later, and Python's
garbage collector stops looking at tuples that hold nothing it has to follow. A ring of objects
would have it look at a hundred thousand of them, and the robots would wait meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from attrs import define, field

Record = tuple[int, int, int, tuple[Any, ...]]
"""Kind (`messages.Topic`), monotonic nanoseconds, bytes it counts for, and fields by kind."""


class Sink(Protocol):
    """Where records go; `images` says whether with the bytes of images."""

    images: bool

    def put(self, record: Record) -> None:
        """Take a record, or drop one."""
        ...


@define(eq=False)
class Backlog:
    """Records on their way to a file. When it is full, new ones are dropped and counted.

    Attributes:
        most_bytes: Of all records that are not written yet, those being written included.
        dropped: Records dropped so far, and their bytes.
    """

    most_bytes: int
    images: bool = True
    bytes: int = field(default=0, init=False)
    dropped: tuple[int, int] = field(default=(0, 0), init=False)
    _records: list[Record] = field(factory=list[Record], init=False)

    def put(self, record: Record) -> None:
        """Take a record if there is room."""
        size = record[2]
        if self.bytes + size > self.most_bytes:
            messages, lost = self.dropped
            self.dropped = messages + 1, lost + size
            return
        self.bytes += size
        self._records.append(record)

    def take(self) -> list[Record]:
        """Return what is there; it counts until `written` is told of it."""
        records, self._records = self._records, []
        return records

    def written(self, records: list[Record]) -> None:
        """Make room for as much as was taken."""
        self.bytes -= sum(record[2] for record in records)


@define(eq=False)
class Ring:
    """The last records. When it is full, the oldest make room.

    Attributes:
        span_ns: Older ones are dropped.
        most_bytes: Of all records; a larger one is not taken at all.
    """

    span_ns: int
    most_bytes: int
    images: bool = True
    bytes: int = field(default=0, init=False)
    _records: deque[Record] = field(factory=deque[Record], init=False)

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> None:
        """Take a record, and let go of what is too old or too much."""
        _, at_ns, size, _ = record
        if size > self.most_bytes:
            return
        records = self._records
        records.append(record)
        self.bytes += size
        oldest_ns = at_ns - self.span_ns
        while self.bytes > self.most_bytes or records[0][1] < oldest_ns:
            self.bytes -= records.popleft()[2]

    def recent(self, now_ns: int) -> list[Record]:
        """Return what is in it of the last `span_ns`, oldest first."""
        oldest_ns = now_ns - self.span_ns
        return [record for record in self._records if record[1] >= oldest_ns]
