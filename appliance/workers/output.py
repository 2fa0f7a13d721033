"""What a worker process writes to its standard output and error, as lines. PURE.

A model's code may print in a tight loop. Nobody waits for that and it cannot fill the log: lines
are cut, and of those beyond `LINES_PER_SECOND` only the number is told.
"""

from __future__ import annotations

from collections import deque

LINE_BYTES = 2048
"""A longer line is cut; what was cut is dropped."""

LINES_PER_SECOND = 200
TAIL_LINES = 20

_SECOND = 1_000_000_000


class Lines:
    """One stream of bytes, cut into lines.

    Attributes:
        tail: The last `TAIL_LINES` lines, dropped ones too.
    """

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._second = 0
        self._told = 0
        self._dropped = 0

    def feed(self, chunk: bytes, now_ns: int) -> list[str]:
        """Take in some bytes and return the lines to be told."""
        *complete, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:LINE_BYTES]
        return self._admit(complete, now_ns // _SECOND)

    def end(self) -> list[str]:
        """Return what is left when the stream has ended."""
        rest, self._rest = self._rest, b""
        return self._admit([rest] if rest else [], self._second + 1)

    def _admit(self, lines: list[bytes], second: int) -> list[str]:
        told: list[str] = []
        if second != self._second:
            if self._dropped:
                told.append(f"({self._dropped} more lines were dropped)")
            self._second, self._told, self._dropped = second, 0, 0
        admitted = lines[: LINES_PER_SECOND - self._told]
        self._told += len(admitted)
        self._dropped += len(lines) - len(admitted)
        told += [_text(line) for line in admitted]
        self.tail.extend(_text(line) for line in lines[-TAIL_LINES:])
        return told


def _text(line: bytes) -> str:
    return line[:LINE_BYTES].decode(errors="replace").rstrip("\r")
