"""What both doors do with an observation: admit it, copy it into the arena, post it."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from itertools import count
from typing import Any

from attrs import define, field

from appliance.admission.admission import Admission, Admitted
from appliance.config import ClientPolicy
from appliance.dispatch.dispatcher import Dispatcher
from appliance.dispatch.endings import Endings
from appliance.dispatch.memory import Memory
from appliance.dispatch.ticket import Door, Reply, Ticket
from appliance.errors import Rejected
from appliance.scheduling.events import Arrived, Lane, ModelRef, Request, Withdrawn
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Observation


@define(eq=False)
class Intake:
    """See the module's docstring."""

    admission: Admission
    memory: Memory
    endings: Endings
    dispatcher: Dispatcher
    numbers: count[int] = field(factory=lambda: count(1), init=False)

    def offer(
        self,
        observation: Observation,
        payload: memoryview,
        *,
        door: Door,
        route: Any,
        session: Hashable,
        client: str,
        now_ns: int,
    ) -> Request | None:
        """Take an observation in, or end it with a refusal. Either way it is counted.

        `sessions.fastpath.arrivals` does the same for an observation of a form that passed.

        Args:
            payload: Read before this returns, not after.
            now_ns: When it was received.

        Returns:
            What was posted; None: it was refused.
        """
        ticket = Ticket(
            door=door,
            route=route,
            session=session,
            client=client,
            observation=observation,
            received_ns=now_ns,
        )
        self.endings.ledger.asked(observation.model_id)
        try:
            admitted = self.admission.admit(observation, payload, client, now_ns)
            ticket.spec = admitted.spec
            self.memory.store(ticket, admitted.feeds, admitted.policy.arena_bytes)
        except Rejected as rejected:
            self.end(ticket, rejected, now_ns)
            return None
        self.endings.metrics.recorder(observation.model_id).record_payload(len(payload))
        request = self._request(ticket, admitted, now_ns)
        self.dispatcher.post(Arrived(request))
        return request

    def still_admits(
        self, spec: ModelSpec, policy: ClientPolicy, client: str
    ) -> tuple[int, bool, int] | None:
        """Return what another observation like one that was admitted with these may count on.

        Returns:
            The planned time of one row, nanoseconds; whether a rate limit applies; the shortest
            period that it leaves, nanoseconds. None: it would not be admitted in the same way.
        """
        admission = self.admission
        if not admission.still_admits(spec, policy, client):
            return None
        planned_ns = admission.planned_ns(spec.model_id, spec.version)
        limited = admission.is_limited(spec, policy)
        return planned_ns, limited, admission.shortest_period_ns(policy)

    def refuse(
        self,
        observation: Observation,
        rejected: Rejected,
        *,
        door: Door,
        route: Any,
        session: Hashable,
        client: str,
        now_ns: int,
    ) -> None:
        """Count and end what the door itself could not accept."""
        self.endings.ledger.asked(observation.model_id)
        ticket = Ticket(
            door=door,
            route=route,
            session=session,
            client=client,
            observation=observation,
            received_ns=now_ns,
        )
        self.end(ticket, rejected, now_ns)

    def end(self, ticket: Ticket, rejected: Rejected, now_ns: int) -> None:
        """End a request with a refusal."""
        reply = Reply(
            outcome=rejected.outcome,
            message=rejected.message,
            retry_after_ns=rejected.retry_after_ns,
        )
        self.endings.end([(ticket, reply)], now_ns)

    def withdraw(self, session: Hashable, model: str | None, tag: int | None) -> None:
        """Take back what a session has waiting."""
        self.dispatcher.post(Withdrawn(session, model or None, tag))

    def end_episode(self, session: Hashable, model: str, episode: int) -> None:
        """Forget the state of an episode."""
        self.memory.states.forget_episode((session, model, episode))

    def gone(self, session: Hashable) -> None:
        """A session is over: withdraw what waits, forget its state."""
        self.dispatcher.post(Withdrawn(session, gone=True))
        self.memory.states.forget_session(session)

    def expel(self, session: Hashable, rejected: Rejected) -> None:
        """As `gone`, but its client is there still, and told why it is not served any more."""
        self.dispatcher.post(
            Withdrawn(session, gone=True, outcome=rejected.outcome, message=rejected.message)
        )
        self.memory.states.forget_session(session)

    def _request(self, ticket: Ticket, admitted: Admitted, now_ns: int) -> Request:
        spec = admitted.spec
        if spec.recurrent:
            ticket.state_key = (ticket.session, spec.model_id, ticket.observation.episode)
        deadline = admitted.deadline
        return Request(
            id=next(self.numbers),
            session=ticket.session,
            client=ticket.client,
            lane=_lane(spec.model_id, spec.version, admitted.shapes),
            arrived_ns=now_ns,
            deadline_ns=deadline.deadline_ns,
            expires_ns=admitted.expires_ns,
            period_ns=admitted.period_ns,
            keep_latest=admitted.keep_latest,
            firm=deadline.firm,
            dry=deadline.dry,
            runs_out=deadline.runs_out,
            tier=admitted.policy.tier,
            priority=admitted.priority,
            order_key=ticket.state_key,
            queue_limit=admitted.policy.max_queue,
            tag=ticket.observation.sequence,
            payload=ticket,
        )


@lru_cache(maxsize=1024)
def _lane(model: str, version: str, shapes: tuple[tuple[int, ...], ...]) -> Lane:
    return Lane(ModelRef(model, version), shapes)
