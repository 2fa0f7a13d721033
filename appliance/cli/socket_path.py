"""Where the admin socket is when nobody says so. The one rule, for the server and for the CLI."""

from __future__ import annotations

import os
import stat

SYSTEM = "/run/appliance"
NAME = "appliance.sock"


def default_socket_path(*, existing: bool = False) -> str:
    """Return `/run/appliance/appliance.sock` if that directory is writable.

    Else `appliance.sock` in `$XDG_RUNTIME_DIR` or, without one, in the temporary directory.

    Args:
        existing: To ask rather than to listen: the first of these places where a socket is. An
            operator may ask the system's appliance without being able to write its directory.
    """
    own = os.environ.get("XDG_RUNTIME_DIR") or _temporary()
    paths = [os.path.join(directory, NAME) for directory in (SYSTEM, own)]  # noqa: PTH118  as below
    if existing:
        for path in paths:
            if _is_socket(path):
                return path
    return paths[0] if os.access(SYSTEM, os.W_OK | os.X_OK) else paths[1]


def _temporary() -> str:
    import tempfile  # brings half of the compression modules along: only where it is needed

    return tempfile.gettempdir()


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116  importing pathlib takes 5 ms
    except PermissionError:  # who may not look is to hear that, not that nobody is there
        return True
    except OSError:
        return False
