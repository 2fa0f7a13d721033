"""`appliance record` and `appliance replay` in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.admin import client as admin
from support.box import Box


def start(running: Box, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "appliance", "record", *words, "--socket", running.socket],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def recording(running: Box, path: Path, *words: str) -> Iterator[Callable[[], tuple[int, str]]]:
    """Record while the block runs; what is yielded ends it, as Ctrl-C does."""
    with start(running, str(path), *words) as child:
        wait_for_recording(running, "recording", "waiting")

        def stop() -> tuple[int, str]:
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=30)
            return child.returncode, out + err

        try:
            yield stop
        finally:
            child.kill()


def wait_for_recording(running: Box, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = admin.get(running.socket, "/v1/recordings", 5.0)
        assert isinstance(found, dict)
        for each in found["recordings"]:
            if each["state"] in states:
                return each
        time.sleep(0.02)
    raise AssertionError(f"no recording is {states}: {running.log()}")


def replay(path: Path, address: str, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "replay", str(path), "--server", address, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr
