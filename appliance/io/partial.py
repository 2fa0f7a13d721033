"""Files that are written under another name until they are whole. Nothing is ever written over."""

from __future__ import annotations

import os
from pathlib import Path


def open_partial(partial: Path, mode: int = 0o666) -> int:
    """Make a file and return its descriptor; nothing is followed and nothing may be there.

    Raises:
        OSError: There is one, or it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(partial, flags, mode)


def give_name(partial: Path, path: Path) -> None:
    """Rename a file, but never over another one.

    Raises:
        OSError: There is one, or it cannot be done.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise
        partial.rename(path)
    else:
        partial.unlink()
