"""Replies on the session wire: an envelope, and a payload frame that is always there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import define, evolve, field

from appliance.admission.catalog import Catalog
from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import Outcome, Rejected
from appliance.wire.answers import encode_headers, encode_own, encode_shared
from appliance.wire.legacy import for_old_client
from appliance.wire.session import encode_response
from appliance.wire.types import (
    PROTOCOL_VERSION,
    Buffer,
    Kind,
    Observation,
    Response,
    Tensor,
)

REMEMBERED = 4096
"""Clients' models for which the bytes that all their answers share are kept."""

_OK = Outcome.OK  # members are slow to find before Python 3.12
_About = tuple[str, str, str, str, str]


@define(eq=False)
class Replies:
    """Writes what the door sends.

    Args:
        appliance_id: The configured name of this box.
        instance: One number per process start.
    """

    catalog: Catalog
    appliance_id: str
    instance: int
    _count: int = field(default=0, init=False)
    _prefix: str = field(init=False)
    _shared: dict[_About, bytes] = field(factory=dict["_About", bytes], init=False)
    _headers: tuple[tuple[Tensor, ...], bytes] = field(default=((), b""), init=False)

    def __attrs_post_init__(self) -> None:
        self._prefix = f"{self.instance:016x}-"

    def frames(self, ticket: Ticket, reply: Reply) -> list[bytes]:
        """Return envelope and payload of a reply; the outputs are copied, once."""
        self._count += 1
        response_id = self._prefix + str(self._count)
        observation = ticket.observation
        if reply.outcome is _OK and observation.protocol_version and ticket.spec:
            return [self._answer(ticket, reply, response_id), b"".join(reply.parts)]
        response = evolve(
            self._response(ticket, reply),
            tensors=reply.tensors,
            response_id=response_id,
            timestamp_ns=time.time_ns(),
            inference_latency_ms=reply.timing.execute_us / 1000,
            sequence=observation.sequence,
            episode=observation.episode,
            timing=reply.timing,
            late=reply.late,
            phase_advice_us=reply.advice_us,
        )
        parts: Sequence[Buffer] = reply.parts
        extended = observation.protocol_version > 0
        if not extended:
            response, parts = for_old_client(response, parts)
        return [encode_response(response, extended=extended), b"".join(parts)]

    def _answer(self, ticket: Ticket, reply: Reply, response_id: str) -> bytes:
        """Return the envelope of an answer: mostly bytes that were written before."""
        observation = ticket.observation
        if self._headers[0] is not reply.tensors:  # they come batch by batch
            self._headers = (reply.tensors, encode_headers(reply.tensors))
        own = encode_own(
            response_id=response_id,
            timestamp_ns=time.time_ns(),
            inference_latency_ms=reply.timing.execute_us / 1000,
            sequence=observation.sequence,
            episode=observation.episode,
            late=reply.late,
            timing=reply.timing,
            phase_advice_us=reply.advice_us,
        )
        return self.prefix(ticket) + self._headers[1] + own

    def prefix(self, ticket: Ticket) -> bytes:
        """Return what the envelopes of all answers to a client about a model begin with."""
        observation = ticket.observation
        assert ticket.spec is not None
        about = (
            ticket.client,
            observation.client_type,
            observation.model_id,
            ticket.spec.version,
            ticket.spec.hash,
        )
        shared = self._shared.get(about)
        if shared is None:
            if len(self._shared) >= REMEMBERED:
                self._shared.clear()
            shared = encode_shared(self._response(ticket, Reply(outcome=_OK)))
            self._shared[about] = shared
        return shared

    def _response(self, ticket: Ticket, reply: Reply) -> Response:
        """Return what does not differ between the answers to a client about a model."""
        observation, spec = ticket.observation, ticket.spec
        return Response(
            client_id=ticket.client,
            client_type=observation.client_type,
            model_id=observation.model_id,
            protocol_version=PROTOCOL_VERSION,
            appliance_id=self.appliance_id,
            instance=self.instance,
            outcome=reply.outcome,
            message=reply.message,
            retry_after_us=None if reply.retry_after_ns is None else reply.retry_after_ns // 1000,
            model_version=spec.version if spec else "",
            step_period_us=spec.step_period_us if spec else 0,
            horizon=spec.horizon if spec else 0,
        )

    def heartbeat(self, observation: Observation, *, draining: bool) -> bytes:
        """Return the envelope that answers a heartbeat; who may go elsewhere hears of a drain."""
        outcome = Outcome.DRAINING if draining else Outcome.OK
        return encode_response(self._control(observation, outcome))

    def description(self, observation: Observation) -> bytes:
        """Return the envelope that answers DESCRIBE: the model's spec, or why there is none."""
        try:
            spec = self.catalog.find(observation.model_id, observation.model_version)
        except Rejected as rejected:
            return encode_response(self._control(observation, rejected.outcome, rejected.message))
        return encode_response(evolve(self._control(observation), spec=spec))

    def turned_away(self, observation: Observation, rejected: Rejected) -> bytes:
        """Return the envelope that tells who asked without an observation why it is not served."""
        return encode_response(self._control(observation, rejected.outcome, rejected.message))

    def _control(
        self, observation: Observation, outcome: Outcome = Outcome.OK, message: str = ""
    ) -> Response:
        return Response(
            client_id=observation.client_id,
            model_id=observation.model_id if observation.kind is Kind.DESCRIBE else "",
            protocol_version=PROTOCOL_VERSION,
            appliance_id=self.appliance_id,
            instance=self.instance,
            sequence=observation.sequence,
            episode=observation.episode,
            outcome=outcome,
            message=message,
            kind=observation.kind,
        )
