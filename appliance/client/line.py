"""The messages of a connection that are not sent yet, in order. PURE.

Bounded: an observation is in it once, and of the other messages of a model one of each kind, and
one CANCEL for each observation that is outstanding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from attrs import define, evolve, field

from appliance.client.roundtrip import RoundTrip
from appliance.wire.session import encode_observation
from appliance.wire.types import PROTOCOL_VERSION, Kind, Observation

if TYPE_CHECKING:
    from appliance.client.channel import Asked, Channel

STAMP_AGAIN_NS = 1_000_000
"""An observation that waited here longer than this is sent with its age corrected."""

Key = Union[int, "tuple[Kind, str, int]"]
"""Of a message: an observation's sequence; of others what makes a second one needless."""


@define(eq=False)
class Outgoing:
    """A message at the head of the line, encoded."""

    key: Key
    envelope: bytes
    payload: bytes


@define(eq=False)
class Line:
    """See the module's docstring. Owned by the core."""

    client_id: str
    client_type: str
    nonce: int
    round_trip: RoundTrip
    _sequence: int = 0
    _messages: dict[Key, Asked | Observation] = field(factory=dict[Key, "Asked | Observation"])

    def __len__(self) -> int:
        return len(self._messages)

    def number(self) -> int:
        """Return the sequence of the next message."""
        self._sequence += 1
        return self._sequence

    def put(self, key: Key, message: Asked | Observation) -> None:
        """Put a message at the end, instead of one of the same key."""
        self._messages.pop(key, None)
        self._messages[key] = message

    def discard(self, key: Key) -> None:
        """Drop a message, if it is there."""
        self._messages.pop(key, None)

    def clear(self) -> None:
        """Drop all."""
        self._messages.clear()

    def message(
        self, kind: Kind, channel: Channel | None, *, sequence: int, model_version: str = ""
    ) -> tuple[Key, Observation]:
        """Return a message that is no observation, and its key."""
        model_id = "" if channel is None else channel.model_id
        return (kind, model_id, sequence if kind is Kind.CANCEL else 0), Observation(
            client_id=self.client_id,
            client_type=self.client_type,
            model_id=model_id,
            protocol_version=PROTOCOL_VERSION,
            kind=kind,
            session_nonce=self.nonce,
            sequence=sequence,
            episode=0 if channel is None else channel.episode,
            round_trip_us=self.round_trip.estimate_us,
            wants_status=True,
            model_version=model_version,
        )

    def say(
        self, kind: Kind, channel: Channel | None, *, sequence: int, model_version: str = ""
    ) -> None:
        """Put such a message at the end."""
        self.put(*self.message(kind, channel, sequence=sequence, model_version=model_version))

    def head(self, now_ns: int) -> Outgoing:
        """Encode the first message; it stays until it is taken."""
        key, head = next(iter(self._messages.items()))
        if isinstance(head, Observation):
            return Outgoing(key, encode_observation(head), b"")
        observation = head.observation
        waited_ns = now_ns - head.asked_ns
        if waited_ns >= STAMP_AGAIN_NS:
            observation = evolve(observation, age_us=observation.age_us + waited_ns // 1000)
        return Outgoing(key, encode_observation(observation), head.payload)

    def take(self, key: Key) -> Asked | Observation:
        """Take a message out: it is sent."""
        return self._messages.pop(key)
