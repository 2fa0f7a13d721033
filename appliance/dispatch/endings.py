"""Where every request ends, exactly once: its client told, its outcome counted, logged, freed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from attrs import define, field

from appliance.dispatch.access_log import AccessLog
from appliance.dispatch.memory import Memory
from appliance.dispatch.results import BatchResult
from appliance.dispatch.ticket import Delivery, Door, Ended, Reply, Ticket
from appliance.dispatch.timeline import Timeline
from appliance.dispatch.witness import Witness
from appliance.errors import Outcome
from appliance.metrics.ledger import Ledger
from appliance.metrics.registry import Metrics
from appliance.scheduling.events import Answer

_TOLD = Delivery.TOLD  # members are slow to find before Python 3.12
_OK = Outcome.OK


@define(eq=False)
class Endings:
    """See the module's docstring.

    Attributes:
        timeline: The last seconds, for who asks; the dispatcher tells it of batches.
        witness: Who looks on, if anybody does; for the doors and the dispatcher, too.
    """

    ledger: Ledger
    metrics: Metrics
    memory: Memory
    log: AccessLog = field(factory=lambda: AccessLog(0))
    timeline: Timeline = field(factory=Timeline, init=False)
    witness: Witness | None = field(default=None, init=False)

    def end(self, ended: Sequence[Ended], now_ns: int) -> list[Outcome]:
        """End requests; return the outcomes that were counted, in order.

        An answer whose client has left counts as CLIENT_GONE; one whose client does not read
        keeps its outcome, and the loss is counted beside it.
        """
        outcomes: list[Outcome] = []
        for door, group in groupby(ended, _door):
            replies = list(group)
            for (ticket, reply), delivery in zip(replies, door.deliver(replies), strict=True):
                outcomes.append(self._end(ticket, reply, delivery, now_ns))
        return outcomes

    def answered(
        self, answers: Sequence[Answer], result: BatchResult, late: int, now_ns: int
    ) -> None:
        """Note that rows of one batch were sent to their clients, `late` of them late."""
        if self.witness is not None:
            self.witness.answered(answers, result, self.memory.arena, now_ns)
        model = answers[0].request.payload.observation.model_id
        self.ledger.answered(model, len(answers), late)
        for index in self.log.due(len(answers)):
            answer = answers[index]
            reply = Reply(outcome=answer.outcome, late=answer.late)
            self.log.write_answer(answer.request.payload, reply, now_ns)
        for answer in answers:
            self.memory.end(answer.request.payload)

    def _end(self, ticket: Ticket, reply: Reply, delivery: Delivery, now_ns: int) -> Outcome:
        outcome = reply.outcome
        if delivery is not _TOLD:
            if delivery is Delivery.LOST:
                self.ledger.reply_lost("slow_reader")
            elif delivery is Delivery.GONE:
                if outcome is _OK:
                    self.ledger.rows_wasted("client_gone", 1)
                outcome = Outcome.CLIENT_GONE
        model = ticket.observation.model_id
        self.ledger.ended(model, outcome, late=reply.late)
        if outcome is not _OK:
            served = model if model in self.ledger.models else ""
            self.timeline.ended(ticket, served, outcome, reply, now_ns)
        if self.witness is not None:
            self.witness.ended(ticket, reply, outcome, now_ns)
        self.log.record(ticket, outcome, reply, now_ns)
        self.memory.end(ticket)
        return outcome


def _door(ended: Ended) -> Door:
    return ended[0].door
