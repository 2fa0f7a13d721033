"""Where the admin socket is when nobody says so. The one rule, for the server and for the CLI."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

SYSTEM = Path("/run/appliance")
NAME = "appliance.sock"


def default_socket_path(*, existing: bool = False) -> str:
    """Return `/run/appliance/appliance.sock` if that directory is writable.

    Else `appliance.sock` in `$XDG_RUNTIME_DIR` or, without one, in the temporary directory.

    Args:
        existing: To ask rather than to listen: the first of these places where a socket is. An
            operator may ask the system's appliance without being able to write its directory.
    """
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if existing:
        for directory in (SYSTEM, own):
            if _is_socket(directory / NAME):
                return str(directory / NAME)
    directory = SYSTEM if os.access(SYSTEM, os.W_OK | os.X_OK) else own
    return str(directory / NAME)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
