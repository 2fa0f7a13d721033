"""Which version of a model is served, once somebody has said so: `<model>/active.toml`.

Without that file it is the latest. With it, a version that is pushed beside the others is served
only when it is activated, and the one before it is known, to go back to.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from attrs import field, frozen
from attrs.validators import matches_re

from appliance.errors import ConfigError
from appliance.structure import parse_toml, read_text, structure

ACTIVE = "active.toml"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Of a model, and of a version."""


@frozen(kw_only=True)
class Active:
    """What the file says.

    Attributes:
        version: That is served.
        previous: That was, before; empty: none was.
    """

    version: str = field(validator=matches_re(NAME))
    previous: str = field(default="", validator=matches_re(f"({NAME})?"))


def read_active(model: Path) -> Active | None:
    """Return what the file in a model's directory says; None: it is not there.

    Raises:
        ConfigError: It cannot be used: where, what was found, what is allowed.
    """
    path = model / ACTIVE
    if not os.path.lexists(path):
        return None
    return structure(parse_toml(read_text(path), str(path)), Active, str(path))


def write_active(model: Path, active: Active | None) -> None:
    """Write the file whole, or not at all; None: remove it.

    Raises:
        ConfigError: It cannot be written.
    """
    path, new = model / ACTIVE, model / f".{ACTIVE}.{os.getpid()}"
    try:
        if active is None:
            path.unlink(missing_ok=True)
        else:
            with new.open("w", encoding="utf-8") as file:
                file.write(f'version = "{active.version}"\nprevious = "{active.previous}"\n')
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        _sync(model)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _sync(directory: Path) -> None:
    """Have the directory itself outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
