"""A program in a real pseudo-terminal, and the screen that it paints there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pyte

# What runs there gets the terminal as its own, with the signals that come of it.
ADOPT = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
ADOPT += "os.execv(sys.argv[1], sys.argv[1:])"

FAINT, GREY = 2, 90
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
"""The full screen."""
KEPT_BYTES = 1 << 16


class Screen(pyte.Screen):
    """A screen on which faint is grey: pyte does not know it."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*(GREY if a == FAINT else a for a in attributes))


class Terminal:
    """A terminal of so many columns and rows, and the program in it."""

    def __init__(self, words: Sequence[str], columns: int, rows: int, term: str) -> None:
        self.screen = Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._taken = b""
        self._near, far = pty.openpty()
        self.resize(columns, rows)
        self._before = termios.tcgetattr(self._near)
        environment = {**os.environ, "TERM": term, "COLORTERM": ""}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ADOPT, *words],
                stdin=far,
                stdout=far,
                stderr=far,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(far)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def shows(self, *words: str) -> bool:
        return all(word in self.text for word in words)

    def send(self, keys: str) -> None:
        os.write(self._near, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._near, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        """Take in what is painted until `condition` holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"in vain:\n{self.text}"
            self._read(0.1)

    def watch(self, seconds: float) -> None:
        """Take in what is painted for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._read(0.1):
            pass

    def wait_ended(self, timeout_s: float = 20) -> int:
        """Take in the rest; return the exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(0.1):
            assert time.monotonic() < deadline, f"it goes on:\n{self.text}"
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        with suppress(OSError):
            os.close(self._near)

    def hang_up(self) -> None:
        """Close the window: the program gets SIGHUP."""
        os.close(self._near)

    def is_restored(self) -> bool:
        """Whether the program has left its full screen, and the line discipline is as it was."""
        left = self._taken.rpartition(LEAVE)[2] if LEAVE in self._taken else None
        now = termios.tcgetattr(self._near)
        return left is not None and ENTER not in left and now == self._before

    def _read(self, timeout_s: float) -> bool:
        """Take in what is there; return whether there may be more."""
        if not select.select([self._near], [], [], timeout_s)[0]:
            return True
        try:
            painted = os.read(self._near, 1 << 16)
        except OSError:  # so Linux says that nobody has it open any more
            return False
        self._stream.feed(painted)
        self._taken = (self._taken + painted)[-KEPT_BYTES:]
        return bool(painted)


@contextmanager
def terminal(
    *words: str, columns: int = 80, rows: int = 24, term: str = "xterm-256color"
) -> Iterator[Terminal]:
    """Run `appliance` with these words."""
    command = [sys.executable, "-m", "appliance", *words]
    running = Terminal(command, columns, rows, term)
    try:
        yield running
    finally:
        running.close()
