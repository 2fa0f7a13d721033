"""How many calls are under way, by client, so that there is room for everybody. Pure.

Counted are those that last: that infer, watch, or ask the reflection service. gRPC itself takes
`RESERVED` more, so that who asks whether all is well is answered however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from attrs import define, field

from appliance.errors import Outcome, Rejected

RESERVED = 64


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

    def begin(self, client: str) -> None:
        """Take in a call of a client.

        Raises:
            Rejected: RATE_LIMITED: there are too many.
        """
        if self._count >= self.most:
            raise Rejected(
                Outcome.RATE_LIMITED, f"there are {self.most} calls under way, as many as may be"
            )
        each = max(1, self.most // 2)
        if self._calls[client] >= each:
            raise Rejected(
                Outcome.RATE_LIMITED,
                f"client {client!r} has {each} calls under way, as many as one may have",
            )
        self._calls[client] += 1
        self._count += 1

    def end(self, client: str) -> None:
        """Take in that a call has ended."""
        self._count -= 1
        self._calls[client] -= 1
        if not self._calls[client]:
            del self._calls[client]

    @contextmanager
    def stream(self, client: str) -> Generator[None, None, None]:
        """Count a stream of a client for as long as it lasts.

        Raises:
            Rejected: As `begin`.
        """
        together = max(1, self.most * 3 // 4)
        if self._streams >= together:
            raise Rejected(
                Outcome.RATE_LIMITED, f"there are {together} streams open, as many as may be"
            )
        self.begin(client)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1
            self.end(client)
