"""Asks an appliance that is not in use whether it is there. One per appliance; never waits."""

from __future__ import annotations

import os

import zmq

from appliance.client.curve import use_keys
from appliance.errors import Outcome, PeerProtocolError
from appliance.keys.files import ClientKeys
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import PROTOCOL_VERSION, Kind, Observation

_NOBLOCK = int(zmq.NOBLOCK)


class Probe:
    """A DEALER of its own, and one heartbeat under way."""

    def __init__(
        self,
        address: str,
        context: zmq.Context[zmq.Socket[bytes]],
        client_id: str,
        keys: ClientKeys | None,
    ) -> None:
        """Begin to connect."""
        self.address = address
        self._client_id = client_id
        self._sequence = 0
        self._asked_ns: int | None = None
        self._socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.ROUTING_ID, os.urandom(16).hex().encode()),
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 1),
            (zmq.IMMEDIATE, 1),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
        ):
            self._socket.setsockopt(option, value)
        use_keys(self._socket, keys)
        self._socket.connect(address)

    def look(self, now_ns: int, heartbeat_ns: int) -> bool | None:
        """Return, once in a heartbeat, whether the last one was answered; None between."""
        if self._asked_ns is None:
            self._ask(now_ns)
            return None
        if now_ns - self._asked_ns < heartbeat_ns:
            return None
        alive = self._answered()
        self._ask(now_ns)
        return alive

    def _ask(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        self._sequence += 1
        beat = Observation(
            kind=Kind.HEARTBEAT,
            protocol_version=PROTOCOL_VERSION,
            client_id=self._client_id,
            sequence=self._sequence,
            wants_status=True,
        )
        try:
            self._socket.send_multipart((b"", encode_observation(beat), b""), _NOBLOCK)
        except zmq.Again:
            return

    def _answered(self) -> bool:
        alive = False
        try:
            while True:
                _, envelope, payload = self._socket.recv_multipart(_NOBLOCK)
                response = decode_response(envelope, len(payload))
                alive = response.outcome is Outcome.OK and response.sequence == self._sequence
        except (zmq.Again, PeerProtocolError, ValueError):
            return alive

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)
