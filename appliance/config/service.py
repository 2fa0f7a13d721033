"""Tables of the service around it: admin, log, drain, recordings."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import and_, ge, le

from appliance.config.checks import MIB, NOT_NEGATIVE, POSITIVE


@frozen(kw_only=True)
class Admin:
    """The local socket that `appliance status` asks.

    Attributes:
        socket: Empty: `/run/appliance/appliance.sock` if that directory is writable, else
            `appliance.sock` in `$XDG_RUNTIME_DIR` or the temporary directory.
        listen: Optional `HOST:PORT` on loopback for Prometheus; empty is off.
    """

    socket: str = ""
    listen: str = ""


@frozen(kw_only=True)
class Log:
    """structlog to standard error.

    Attributes:
        level: The least that is written.
        format: `console` for people, `json` for machines; `auto` looks who reads.
        access_sample: Of how many answered requests one is logged; refusals are sampled too,
            at most one a second for each cause. 0 is off.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access_sample: int = field(default=1000, validator=ge(0))


@frozen(kw_only=True)
class Drain:
    """The orderly stop.

    Attributes:
        grace_s: How long it may take before what is left is expired and cancelled.
    """

    grace_s: float = field(default=10.0, validator=NOT_NEGATIVE)


@frozen(kw_only=True)
class Recording:
    """The ring in memory that an incident writes to a file.

    Attributes:
        directory: Where to; empty: there is no ring.
        seconds: How far back it reaches.
        bytes: What it may hold.
        images: With the bytes of images.
        misses: So many within a second are an incident, as the loss of a worker is; 0: never.
        pause_s: After an incident nothing is another for so long.
        total_bytes: Of all its files; the oldest make room.
    """

    directory: str = ""
    seconds: float = field(default=10.0, validator=and_(ge(0.1), le(3600)))
    bytes: int = field(default=32 * MIB, validator=and_(ge(MIB), le(64 * 1024 * MIB)))
    images: bool = False
    misses: int = field(default=20, validator=and_(ge(0), le(100_000)))
    pause_s: float = field(default=60.0, validator=POSITIVE)
    total_bytes: int = field(default=1024 * MIB, validator=ge(MIB))

    def __attrs_post_init__(self) -> None:
        """Refuse a ring that would not fit where it is written to."""
        if self.bytes > self.total_bytes:
            raise ValueError(
                f"bytes: found {self.bytes}; at most total_bytes, {self.total_bytes}, is allowed"
            )
