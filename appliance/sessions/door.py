"""The ROUTER: frames in, replies out. One receiver task; sending never waits, so needs none.

A message is `[routing id, "", envelope, payload]`. Whatever else comes is counted as INVALID and
nobody is told, for nobody could read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio
import zmq
from attrs import define, field

from appliance.config import Transport
from appliance.dispatch.intake import Intake
from appliance.dispatch.results import BatchResult
from appliance.dispatch.ticket import Delivery, Ended, Reply, Ticket
from appliance.errors import Outcome, Rejected
from appliance.io.zmq_monitor import ConnectionCounts, ConnectionMonitor
from appliance.io.zmq_socket import Part, SendResult, ZmqSocket
from appliance.scheduling.events import Answer, Batch
from appliance.sessions import fastpath
from appliance.sessions.binds import bind_all, new_router
from appliance.sessions.callers import Callers
from appliance.sessions.gate import Gate
from appliance.sessions.replies import Replies
from appliance.sessions.table import Session, SessionTable
from appliance.wire.session import BadObservation, decode_observation
from appliance.wire.types import Kind, Observation

SECOND_NS = 1_000_000_000
FRAMES = 4
BURST = 64
SLICE_NS = 2_000_000
"""A burst ends after so many messages or so long: finished batches do not wait for a flood."""
REFUSING_NS = 100_000_000
"""How long what still comes may keep the door from closing."""
FLUSH_MS = 1000
"""How long replies may take to leave when the door closes."""
NOBODY = Observation()
WITNESSED = frozenset({Kind.OBSERVE, Kind.CANCEL, Kind.END_EPISODE})
UNREADABLE_BYTES = 4096
"""As much of an envelope that nobody can read is kept in recordings."""

# Before Python 3.12, members are slow to find.
_OBSERVE, _OK, _SENT, _TOLD = Kind.OBSERVE, Outcome.OK, SendResult.SENT, Delivery.TOLD


@define(eq=False)
class ZmqDoor:
    """See the module's docstring.

    Args:
        replies: Writes reply envelopes.
        gate: Who may come by which key; None: no keys are asked for.
        clock: Monotonic nanoseconds.
    """

    transport: Transport
    intake: Intake
    replies: Replies
    gate: Gate | None = None
    clock: Callable[[], int] = time.monotonic_ns
    table: SessionTable = field(init=False)
    _callers: Callers = field(init=False)
    _context: zmq.Context[zmq.Socket[bytes]] = field(factory=zmq.Context, init=False)
    _socket: ZmqSocket = field(init=False)
    _raw: zmq.Socket[bytes] = field(init=False)
    _monitor: ConnectionMonitor | None = field(default=None, init=False)
    _arrivals: fastpath.Arrivals | None = field(default=None, init=False)
    _answers: fastpath.Answers | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        timeout_ns = round(self.transport.disconnect_timeout_s * SECOND_NS)
        self.table = SessionTable(self.transport.max_sessions, timeout_ns)
        self._callers = Callers(self.table, self.intake, self.gate)

    # ------------------------------------------------------------------------------ lifetime

    async def run(
        self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind, report the bound addresses, and serve until cancelled.

        Raises:
            ConfigError: An address cannot be bound.
        """
        try:
            binds = self.open()
            assert self._monitor is not None
            task_status.started(binds)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._monitor.run)
                nursery.start_soon(self._expire)
                if self.gate is not None:
                    nursery.start_soon(self.gate.run)
                await self._receive()
        except trio.Cancelled:
            self.refuse_rest()
            raise
        finally:
            self.close()
            with trio.CancelScope(shield=True):  # bounded by the linger time
                await trio.to_thread.run_sync(self._context.term)

    def open(self) -> list[str]:
        """Bind; return the bound addresses.

        Raises:
            ConfigError: An address cannot be bound.
        """
        self._raw = new_router(self._context, self.transport)
        self._socket = ZmqSocket(self._raw)
        self._monitor = ConnectionMonitor(self._raw)
        if self.gate is not None:
            self.gate.open(self._context)
            self.gate.on_change = self._callers.end_unauthenticated
        secrets = self.gate.secrets if self.gate is not None else {}
        binds = bind_all(self._raw, self.transport.bind, secrets)
        if self.has_fast_path:
            self._open_fast_path()
        return binds

    def refuse_rest(self) -> None:
        """Tell who has asked by now that the appliance drains."""
        until_ns = self.clock() + REFUSING_NS
        with suppress(zmq.Again):
            while self.intake.admission.draining and self.clock() < until_ns:
                self._take_burst()

    def close(self) -> None:
        """Give the addresses up; replies that were sent still leave for a while. Idempotent."""
        self._arrivals = self._answers = None
        if self._monitor is not None:
            self._monitor.close()
        if self.gate is not None:
            self.gate.close()
        self._socket.close(linger_ms=FLUSH_MS)

    @property
    def has_fast_path(self) -> bool:
        """Whether ordinary observations take it (see `fastpath`)."""
        return self.transport.fast_path and not fastpath.missing

    def _open_fast_path(self) -> None:
        intake = self.intake
        self._arrivals = fastpath.Arrivals(
            self._raw,
            take=self._take,
            sessions=self.table.by_routing_id,
            intake=intake,
            clock=self.clock,
            keyed=self.gate is not None,
        )
        self._answers = fastpath.Answers(
            self._raw, endings=intake.endings, instance=self.replies.instance
        )

    async def _receive(self) -> None:
        while True:
            await self._socket.when_readable(self._take_burst)

    async def _expire(self) -> None:
        """Once a second: sessions that fell silent are over."""
        while True:
            await trio.sleep(1)
            self._callers.end_silent(self.clock())

    def connections(self) -> ConnectionCounts:
        """Return what the socket monitor counted; before the door is open, nothing."""
        return ConnectionCounts() if self._monitor is None else self._monitor.statistics()

    def refused_connections(self) -> dict[str, int]:
        """Return how many connections did not come to be, by cause."""
        return self._callers.refused(self.connections())

    # ------------------------------------------------------------------------------------ in

    def _take_burst(self) -> None:
        """Take what is there, within bounds, and let the dispatcher have its turn.

        Raises:
            zmq.Again: Nothing is there.
        """
        now_ns = self.clock()
        if self._arrivals is not None:
            if not self._arrivals.take_some(BURST, now_ns + SLICE_NS):
                raise zmq.Again
        else:
            self._take_one(now_ns)
            with suppress(zmq.Again):
                for _ in range(BURST - 1):
                    if self.clock() - now_ns > SLICE_NS:
                        break
                    self._take_one(now_ns)
        self.intake.dispatcher.turn()

    def _take_one(self, now_ns: int) -> None:
        if self.gate is None:
            self._take(self._socket.receive_nowait(), now_ns)
        else:
            parts, key = self._socket.receive_from_nowait()
            self._take(parts, now_ns, key)

    def _take(self, parts: list[Part], now_ns: int, key: str = "") -> None:
        routing_id = bytes(parts[0])
        if len(parts) != FRAMES or parts[1]:
            rejected = Rejected(
                Outcome.INVALID,
                "expected frames [routing id, '', envelope, payload], came "
                + (f"{len(parts)}" if len(parts) <= FRAMES else "more"),
            )
            self._refuse(routing_id, NOBODY, rejected, now_ns, key)
            return
        envelope, payload = bytes(parts[2]), memoryview(parts[3])
        witness = self.intake.endings.witness
        try:
            observation = decode_observation(envelope, len(payload))
        except BadObservation as bad:
            if witness is not None:  # whatever it was, the payload is of no use
                witness.arrived(routing_id, envelope[:UNREADABLE_BYTES], b"", now_ns)
            self._refuse(routing_id, bad.header or NOBODY, bad, now_ns, key)
            return
        if self.gate is not None:
            try:
                self.gate.check(observation, key)
            except Rejected as rejected:
                self._turn_away(routing_id, observation, rejected, now_ns, key)
                return
        if witness is not None and observation.kind in WITNESSED:
            witness.arrived(routing_id, envelope, parts[3], now_ns)
        session = self._callers.seen(routing_id, observation, now_ns, key)
        if observation.kind is _OBSERVE:
            session.observed(observation, now_ns)
            request = self.intake.offer(
                observation,
                payload,
                door=self,
                route=session,
                session=routing_id,
                client=session.client,
                now_ns=now_ns,
            )
            if request is not None and self._arrivals is not None:
                ticket: Ticket = request.payload
                if observation.protocol_version and ticket.state_key is None:
                    ticket.prefix = self.replies.prefix(ticket)
                fastpath.learn(session, request, envelope, payload, intake=self.intake)
        else:
            self._control(session, observation)

    def _turn_away(
        self,
        routing_id: bytes,
        observation: Observation,
        rejected: Rejected,
        now_ns: int,
        key: str,
    ) -> None:
        """Tell who is not who the message says, or may not come any more."""
        if observation.kind is _OBSERVE:
            self._refuse(routing_id, observation, rejected, now_ns, key)
            return
        session = self._callers.seen(routing_id, observation, now_ns, key)
        if observation.kind in (Kind.HEARTBEAT, Kind.DESCRIBE):
            self._send(session, [self.replies.turned_away(observation, rejected), b""])

    def _refuse(
        self, routing_id: bytes, header: Observation, rejected: Rejected, now_ns: int, key: str
    ) -> None:
        session = self._callers.seen(routing_id, header, now_ns, key)
        session.observations += 1
        self.intake.refuse(
            header,
            rejected,
            door=self,
            route=session,
            session=routing_id,
            client=session.client,
            now_ns=now_ns,
        )

    def _control(self, session: Session, observation: Observation) -> None:
        kind, model = observation.kind, observation.model_id
        if kind is Kind.CANCEL:
            self.intake.withdraw(session.routing_id, model, observation.sequence or None)
        elif kind is Kind.END_EPISODE:
            self.intake.end_episode(session.routing_id, model, observation.episode)
            session.dry_ns = None  # what it had left it does not execute any more
        elif kind is Kind.DESCRIBE:
            self._send(session, [self.replies.description(observation), b""])
        else:
            draining = self.intake.admission.draining
            self._send(session, [self.replies.heartbeat(observation, draining=draining), b""])

    # ----------------------------------------------------------------------------------- out

    def answer_rows(
        self, answers: list[Answer], result: BatchResult, batch: Batch, now_ns: int
    ) -> list[Answer]:
        """Answer rows of one batch by the fast path; return those it leaves to `deliver`."""
        if self._answers is None:
            return answers
        try:
            return self._answers.send(answers, result, batch, now_ns)
        finally:
            self._socket.touched()

    def deliver(self, ended: Sequence[Ended]) -> list[Delivery]:
        """Send replies now or not at all; refusals only to clients that want to know."""
        messages = [
            [ticket.route.routing_id, b"", *self.replies.frames(ticket, reply)]
            for ticket, reply in ended
            if _is_told(ticket, reply)
        ]
        sent = iter(self._socket.send_some_nowait(messages))
        return [
            self._delivered(ticket, reply, next(sent) if _is_told(ticket, reply) else None)
            for ticket, reply in ended
        ]

    def _delivered(self, ticket: Ticket, reply: Reply, sent: SendResult | None) -> Delivery:
        """Note in its session how a request ended; `sent` is None if its client is not told."""
        session: Session = ticket.route
        if sent is _SENT:
            if reply.outcome is _OK and ticket.spec is not None:
                session.supplied(ticket.observation, ticket.received_ns, ticket.spec)
            session.ended(reply.outcome, late=reply.late, slack_us=reply.slack_us)
            return _TOLD
        if sent is SendResult.FULL:
            delivery = Delivery.LOST
        elif sent is SendResult.GONE:
            self._callers.end_disconnected(session)
            delivery = Delivery.GONE
        else:
            delivery = Delivery.GONE if session.silent else Delivery.SILENT
        outcome = Outcome.CLIENT_GONE if delivery is Delivery.GONE else reply.outcome
        session.ended(outcome, late=reply.late, slack_us=reply.slack_us)
        return delivery

    def _send(self, session: Session, frames: list[bytes]) -> None:
        """Answer a control message, if its client reads."""
        (sent,) = self._socket.send_some_nowait([[session.routing_id, b"", *frames]])
        if sent is SendResult.GONE:
            self._callers.end_disconnected(session)


def _is_told(ticket: Ticket, reply: Reply) -> bool:
    return reply.outcome is _OK or ticket.observation.wants_status
