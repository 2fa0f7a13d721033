"""Tables of who may come, and what holds for each."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import field, frozen
from attrs.validators import and_, deep_mapping, ge, instance_of, le, matches_re, optional

from appliance.config.checks import MIB, NOT_NEGATIVE, POSITIVE, Validator

TIER: Validator = and_(ge(0), le(9))
PRIORITY: Validator = and_(ge(0), le(100))
ARENA_BYTES: Validator = ge(4096)
MAX_QUEUE: Validator = ge(1)


@frozen(kw_only=True)
class ClientPolicy:
    """What holds for a client. Unset keys of a known client come from `clients.defaults`.

    Attributes:
        tier: 0 is most important.
        priority: Rank within the tier where the wire says nothing; lower first.
        latency_budget_ms: For clients that send none: arrival to answer.
        keep: Which of its waiting observations are kept, where the wire says nothing.
        lateness: Whether it is refused rather than late, where the wire says nothing.
        max_rate_hz: Observations a second over all models; 0: `rate_limits.per_client_hz` holds.
        arena_bytes: Shared memory its waiting observations may take.
        max_queue: Waiting observations per model with `keep = all`.
    """

    tier: int = field(default=1, validator=TIER)
    priority: int = field(default=1, validator=PRIORITY)
    latency_budget_ms: float = field(default=50.0, validator=POSITIVE)
    keep: Literal["latest", "all"] = "latest"
    lateness: Literal["firm", "soft"] = "soft"
    max_rate_hz: float = field(default=0.0, validator=NOT_NEGATIVE)
    arena_bytes: int = field(default=64 * MIB, validator=ARENA_BYTES)
    max_queue: int = field(default=64, validator=MAX_QUEUE)


@frozen(kw_only=True)
class KnownClient:
    """One client by its id; every key but `id` is optional."""

    id: str = field(validator=matches_re(r".{1,255}"))
    tier: int | None = field(default=None, validator=optional(TIER))
    priority: int | None = field(default=None, validator=optional(PRIORITY))
    latency_budget_ms: float | None = field(default=None, validator=optional(POSITIVE))
    keep: Literal["latest", "all"] | None = None
    lateness: Literal["firm", "soft"] | None = None
    max_rate_hz: float | None = field(default=None, validator=optional(NOT_NEGATIVE))
    arena_bytes: int | None = field(default=None, validator=optional(ARENA_BYTES))
    max_queue: int | None = field(default=None, validator=optional(MAX_QUEUE))


@frozen(kw_only=True)
class Clients:
    """Who may come, and what holds for them.

    Attributes:
        defaults: For everybody.
        known: `[[clients.known]]` tables, one for each client that differs from them.
        accept_unknown: Whether others may come; they hear FORBIDDEN if not.
    """

    defaults: ClientPolicy = ClientPolicy()
    known: tuple[KnownClient, ...] = ()
    accept_unknown: bool = True

    def policy(self, client_id: str) -> ClientPolicy | None:
        """Return what holds for `client_id`, or None if it may not come."""
        for known in self.known:
            if known.id == client_id:
                own = attrs.asdict(known, filter=lambda a, v: a.name != "id" and v is not None)
                return attrs.evolve(self.defaults, **own)
        return self.defaults if self.accept_unknown else None


@frozen(kw_only=True)
class RateLimits:
    """Token buckets, observations a second; 0 is unlimited.

    Attributes:
        global_hz: Over all clients and models.
        per_client_hz: For each client whose `max_rate_hz` is 0.
        per_model_hz: By model name.
        burst_s: Depth of each bucket, as so many seconds' worth; at least one observation.
    """

    global_hz: float = field(default=0.0, validator=NOT_NEGATIVE)
    per_client_hz: float = field(default=0.0, validator=NOT_NEGATIVE)
    per_model_hz: dict[str, float] = field(
        factory=dict[str, float], validator=deep_mapping(instance_of(str), NOT_NEGATIVE)
    )
    burst_s: float = field(default=0.5, validator=POSITIVE)
