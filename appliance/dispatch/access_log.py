"""The access log: a sample of answers, and of each kind of refusal at most one a second."""

from __future__ import annotations

import structlog
from attrs import define, field

from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import Outcome

SECOND_NS = 1_000_000_000
_OK = Outcome.OK  # members are slow to find before Python 3.12


@define(eq=False)
class AccessLog:
    """Writes one structured line for every `sample`-th answer; 0 writes nothing at all.

    A refusal's line says how many of its kind were not written since the last one.
    """

    sample: int
    _answers: int = field(default=0, init=False)
    _refusals: dict[Outcome, tuple[int, int]] = field(
        factory=dict[Outcome, "tuple[int, int]"], init=False
    )

    def record(self, ticket: Ticket, outcome: Outcome, reply: Reply, now_ns: int) -> None:
        """Write or skip the line of one ended request."""
        if self.sample == 0:
            return
        if outcome is _OK:
            if self.due(1):
                self.write_answer(ticket, reply, now_ns)
            return
        next_ns, skipped = self._refusals.get(outcome, (0, 0))
        if now_ns < next_ns:
            self._refusals[outcome] = (next_ns, skipped + 1)
        else:
            self._refusals[outcome] = (now_ns + SECOND_NS, 0)
            self._write(ticket, outcome, reply, now_ns, skipped=skipped)

    def due(self, answers: int) -> range:
        """Count answers; return which of them, by index, are to be written."""
        if self.sample == 0:
            return range(0)
        first = self.sample - 1 - self._answers % self.sample
        self._answers += answers
        return range(first, answers, self.sample)

    def write_answer(self, ticket: Ticket, reply: Reply, now_ns: int) -> None:
        """Write the line of an answer that is due."""
        self._write(ticket, _OK, reply, now_ns, skipped=self.sample - 1)

    def _write(
        self, ticket: Ticket, outcome: Outcome, reply: Reply, now_ns: int, *, skipped: int
    ) -> None:
        observation = ticket.observation
        structlog.get_logger("access").info(
            "request",
            client=ticket.client,
            model=observation.model_id,
            sequence=observation.sequence,
            trace_id=observation.trace_id or None,
            outcome=outcome.name,
            message=reply.message or None,
            late=reply.late,
            total_us=(now_ns - ticket.received_ns) // 1000,
            skipped=skipped,
        )
