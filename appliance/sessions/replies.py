"""Replies on the session wire: an envelope, and a payload frame that is always there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import define, evolve, field

from appliance.admission.catalog import Catalog
from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import Outcome, Rejected
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

    def frames(self, ticket: Ticket, reply: Reply) -> list[bytes]:
        """Return envelope and payload of a reply; the outputs are copied, once."""
        observation = ticket.observation
        tensors: list[Tensor] = []
        offset = 0
        for output in reply.outputs:
            length = len(output.data)
            tensors.append(Tensor(output.key, output.dtype, output.shape, offset, length))
            offset += length
        parts: Sequence[Buffer] = [output.data for output in reply.outputs]
        spec = ticket.spec
        self._count += 1
        response = Response(
            client_id=ticket.client,
            client_type=observation.client_type,
            model_id=observation.model_id,
            response_id=f"{self.instance:016x}-{self._count}",
            tensors=tuple(tensors),
            timestamp_ns=time.time_ns(),
            inference_latency_ms=reply.timing.execute_us / 1000,
            protocol_version=PROTOCOL_VERSION,
            appliance_id=self.appliance_id,
            instance=self.instance,
            sequence=observation.sequence,
            episode=observation.episode,
            outcome=reply.outcome,
            message=reply.message,
            timing=reply.timing,
            late=reply.late,
            retry_after_us=None if reply.retry_after_ns is None else reply.retry_after_ns // 1000,
            model_version=spec.version if spec else "",
            step_period_us=spec.step_period_us if spec else 0,
            horizon=spec.horizon if spec else 0,
        )
        extended = observation.protocol_version > 0
        if not extended:
            response, parts = for_old_client(response, parts)
        return [encode_response(response, extended=extended), b"".join(parts)]

    def heartbeat(self, observation: Observation) -> bytes:
        """Return the envelope that answers a heartbeat."""
        return encode_response(self._control(observation))

    def description(self, observation: Observation) -> bytes:
        """Return the envelope that answers DESCRIBE: the model's spec, or why there is none."""
        try:
            spec = self.catalog.find(observation.model_id, observation.model_version)
        except Rejected as rejected:
            return encode_response(self._control(observation, rejected.outcome, rejected.message))
        return encode_response(evolve(self._control(observation), spec=spec))

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
