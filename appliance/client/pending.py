"""What of one model waits for an image to be compressed. PURE.

Observations leave in the order they were asked in, so what comes after one that is not compressed
yet waits behind it: under `keep` all the observations, always the end of an episode. One is in the
encoder's hands at a time; those behind it can still be replaced or taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from appliance.client.images import Job
from appliance.client.line import Key
from appliance.wire.spec import InputSpec
from appliance.wire.types import Observation

if TYPE_CHECKING:
    from appliance.client.channel import Asked


@define(eq=False)
class Pending:
    """The line of what is not to be sent yet. Its first is always an observation with a job.

    Attributes:
        encoding: Sequence of what the encoder has in hand, also if nobody wants it any more; 0 is
            nothing.
    """

    encoding: int = 0
    _line: dict[Key, Asked | Observation] = field(factory=dict[Key, "Asked | Observation"])

    def __bool__(self) -> bool:
        return bool(self._line)

    def add(self, key: Key, message: Asked | Observation) -> None:
        """Put a message at the end; one of the same key is dropped."""
        self._line.pop(key, None)
        self._line[key] = message

    def discard(self, key: Key) -> bool:
        """Drop a message; return whether it was there."""
        return self._line.pop(key, None) is not None

    def released(self) -> Iterator[tuple[Key, Asked | Observation]]:
        """Take out, in order, what waits for no image any more."""
        while self._line:
            key, first = next(iter(self._line.items()))
            if not isinstance(first, Observation) and first.job is not None:
                return
            del self._line[key]
            yield key, first

    def next_job(self, inputs: Mapping[str, InputSpec]) -> Job | None:
        """Return what the encoder is to do now; None if there is nothing, or it has one.

        Args:
            inputs: What the model takes.
        """
        if self.encoding or not self._line:
            return None
        first = next(iter(self._line.values()))
        if isinstance(first, Observation) or first.job is None:
            return None
        self.encoding = first.job.sequence
        return evolve(first.job, inputs=inputs)
