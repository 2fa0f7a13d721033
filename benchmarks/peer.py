"""The peer: `inferential` 1.4.0, unmodified, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.children import ROOT, Child

VERSION = "1.4.0"
VARIABLE = "APPLIANCE_PEER_140"
"""Names a Python interpreter that has it already."""


class PeerUnavailable(Exception):
    """It is not installed and cannot be."""


def interpreter() -> Path:
    """Return a Python that has the peer; installs it below `.build/` the first time.

    Raises:
        PeerUnavailable: It cannot be installed.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).exists():
            raise PeerUnavailable(f"{VARIABLE} names {named}, which is not there")
        return Path(named)
    home = ROOT / ".build" / "peers" / f"inferential-{VERSION}"
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        commands = (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", f"inferential=={VERSION}"],
        )
        try:
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, timeout=180)
        except (subprocess.SubprocessError, OSError) as error:
            message = f"inferential {VERSION} cannot be installed: {error}"
            raise PeerUnavailable(message) from error
        (home / "installed").touch()
    return python


def server(python: Path, address: str, model: str, **options: object) -> Child:
    """Start the peer's own server; see `peer_server.py`."""
    script = Path(__file__).with_name("peer_server.py")
    return Child([str(python), str(script), address, model, json.dumps(options)])


def robot(python: Path, address: str, number: int, wait_ms: float) -> Child:
    """Start a closed-loop robot on the peer's own client; see `peer_robot.py`."""
    script = Path(__file__).with_name("peer_robot.py")
    return Child([str(python), str(script), address, str(number), str(wait_ms)])
