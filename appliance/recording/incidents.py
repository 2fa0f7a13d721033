"""When the ring is written, and what makes room for it in its directory. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from attrs import define, field

WINDOW_NS = 1_000_000_000
PREFIX, SUFFIX = "incident-", ".mcap"
DIRECTORY_MODE = 0o750


class Kept(NamedTuple):
    """A file that an earlier incident left."""

    name: str
    bytes: int
    modified_ns: int


@define(eq=False)
class IncidentPolicy:
    """Says which events are incidents: a worker lost; so many misses within a second.

    After one, nothing is another for `pause_ns`: what hurts once often goes on hurting.

    Args:
        misses: How many make an incident; 0: they never do.
    """

    misses: int
    pause_ns: int
    _missed: deque[int] = field(init=False)
    _quiet_until_ns: int | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._missed = deque(maxlen=max(1, self.misses))

    def missed(self, now_ns: int) -> bool:
        """Note a miss; return whether it makes an incident."""
        if not self.misses:
            return False
        self._missed.append(now_ns)
        is_burst = len(self._missed) == self.misses and now_ns - self._missed[0] <= WINDOW_NS
        return is_burst and self._begin(now_ns)

    def lost(self, now_ns: int) -> bool:
        """Note that a worker was lost; return whether it makes an incident."""
        return self._begin(now_ns)

    def _begin(self, now_ns: int) -> bool:
        if self._quiet_until_ns is not None and now_ns < self._quiet_until_ns:
            return False
        self._quiet_until_ns = now_ns + self.pause_ns
        self._missed.clear()
        return True


def to_delete(kept: Iterable[Kept], most_bytes: int, needed: int) -> list[str]:
    """Return which files have to go, oldest first, so that `needed` more bytes fit."""
    files = sorted(kept, key=lambda file: (file.modified_ns, file.name))
    total = sum(file.bytes for file in files) + needed
    names: list[str] = []
    for file in files:
        if total <= most_bytes:
            break
        names.append(file.name)
        total -= file.bytes
    return names


def is_incident(name: str) -> bool:
    """Return whether a file is one of ours, finished or not."""
    return name.startswith(PREFIX) and name.endswith((SUFFIX, f"{SUFFIX}.partial"))
