"""How fast a counter grows, over a sliding window."""

from __future__ import annotations

from collections import deque

from attrs import define, field

WINDOW_NS = 10_000_000_000
_STEP_NS = 1_000_000_000


@define(eq=False)
class RateMeter:
    """Keeps a sample a second, so at most eleven; asked less often, it looks back further."""

    started_ns: int
    _samples: deque[tuple[int, int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._samples = deque([(self.started_ns, 0)])

    def read(self, now_ns: int, total: int) -> float:
        """Return how much `total` grew per second since the oldest sample in the window."""
        samples = self._samples
        while len(samples) > 1 and now_ns - samples[0][0] > WINDOW_NS:
            samples.popleft()
        then_ns, then = samples[0]
        if now_ns - samples[-1][0] >= _STEP_NS:
            samples.append((now_ns, total))
        elapsed_ns = now_ns - then_ns
        return (total - then) * 1e9 / elapsed_ns if elapsed_ns > 0 else 0.0
