"""What grew lately: misses of each session over the last seconds. Pure; time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from appliance.metrics.status import Client

WINDOW_S = 10
WINDOW_NS = WINDOW_S * 1_000_000_000
MOST_SAMPLES = 100
"""Of one session; more often than ten times a second nobody need look."""

_Samples = deque[tuple[int, int]]


@define(eq=False)
class Trend:
    """Misses of each session as they were seen in the last `WINDOW_S` seconds.

    Bounded by the sessions of the last document: those that are not in it are forgotten.
    """

    _seen: dict[str, _Samples] = field(factory=dict[str, _Samples], init=False)

    def take(self, clients: Iterable[Client], now_ns: int) -> None:
        """Take in a document."""
        seen: dict[str, _Samples] = {}
        for client in clients:
            session, misses = client["session"], client["misses"]
            samples = self._seen.get(session)
            if samples is None or samples[-1][1] > misses:  # new, or it began anew
                samples = _Samples(maxlen=MOST_SAMPLES)
            while len(samples) > 1 and now_ns - samples[1][0] >= WINDOW_NS:
                samples.popleft()
            samples.append((now_ns, misses))
            seen[session] = samples
        self._seen = seen

    def risen(self, session: str) -> int:
        """Return how many misses came within the window; 0 where nothing is known."""
        samples = self._seen.get(session)
        return samples[-1][1] - samples[0][1] if samples else 0

    def clear(self) -> None:
        """Forget everything: another instance counts from zero."""
        self._seen.clear()
