"""How numbers and names are written for people. No rich, no IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.metrics.status import Latency

NONE = "-"
"""Stands where there is no value."""


def plain(text: str) -> str:
    """Make text from outside safe to print: control and escape characters are spelt out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def milliseconds(us: float) -> str:
    """Write microseconds as milliseconds, to about three digits."""
    ms = us / 1000
    if ms < 1:
        return f"{ms:.2f}"
    return f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def latency(found: Latency) -> str:
    """Write p50/p99 in milliseconds."""
    if not found["count"]:
        return NONE
    return f"{milliseconds(found['p50'])}/{milliseconds(found['p99'])}"


def dryness(ms: float) -> str:
    """Say when a robot's actions end, or for how long it has had none."""
    return f"dry for {abs(ms):.0f} ms" if ms <= 0 else f"runs dry in {ms:.0f} ms"


def duration(seconds: float) -> str:
    """Write a time span in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: float) -> str:
    """Write bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def optional(value: float | None, digits: int = 1) -> str:
    """Write a number that may not be known."""
    return NONE if value is None else f"{value:.{digits}f}"
