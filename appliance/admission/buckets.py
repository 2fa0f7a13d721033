"""Token buckets: who may send how often."""

from __future__ import annotations

from attrs import define, field

from appliance.config import RateLimits
from appliance.errors import Outcome, Rejected

SECOND_NS = 1_000_000_000
REMEMBERED = 10_000
"""Clients whose bucket is kept; beyond it, buckets that are full again are forgotten."""


@define(eq=False)
class TokenBucket:
    """Fills with `rate_hz` tokens a second up to `depth`.

    Kept as the time at which it will be full again (GCRA, ITU-T I.371), one integer.
    """

    rate_hz: float
    depth: float
    _full_ns: int = field(default=0, init=False)

    def wait_ns(self, now_ns: int) -> int:
        """Return how long until a token is there; 0 if one is."""
        owed_ns = max(self._full_ns - now_ns, 0)
        spacing_ns = SECOND_NS / self.rate_hz
        return max(0, round(owed_ns + spacing_ns - self.depth * spacing_ns))

    def take(self, now_ns: int) -> None:
        """Take one token."""
        self._full_ns = max(self._full_ns, now_ns) + round(SECOND_NS / self.rate_hz)

    def is_full(self, now_ns: int) -> bool:
        """Return whether forgetting it would change nothing."""
        return self._full_ns <= now_ns


@define(eq=False)
class RateLimiter:
    """The buckets of everyone: global, per model, per client."""

    limits: RateLimits
    _global: TokenBucket | None = field(init=False)
    _models: dict[str, TokenBucket] = field(init=False)
    _clients: dict[str, TokenBucket] = field(factory=dict[str, TokenBucket], init=False)

    def __attrs_post_init__(self) -> None:
        self._global = self._bucket(self.limits.global_hz)
        self._models = {
            name: bucket
            for name, rate_hz in self.limits.per_model_hz.items()
            if (bucket := self._bucket(rate_hz))
        }

    def _bucket(self, rate_hz: float) -> TokenBucket | None:
        if rate_hz <= 0:
            return None
        return TokenBucket(rate_hz, max(1.0, rate_hz * self.limits.burst_s))

    def check(self, client: str, model: str, max_rate_hz: float, now_ns: int) -> None:
        """Take a token from every bucket that applies, or from none.

        Args:
            max_rate_hz: The client's own limit; 0 leaves `per_client_hz`.

        Raises:
            Rejected: RATE_LIMITED, with the time until it may come again.
        """
        rate_hz = max_rate_hz or self.limits.per_client_hz
        named = (
            (f"client {client!r}", self._client(client, rate_hz, now_ns) if rate_hz else None),
            (f"model {model!r}", self._models.get(model)),
            ("the appliance", self._global),
        )
        buckets = [(name, bucket) for name, bucket in named if bucket is not None]
        for name, bucket in buckets:
            wait_ns = bucket.wait_ns(now_ns)
            if wait_ns > 0:
                raise Rejected(
                    Outcome.RATE_LIMITED,
                    f"{name} is limited to {bucket.rate_hz:g} observations a second",
                    retry_after_ns=wait_ns,
                )
        for _, bucket in buckets:
            bucket.take(now_ns)

    def _client(self, client: str, rate_hz: float, now_ns: int) -> TokenBucket:
        bucket = self._clients.get(client)
        if bucket is None or bucket.rate_hz != rate_hz:
            if len(self._clients) >= REMEMBERED:
                self._clients = {
                    name: kept for name, kept in self._clients.items() if not kept.is_full(now_ns)
                }
            bucket = TokenBucket(rate_hz, max(1.0, rate_hz * self.limits.burst_s))
            self._clients[client] = bucket
        return bucket
