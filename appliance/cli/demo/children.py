"""Child processes that are ended for certain, in bounded time, by their own process id."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

POLITE_S = 5.0
TAIL_LINES = 12


def end(process: subprocess.Popen[str], grace_s: float = POLITE_S) -> int:
    """Return the exit code of a process that had `grace_s` to leave before it was killed."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def spawn_leashed(words: Sequence[str], log: IO[bytes]) -> tuple[subprocess.Popen[str], int]:
    """Start Python with `words`, in a session of its own so that Ctrl-C is not for it.

    Its standard input is a pipe whose other end is only here. When this process is gone, however
    that came about, the kernel closes the pipe and so sends the child SIGTERM.

    Returns:
        The process, and the descriptor to keep open.
    """
    inner, outer = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  our own interpreter
            [sys.executable, *words],
            stdin=inner,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        fcntl.fcntl(inner, fcntl.F_SETOWN, process.pid)
        fcntl.fcntl(inner, fcntl.F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(inner, fcntl.F_SETFL, fcntl.fcntl(inner, fcntl.F_GETFL) | os.O_ASYNC)
    finally:
        os.close(inner)
    return process, outer


def tail(path: Path) -> str:
    """Return the last lines of a log."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])
