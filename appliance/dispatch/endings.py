"""Where every request ends, exactly once: its client told, its outcome counted, logged, freed."""

from __future__ import annotations

from attrs import define, field

from appliance.dispatch.access_log import AccessLog
from appliance.dispatch.memory import Memory
from appliance.dispatch.ticket import Delivery, Reply, Ticket
from appliance.errors import Outcome
from appliance.metrics.ledger import Ledger
from appliance.metrics.registry import Metrics


@define(eq=False)
class Endings:
    """See the module's docstring."""

    ledger: Ledger
    metrics: Metrics
    memory: Memory
    log: AccessLog = field(factory=lambda: AccessLog(0))

    def end(self, ticket: Ticket, reply: Reply, now_ns: int) -> Outcome:
        """End a request; return the outcome that was counted.

        An answer whose client has left counts as CLIENT_GONE; one whose client does not read
        keeps its outcome, and the loss is counted beside it.
        """
        outcome = reply.outcome
        delivery = ticket.door.deliver(ticket, reply)
        if delivery is Delivery.GONE:
            outcome = Outcome.CLIENT_GONE
        elif delivery is Delivery.LOST:
            self.ledger.reply_lost("slow_reader")
        model = ticket.observation.model_id
        self.ledger.ended(model, outcome, late=reply.late)
        if reply.outcome is Outcome.OK and outcome is not Outcome.OK:
            self.ledger.row_wasted(outcome.name.lower())
        self.log.record(ticket, outcome, reply, now_ns)
        self.memory.end(ticket)
        return outcome
