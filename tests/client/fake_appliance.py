"""A ROUTER that speaks the session wire and answers only as the test tells it to.

Test and appliance share one thread: each step is told, so nothing depends on timing.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import zmq
from attrs import define

from appliance.errors import Outcome
from appliance.wire.arrays import pack
from appliance.wire.session import decode_observation, encode_response
from appliance.wire.types import PROTOCOL_VERSION, Kind, Observation, Response

PATIENCE_MS = 10_000


@define(eq=False)
class Received:
    """One message of a client."""

    identity: bytes
    observation: Observation
    payload: bytes


@define(eq=False)
class FakeAppliance:
    """The test's side of the wire."""

    address: str
    _context: zmq.Context[Any] | None = None
    _socket: zmq.Socket[Any] | None = None

    def start(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(self.address)

    def stop(self, *, linger_ms: int = 0) -> None:
        """Go, and return when the address is free."""
        if self._socket is not None:
            self._socket.close(linger=linger_ms)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    @property
    def socket(self) -> zmq.Socket[Any]:
        assert self._socket is not None
        return self._socket

    def has_message(self) -> bool:
        return bool(self.socket.poll(0))

    async def arrival(self, *, heartbeat: bool = False) -> Received:
        """Wait for a message while the event loop runs, and receive it."""
        while not self.has_message():  # noqa: ASYNC110 - the other end is no part of the loop
            await asyncio.sleep(0.001)
        return self.receive(heartbeat=heartbeat)

    def receive(self, *, heartbeat: bool = False) -> Received:
        """Return the next message; heartbeats, which come when a test is slow, only if asked."""
        while self.socket.poll(PATIENCE_MS):
            identity, empty, envelope, payload = self.socket.recv_multipart()
            assert empty == b""
            observation = decode_observation(envelope, len(payload))
            if (observation.kind is Kind.HEARTBEAT) == heartbeat:
                return Received(identity, observation, payload)
        raise AssertionError("the client sent nothing")

    def reply(
        self,
        to: Received,
        outcome: Outcome = Outcome.OK,
        *,
        tensors: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        headers, parts = pack(tensors or {})
        response = Response(
            client_id=to.observation.client_id,
            model_id=to.observation.model_id,
            response_id=f"r{to.observation.sequence}",
            tensors=headers,
            protocol_version=PROTOCOL_VERSION,
            sequence=to.observation.sequence,
            episode=to.observation.episode,
            kind=to.observation.kind,
            outcome=outcome,
            **fields,
        )
        self.send(to, b"", encode_response(response), b"".join(parts))

    def reply_from_a_thread(self, outcome: Outcome = Outcome.OK, **fields: Any) -> threading.Thread:
        """Answer the next message while the test waits for the answer; join the thread."""
        thread = threading.Thread(target=lambda: self.reply(self.receive(), outcome, **fields))
        thread.start()
        return thread

    def reply_from_a_thread_to_heartbeat(
        self, outcome: Outcome = Outcome.OK, **fields: Any
    ) -> threading.Thread:
        """Answer the next heartbeat while the test waits for it; join the thread."""
        thread = threading.Thread(
            target=lambda: self.reply(self.receive(heartbeat=True), outcome, **fields)
        )
        thread.start()
        return thread

    def send(self, to: Received, *frames: bytes) -> None:
        self.socket.send_multipart([to.identity, *frames])

    def close(self) -> None:
        self.stop()
