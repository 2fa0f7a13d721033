"""Who is at the door: sessions and, where keys are asked for, whose they are."""

from __future__ import annotations

from attrs import define

from appliance.dispatch.intake import Intake
from appliance.errors import Rejected
from appliance.io.zmq_monitor import ConnectionCounts
from appliance.keys.keyring import Refusal
from appliance.sessions.gate import Gate
from appliance.sessions.table import Session, SessionTable
from appliance.wire.types import Observation


@define(eq=False)
class Callers:
    """The session table, and what has to be done when a session begins or is over.

    Args:
        gate: Who may come by which key; None: no keys are asked for.
    """

    table: SessionTable
    intake: Intake
    gate: Gate | None

    def seen(self, routing_id: bytes, header: Observation, now_ns: int, key: str) -> Session:
        """Return the session of a connection that just sent something; a new one if need be."""
        if self.gate is None:
            return self.table.seen(routing_id, header, now_ns)
        session = self.table.find(routing_id)
        if session is not None and session.key != key:
            # Another connection came under the routing id of one that left.
            self.table.forget(session)
            self.intake.gone(routing_id)
        owner = self.gate.owner(key)
        return self.table.seen(routing_id, header, now_ns, key=key, owner=owner)

    def end_silent(self, now_ns: int) -> None:
        """End what fell silent; the dispatcher has its turn."""
        for session in self.table.expire(now_ns):
            self.intake.gone(session.routing_id)
        self.intake.dispatcher.turn()

    def end_disconnected(self, session: Session) -> None:
        """End a session whose connection is gone."""
        if self.table.mark_silent(session):
            self.intake.gone(session.routing_id)

    def end_unauthenticated(self) -> None:
        """End the sessions whose keys may not come any more, or are another client's by now.

        What waits ends, and its client is told; what a worker runs already is answered. ZeroMQ
        cannot end the connection, but what comes by it from now on is refused, or is that of the
        client whose key it is now.
        """
        gate = self.gate
        assert gate is not None
        for session in list(self.table):
            if not session.key:
                continue
            try:
                gate.keyring.check(session.key, session.client)
            except Rejected as rejected:
                self.table.mark_silent(session)
                self.intake.expel(session.routing_id, rejected)
                session.client = gate.keyring.client_of(session.key) or session.client
        self.intake.dispatcher.turn()

    def refused(self, counts: ConnectionCounts) -> dict[str, int]:
        """Return how many connections did not come to be, by cause.

        Args:
            counts: What the socket's monitor counted.
        """
        gate = self.gate
        refused = {} if gate is None else dict(gate.refused)
        mismatch = Refusal.UNEXPECTED_KEY if gate is None else Refusal.NO_KEY
        mismatched, undeciphered = counts.handshakes_mismatched, counts.handshakes_undeciphered
        broken_off = counts.handshakes_failed - mismatched - undeciphered
        for why, number in (
            (mismatch, mismatched),
            (Refusal.WRONG_SERVER_KEY, undeciphered),
            (Refusal.BROKEN_OFF, 0 if gate is None else broken_off),
        ):
            if number:
                refused[why.value] = refused.get(why.value, 0) + number
        return refused
