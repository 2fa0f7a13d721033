"""Who may look on: what a recording is told of each request, batch and worker.

It is told in the middle of the hot path, so it takes down and returns: it does not raise, block or
change what it is shown. Nobody looks on most of the time, and that costs a comparison with None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from appliance.dispatch.results import BatchResult
from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import Outcome
from appliance.scheduling.events import Answer, Batch
from appliance.workers.arena import Arena
from appliance.workers.events import PoolEvent


class Witness(Protocol):
    """See the module's docstring. Times are monotonic nanoseconds."""

    def arrived(
        self, session: bytes, envelope: bytes, payload: bytes | memoryview, now_ns: int
    ) -> None:
        """A client that may do so asks, cancels or ends an episode, or sends what nobody can read.

        Nobody changes `payload` any more, and it may be kept.
        """
        ...

    def ended(self, ticket: Ticket, reply: Reply, outcome: Outcome, now_ns: int) -> None:
        """A request has ended; the parts of the reply are still valid, and only now."""
        ...

    def answered(
        self, answers: Sequence[Answer], result: BatchResult, arena: Arena, now_ns: int
    ) -> None:
        """Rows of one batch were answered by the fast path; their outputs are still there."""
        ...

    def staged(self, batch: Batch, now_ns: int) -> None:
        """A batch was sent to its worker."""
        ...

    def revoked(self, batch: Batch, now_ns: int) -> None:
        """A batch was taken back."""
        ...

    def reported(self, event: PoolEvent, result: BatchResult | None, now_ns: int) -> None:
        """The worker pool has reported something; `result` is what a finished batch came to."""
        ...
