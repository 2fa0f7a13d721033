"""Who is there: one session per connection, found by its routing id. Pure; time is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import define, field

from appliance.metrics.client_record import ClientRecord
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Observation

SECOND_NS = 1_000_000_000
NOWHERE = b""
"""A routing id that no connection has."""

LONGEST_US = 86_400_000_000
"""Actions for more than a day are as good as for a day."""


@define(eq=False)
class Session(ClientRecord):
    """One connection of a client.

    Attributes:
        routing_id: The ROUTER's name for it.
        client: Who it is: `Client.id`; for old clients their routing id.
        protocol: 0 for a client of the old wire.
        dry_ns: When its actions run out, by its own word and by the chunks that were sent to it;
            None if nothing is known of that.
        silent: It has been silent for longer than the disconnect time-out, or has left.
        observations: What came of it.
        key: The public key that its connection proved to hold; empty without keys.
        forms: Of its observations that may take the fast path (see `fastpath`).
        unused_forms: How often one was to be learnt since one was last of use.
        learns_ns: None is learnt before.
    """

    routing_id: bytes
    client: str
    client_type: str
    protocol: int
    first_seen_ns: int
    last_seen_ns: int
    last_observation_ns: int = 0
    dry_ns: int | None = None
    silent: bool = False
    observations: int = 0
    forms: list[Any] = field(factory=list[Any], repr=False)
    unused_forms: int = 0
    learns_ns: int = 0
    key: str = ""

    def introduced(self, observation: Observation) -> None:
        """Take in who it is from the first message that says so."""
        if not self.key:
            self.client = _client(self.routing_id, observation)
        self.client_type = observation.client_type
        self.protocol = observation.protocol_version
        self.forms.clear()  # they say otherwise

    def observed(self, observation: Observation, now_ns: int) -> None:
        """Take in the arrival of an observation: cadence, and when the robot runs dry."""
        self.observations += 1
        if self.last_observation_ns:
            self.paced(now_ns - self.last_observation_ns)
        self.last_observation_ns = now_ns
        steps, step_us = observation.steps_remaining, observation.step_period_us
        if steps is not None and step_us:
            self.dry_ns = _run_out_ns(observation, now_ns, steps * step_us)

    def supplied(self, observation: Observation, arrived_ns: int, spec: ModelSpec) -> None:
        """Take in that an answer was sent to it: if that is a chunk, it has actions for longer.

        `fastpath.answers` does the same.

        Args:
            observation: What was answered; its rows count from its capture.
            arrived_ns: When that came.
        """
        step_us = spec.step_period_us or observation.step_period_us
        if spec.horizon and step_us:
            dry_ns = _run_out_ns(observation, arrived_ns, spec.horizon * step_us)
            if self.dry_ns is None or dry_ns > self.dry_ns:
                self.dry_ns = dry_ns


@define(eq=False)
class SessionTable:
    """Sessions by routing id, least recently seen first.

    Args:
        max_sessions: Beyond it, the longest silent is forgotten.
        timeout_ns: Silence after which a client counts as gone.
    """

    max_sessions: int
    timeout_ns: int
    gone: int = field(default=0, init=False)
    by_routing_id: dict[bytes, Session] = field(factory=dict[bytes, Session], init=False)

    def __len__(self) -> int:
        return len(self.by_routing_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(self.by_routing_id.values())

    def find(self, routing_id: bytes) -> Session | None:
        """Return the session of a connection, if it has one."""
        return self.by_routing_id.get(routing_id)

    def seen(
        self,
        routing_id: bytes,
        observation: Observation,
        now_ns: int,
        *,
        key: str = "",
        owner: str | None = None,
    ) -> Session:
        """Return the session of a connection that just sent something; a new one if need be.

        `fastpath.arrivals` does the same for a session it knows.

        Args:
            key: What the connection proved to hold, the same as the session's.
            owner: Whose key that is, whatever the message says; None without keys.
        """
        session = self.by_routing_id.pop(routing_id, None)
        if session is None:
            session = Session(
                routing_id,
                _client(routing_id, observation) if owner is None else owner,
                observation.client_type,
                observation.protocol_version,
                now_ns,
                now_ns,
                key=key,
            )
        elif observation.protocol_version and not session.protocol:
            session.introduced(observation)  # its first message could not be read
        if session.silent:
            session.last_observation_ns = 0  # the silence is not part of its cadence
        session.last_seen_ns = now_ns
        session.silent = False
        self.by_routing_id[routing_id] = session
        return session

    def expire(self, now_ns: int) -> list[Session]:
        """Mark sessions that fell silent, forget those too many; return all of them."""
        fallen: list[Session] = []
        for session in self.by_routing_id.values():
            if now_ns - session.last_seen_ns <= self.timeout_ns:
                break  # they are in order of last_seen_ns
            if self.mark_silent(session):
                fallen.append(session)
        while len(self.by_routing_id) > self.max_sessions:
            oldest = self.by_routing_id.pop(next(iter(self.by_routing_id)))
            if self.mark_silent(oldest):
                fallen.append(oldest)
        return fallen

    def mark_silent(self, session: Session) -> bool:
        """Note that a session is silent or its connection gone; return whether that is news."""
        news = not session.silent
        session.silent = True
        session.forms.clear()  # they refer to it
        self.gone += news
        return news

    def forget(self, session: Session) -> None:
        """Forget a session whose routing id has become another's.

        What is under way for it has no address from now on: it is nobody's.
        """
        self.by_routing_id.pop(session.routing_id, None)
        self.mark_silent(session)
        session.routing_id = NOWHERE

    def connected(self) -> int:
        """Return how many sessions are not silent."""
        return sum(not session.silent for session in self.by_routing_id.values())


def _run_out_ns(observation: Observation, arrived_ns: int, actions_us: int) -> int:
    """Return when a robot runs out that has actions for so long, counted from the capture."""
    uplink_ns = (observation.round_trip_us or 0) * 500  # half of the way there and back
    return arrived_ns - uplink_ns + (min(actions_us, LONGEST_US) - observation.age_us) * 1000


def _client(routing_id: bytes, observation: Observation) -> str:
    """Say who a connection is: by its word, or, on the old wire, by its routing id."""
    if observation.protocol_version and observation.client_id:
        return observation.client_id
    return routing_id.decode("utf-8", "backslashreplace")
