"""A section as a process: within its time, gone by the end, and what it said last is not lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from tools.gpu_check.finding import GOOD, NOT_DONE

Line = dict[str, Any]
GRACE_S = 5.0
"""For one that was killed to be gone: where a driver hangs, it never is."""
LOG_LINES = 100


def by_itself(command: Sequence[str], work: Path, log: Path, most_s: float) -> Line:
    """Run a section; return its line of the results.

    Args:
        work: Where it puts what is temporary.
        log: Gets what it writes to its standard error.
    """
    started = time.monotonic()
    # Into a file: a pipe could be held open by what the section has started.
    with tempfile.TemporaryFile(dir=work) as said, log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(work)},
        )
        in_time = _ends(process, most_s)
        said.seek(0)
        line = last_said(said.read())
    try:
        status = process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        ending = f"stopped: its {most_s:.0f} s were over, and it cannot be killed"
    else:
        last = tail(log)[-1:] if status > 0 else []
        ending = ": ".join([f"ended with status {status}", *last]) if status else ""
        ending = ending if in_time else f"stopped: its {most_s:.0f} s were over"
    known = line.get("state", "")
    if not known:
        line["state"] = ending or "ended without a word"
    elif ending:
        line["state"] = ending if known in (GOOD, NOT_DONE) else f"{ending}; before that {known}"
    line["seconds"] = round(time.monotonic() - started, 1)
    return line


def _ends(process: subprocess.Popen[bytes], most_s: float) -> bool:
    """Wait for its end, and kill what is left of its group: a box, robots, or all of it.

    Workers end with who started them. Returns whether it ended by itself.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], max(0.0, most_s))
        return bool(ended)
    finally:
        os.close(descriptor)
        os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet: the group is its own


def last_said(answer: bytes) -> Line:
    """Return the last line that is whole; nothing, if there is none."""
    for said in reversed(answer.splitlines()):
        with suppress(ValueError):
            line: object = json.loads(said)
            if isinstance(line, dict) and "state" in line:
                return cast("Line", line)
    return {}


def tail(log: Path) -> list[str]:
    """Return the last lines of a log."""
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
