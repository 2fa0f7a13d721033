from appliance.config import ClientPolicy
from appliance.dispatch.ticket import Ticket
from appliance.metrics.histogram import Histogram
from appliance.metrics.ledger import Count
from appliance.scheduling.events import Request
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Observation

class NoForm(Exception): ...

class Form:
    spec: ModelSpec
    policy: ClientPolicy
    client: str
    count: Count
    payloads: Histogram
    def __init__(
        self,
        envelope: bytes,
        payload_size: int,
        *,
        observation: Observation,
        ticket: Ticket,
        request: Request,
        feeds: list[tuple[int, bytes, bytes]],
        spec: ModelSpec,
        policy: ClientPolicy,
        count: Count,
        payloads: Histogram,
    ) -> None: ...
