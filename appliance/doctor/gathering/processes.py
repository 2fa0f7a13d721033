"""Other processes that look, each with the common deadline."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

from attrs import frozen

REAP_S = 0.1


@frozen
class Said:
    """What a process came to."""

    code: int
    out: str
    err: str


def start(*command: str) -> subprocess.Popen[str] | None:
    """Start a command; None: it is not there."""
    try:
        return subprocess.Popen(  # noqa: S603  commands of ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError:
        return None


def python(program: str) -> subprocess.Popen[str] | None:
    """Start a program in the Python of the appliance."""
    return start(sys.executable, "-c", program)


def output(process: subprocess.Popen[str] | None, deadline: float) -> Said | None:
    """Return what a process came to; None: it could not be started, or was not done in time."""
    if process is None:
        return None
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that is stuck in the kernel stays
            process.wait(REAP_S)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return None
    return Said(process.returncode, out, err)


def complaint(process: subprocess.Popen[str] | None, deadline: float) -> str | None:
    """Return the last line of why a process failed; empty: it did not; None: it was not done."""
    said = output(process, deadline)
    if said is None:
        return None
    if said.code == 0:
        return ""
    lines = said.err.strip().splitlines()
    return lines[-1] if lines else f"ended with {said.code}"
