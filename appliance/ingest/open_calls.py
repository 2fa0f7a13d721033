"""How many calls are under way, by client, so that there is room for everybody. Pure.

A call counts from its first header until its answer has left; whose message does not come, or whose
answer is not read, keeps its place until `PATIENCE_S` is over.
"""

from __future__ import annotations

from collections import Counter

from attrs import define, field

from appliance.errors import Outcome, Rejected

CHECKS = 32
"""Health checks that may be under way, beside all other calls; half as many from one address."""
REFUSALS = 32
"""Places for calls that are refused: that takes a moment, and one that has no place hears no
reason."""
PATIENCE_S = 60.0
"""How long a message may take to come, and an answer to leave."""


@define(eq=False)
class OpenCalls:
    """See the module's docstring.

    Args:
        most: Of all clients together. One client may have half of them, and all streams, which end
            when it pleases them, three quarters.
    """

    most: int
    _calls: Counter[str] = field(factory=Counter[str], init=False)
    _count: int = field(default=0, init=False)
    _streams: int = field(default=0, init=False)

    def begin(self, client: str, *, stream: bool = False) -> None:
        """Take in a call of a client.

        Raises:
            Rejected: RATE_LIMITED: there are too many.
        """
        together, each = max(1, self.most * 3 // 4), max(1, self.most // 2)
        if stream and self._streams >= together:
            text = f"there are {together} streams open, as many as may be"
        elif self._count >= self.most:
            text = f"there are {self.most} calls under way, as many as may be"
        elif self._calls[client] >= each:
            text = f"client {client!r} has {each} calls under way, as many as one may have"
        else:
            self._calls[client] += 1
            self._count += 1
            self._streams += stream
            return
        raise Rejected(Outcome.RATE_LIMITED, text)

    def end(self, client: str, *, stream: bool = False) -> None:
        """Take in that a call has ended."""
        self._count -= 1
        self._streams -= stream
        self._calls[client] -= 1
        if not self._calls[client]:
            del self._calls[client]
