"""Token buckets: who may send how often."""

from __future__ import annotations

from math import ceil

from attrs import define, field

from appliance.config import RateLimits
from appliance.errors import Outcome, Rejected

SECOND_NS = 1_000_000_000
REMEMBERED = 10_000
"""Clients whose bucket is kept; beyond it, that of whoever was silent the longest is forgotten."""


@define(eq=False)
class TokenBucket:
    """Fills with `rate_hz` tokens a second up to `depth`, at least 1.

    Kept as the time at which it will be full again (GCRA, ITU-T I.371), in whole nanoseconds and
    rounded so that never more passes than was promised.
    """

    rate_hz: float
    depth: float
    _full_ns: int = field(default=0, init=False)
    _spacing_ns: int = field(init=False)
    _allowance_ns: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._spacing_ns = ceil(SECOND_NS / self.rate_hz)
        self._allowance_ns = int((self.depth - 1) * self._spacing_ns)

    def wait_ns(self, now_ns: int) -> int:
        """Return how long until a token is there; 0 if one is."""
        return max(0, self._full_ns - now_ns - self._allowance_ns)

    def take(self, now_ns: int) -> None:
        """Take one token."""
        self._full_ns = max(self._full_ns, now_ns) + self._spacing_ns


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

    def applies(self, model: str, max_rate_hz: float) -> bool:
        """Return whether a client with this limit of its own can be refused for this model."""
        return bool(
            max_rate_hz or self.limits.per_client_hz or self._global or model in self._models
        )

    def check(self, client: str, model: str, max_rate_hz: float, now_ns: int) -> None:
        """Take a token from every bucket that applies, or from none.

        Args:
            max_rate_hz: The client's own limit; 0 leaves `per_client_hz`.

        Raises:
            Rejected: RATE_LIMITED, with the time until it may come again.
        """
        rate_hz = max_rate_hz or self.limits.per_client_hz
        if not rate_hz and self._global is None and not self._models:
            return
        named = (
            (f"client {client!r}", self._client(client, rate_hz) if rate_hz else None),
            (f"model {model!r}", self._models.get(model)),
            ("the appliance", self._global),
        )
        buckets = [(name, bucket) for name, bucket in named if bucket is not None]
        wait_ns, name, rate_hz = max(
            ((bucket.wait_ns(now_ns), name, bucket.rate_hz) for name, bucket in buckets),
            default=(0, "", 0.0),
        )
        if wait_ns > 0:
            raise Rejected(
                Outcome.RATE_LIMITED,
                f"{name} is limited to {rate_hz:g} observations a second",
                retry_after_ns=wait_ns,
            )
        for _, bucket in buckets:
            bucket.take(now_ns)

    def _client(self, client: str, rate_hz: float) -> TokenBucket:
        """Return a client's bucket, and move it to the end: they are in order of last use."""
        bucket = self._clients.pop(client, None)
        if bucket is None or bucket.rate_hz != rate_hz:
            bucket = TokenBucket(rate_hz, max(1.0, rate_hz * self.limits.burst_s))
        if len(self._clients) >= REMEMBERED:
            del self._clients[next(iter(self._clients))]
        self._clients[client] = bucket
        return bucket
