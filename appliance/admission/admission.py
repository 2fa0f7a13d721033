"""The gate: an observation becomes an admitted request, or is told why not.

Owner of the rate limiter, the client policies and the drain flag. Nothing is remembered of a
refused request except its token, which an invalid one does not take either.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from appliance.admission.buckets import RateLimiter
from appliance.admission.cadence import period_of, shortest_period_ns
from appliance.admission.catalog import Catalog
from appliance.admission.deadline import Deadline, deadline_of
from appliance.admission.tensors import Feed, match
from appliance.config import ClientPolicy, Config
from appliance.errors import Outcome, Rejected
from appliance.values import value
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Keep, Observation

MILLISECOND_NS = 1_000_000
_LATEST, _DEFAULT = Keep.LATEST, Keep.DEFAULT  # members are slow to find before Python 3.12
REMEMBERED = 4096
"""Clients whose policy is kept ready; it can be computed again at any time."""


@value
class Admitted:
    """A request that may cost something: checked, enriched, within its rate."""

    spec: ModelSpec
    policy: ClientPolicy
    feeds: list[Feed]
    shapes: tuple[tuple[int, ...], ...]
    deadline: Deadline
    expires_ns: int
    period_ns: int
    keep_latest: bool
    priority: int


@define(eq=False)
class Admission:
    """See the module's docstring.

    Args:
        planned_ns: Planned time of one row on an idle box: (model name, version).

    Attributes:
        ttl_ns: How long a request may wait in all.
    """

    config: Config
    catalog: Catalog
    planned_ns: Callable[[str, str], int]
    draining: bool = False
    _limiter: RateLimiter = field(init=False)
    ttl_ns: int = field(init=False)
    _policies: dict[str, ClientPolicy | None] = field(
        factory=dict[str, "ClientPolicy | None"], init=False
    )

    def __attrs_post_init__(self) -> None:
        self._limiter = RateLimiter(self.config.rate_limits)
        self.ttl_ns = round(self.config.scheduling.request_ttl_ms * MILLISECOND_NS)

    def reconfigure(self, config: Config) -> None:
        """Let another configuration hold from now on; what was admitted stays admitted."""
        if config.rate_limits != self.config.rate_limits:
            self._limiter = RateLimiter(config.rate_limits)
        self.config = config
        self.ttl_ns = round(config.scheduling.request_ttl_ms * MILLISECOND_NS)
        self._policies.clear()

    def policy(self, client: str) -> ClientPolicy:
        """Return what holds for a client.

        Raises:
            Rejected: FORBIDDEN, it is not known and unknown ones are not accepted.
        """
        if client not in self._policies:
            if len(self._policies) >= REMEMBERED:
                self._policies.clear()
            self._policies[client] = self.config.clients.policy(client)
        policy = self._policies[client]
        if policy is None:
            raise Rejected(
                Outcome.FORBIDDEN,
                f"client {client!r} is not among clients.known, and accept_unknown is false",
            )
        return policy

    def still_admits(self, spec: ModelSpec, policy: ClientPolicy, client: str) -> bool:
        """Return whether `admit` would find the same spec and policy again, and refuse neither."""
        if self.draining or self._policies.get(client) is not policy:
            return False
        served = self.catalog.models.get(spec.model_id)
        if served is None or served.spec is not spec:
            return False
        return bool(served.workers) or not served.error

    def is_limited(self, spec: ModelSpec, policy: ClientPolicy) -> bool:
        """Return whether any rate limit applies."""
        return self._limiter.applies(spec.model_id, policy.max_rate_hz)

    def shortest_period_ns(self, policy: ClientPolicy) -> int:
        """Return what lies between two observations of a client at least; 0: no limit."""
        return shortest_period_ns(policy.max_rate_hz or self.config.rate_limits.per_client_hz)

    def may_come(self, spec: ModelSpec, policy: ClientPolicy, client: str, now_ns: int) -> bool:
        """Take a token for an observation, or return False: `admit` would refuse it."""
        try:
            self._limiter.check(client, spec.model_id, policy.max_rate_hz, now_ns)
        except Rejected:
            return False
        return True

    def admit(
        self, observation: Observation, payload: memoryview, client: str, now_ns: int
    ) -> Admitted:
        """Check, enrich and rate-limit one observation.

        Args:
            payload: Where the tensors' bytes lie.
            client: Who it counts for.
            now_ns: When it arrived.

        Raises:
            Rejected: DRAINING, FORBIDDEN, UNKNOWN_MODEL, LOADING, ENGINE_FAILED, TOO_LARGE,
                INVALID or RATE_LIMITED.
        """
        if self.draining:
            raise Rejected(Outcome.DRAINING, "the appliance is shutting down")
        policy = self._policies.get(client) or self.policy(client)
        limit = self.config.transport.max_message_bytes
        if len(payload) > limit:
            raise Rejected(
                Outcome.TOO_LARGE, f"payload: at most {limit} bytes, came {len(payload)}"
            )
        spec = self.catalog.find(observation.model_id, observation.model_version)
        if observation.spec_hash and observation.spec_hash != spec.hash:
            raise Rejected(
                Outcome.INVALID,
                f"model {spec.model_id!r} has spec {spec.hash}, the client was built for "
                f"{observation.spec_hash}; ask DESCRIBE again",
            )
        feeds, shapes = match(spec, observation, payload)
        self._limiter.check(client, spec.model_id, policy.max_rate_hz, now_ns)
        deadline = deadline_of(
            observation,
            policy,
            arrived_ns=now_ns,
            planned_ns=self.planned_ns(spec.model_id, spec.version),
            longest_ns=self.ttl_ns,
        )
        keep = observation.keep
        keep_latest = keep is _LATEST or (keep is _DEFAULT and policy.keep == "latest")
        return Admitted(
            spec,
            policy,
            feeds,
            shapes,
            deadline,
            now_ns + self.ttl_ns,
            period_of(observation.observation_period_us, self.shortest_period_ns(policy)),
            keep_latest and not spec.recurrent,  # a recurrent model may miss no step
            policy.priority if observation.priority is None else observation.priority,
        )
