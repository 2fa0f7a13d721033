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
from appliance.sessions.binds import bind
from appliance.sessions.replies import Replies
from appliance.sessions.table import Session, SessionTable
from appliance.wire.session import BadObservation, decode_observation
from appliance.wire.types import Kind, Observation

SECOND_NS = 1_000_000_000
HEARTBEATS_MISSED = 3
FRAMES = 4
BURST = 64
SLICE_NS = 2_000_000
"""A burst ends after so many messages or so long: finished batches do not wait for a flood."""
FLUSH_MS = 1000
"""How long replies may take to leave when the door closes."""
NOBODY = Observation()

# Before Python 3.12, members are slow to find.
_OBSERVE, _OK, _SENT, _TOLD = Kind.OBSERVE, Outcome.OK, SendResult.SENT, Delivery.TOLD


@define(eq=False)
class ZmqDoor:
    """See the module's docstring.

    Args:
        replies: Writes reply envelopes.
        clock: Monotonic nanoseconds.
    """

    transport: Transport
    intake: Intake
    replies: Replies
    clock: Callable[[], int] = time.monotonic_ns
    table: SessionTable = field(init=False)
    _context: zmq.Context[zmq.Socket[bytes]] = field(factory=zmq.Context, init=False)
    _socket: ZmqSocket = field(init=False)
    _raw: zmq.Socket[bytes] = field(init=False)
    _monitor: ConnectionMonitor = field(init=False)
    _arrivals: fastpath.Arrivals | None = field(default=None, init=False)
    _answers: fastpath.Answers | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        timeout_ns = round(self.transport.disconnect_timeout_s * SECOND_NS)
        self.table = SessionTable(self.transport.max_sessions, timeout_ns)

    # ------------------------------------------------------------------------------ lifetime

    async def run(
        self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind, report the bound addresses, and serve until cancelled.

        Raises:
            ConfigError: An address cannot be bound.
        """
        try:
            task_status.started(self.open())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._monitor.run)
                nursery.start_soon(self._expire)
                await self._receive()
        finally:
            self.close()
            with trio.CancelScope(shield=True):  # bounded by the linger time
                await trio.to_thread.run_sync(self._context.term)

    def open(self) -> list[str]:
        """Bind; return the bound addresses.

        Raises:
            ConfigError: An address cannot be bound.
        """
        self._raw = self._router()
        self._socket = ZmqSocket(self._raw)
        self._monitor = ConnectionMonitor(self._raw)
        binds = [bind(self._raw, address) for address in self.transport.bind]
        if self.has_fast_path:
            self._open_fast_path()
        return binds

    def close(self) -> None:
        """Give the addresses up; replies that were sent still leave for a while."""
        self._arrivals = self._answers = None
        self._monitor.close()
        self._socket.close(linger_ms=FLUSH_MS)

    def _router(self) -> zmq.Socket[bytes]:
        raw = self._context.socket(zmq.ROUTER)
        heartbeat_ms = self.transport.heartbeat_interval_ms
        raw.set(zmq.LINGER, 0)
        raw.set(zmq.ROUTER_MANDATORY, 1)
        raw.set(zmq.RCVHWM, self.transport.receive_hwm)
        raw.set(zmq.SNDHWM, self.transport.send_hwm)
        raw.set(zmq.MAXMSGSIZE, 2 * self.transport.max_message_bytes)
        raw.set(zmq.HEARTBEAT_IVL, heartbeat_ms)
        raw.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEATS_MISSED * heartbeat_ms)
        raw.set(zmq.HEARTBEAT_TTL, HEARTBEATS_MISSED * heartbeat_ms)
        return raw

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
            for session in self.table.expire(self.clock()):
                self.intake.gone(session.routing_id)
            self.intake.dispatcher.turn()

    def connections(self) -> ConnectionCounts:
        """Return what the socket monitor counted."""
        return self._monitor.statistics()

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
            self._take(self._socket.receive_nowait(), now_ns)
            with suppress(zmq.Again):
                for _ in range(BURST - 1):
                    if self.clock() - now_ns > SLICE_NS:
                        break
                    self._take(self._socket.receive_nowait(), now_ns)
        self.intake.dispatcher.turn()

    def _take(self, parts: list[Part], now_ns: int) -> None:
        routing_id = bytes(parts[0])
        if len(parts) != FRAMES or parts[1]:
            rejected = Rejected(
                Outcome.INVALID,
                "expected frames [routing id, '', envelope, payload], came "
                + (f"{len(parts)}" if len(parts) <= FRAMES else "more"),
            )
            self._refuse(routing_id, NOBODY, rejected, now_ns)
            return
        envelope, payload = bytes(parts[2]), memoryview(parts[3])
        witness = self.intake.endings.witness
        if witness is not None:
            witness.arrived(routing_id, envelope, parts[3], now_ns)
        try:
            observation = decode_observation(envelope, len(payload))
        except BadObservation as bad:
            self._refuse(routing_id, bad.header or NOBODY, bad, now_ns)
            return
        session = self.table.seen(routing_id, observation, now_ns)
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

    def _refuse(
        self, routing_id: bytes, header: Observation, rejected: Rejected, now_ns: int
    ) -> None:
        session = self.table.seen(routing_id, header, now_ns)
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
        elif kind is Kind.DESCRIBE:
            self._send(session, [self.replies.description(observation), b""])
        else:
            self._send(session, [self.replies.heartbeat(observation), b""])

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
            session.ended(reply.outcome, late=reply.late)
            return _TOLD
        if sent is SendResult.FULL:
            delivery = Delivery.LOST
        elif sent is SendResult.GONE:
            self._left(session)
            delivery = Delivery.GONE
        else:
            delivery = Delivery.GONE if session.silent else Delivery.SILENT
        outcome = Outcome.CLIENT_GONE if delivery is Delivery.GONE else reply.outcome
        session.ended(outcome, late=reply.late)
        return delivery

    def _send(self, session: Session, frames: list[bytes]) -> None:
        """Answer a control message, if its client reads."""
        (sent,) = self._socket.send_some_nowait([[session.routing_id, b"", *frames]])
        if sent is SendResult.GONE:
            self._left(session)

    def _left(self, session: Session) -> None:
        if self.table.left(session):
            self.intake.gone(session.routing_id)


def _is_told(ticket: Ticket, reply: Reply) -> bool:
    return reply.outcome is _OK or ticket.observation.wants_status
