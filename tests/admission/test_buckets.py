"""Token buckets: never more than promised, never a wait that was not needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission import buckets
from appliance.admission.buckets import SECOND_NS, RateLimiter, TokenBucket
from appliance.config import RateLimits
from appliance.errors import Outcome, Rejected

rates = st.floats(0.01, 1e6) | st.sampled_from((3.0, 7.0, 1000.0))
depths = st.floats(1, 100)
gaps = st.lists(st.just(0) | st.integers(0, 2 * SECOND_NS), min_size=1, max_size=60)


def accepted(bucket: TokenBucket, gaps_ns: list[int], *, patient: bool = False) -> list[int]:
    """When requests pass that come at these intervals, a patient client's after the wait."""
    now_ns, taken = 0, []
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        if patient:
            now_ns += bucket.wait_ns(now_ns)
        if bucket.wait_ns(now_ns) == 0:
            bucket.take(now_ns)
            taken.append(now_ns)
    return taken


@given(rate_hz=rates, depth=depths, gaps_ns=gaps, patient=st.booleans())
def test_no_window_has_more_than_rate_times_its_length_and_depth(
    rate_hz: float, depth: float, gaps_ns: list[int], *, patient: bool
) -> None:
    taken = accepted(TokenBucket(rate_hz, depth), gaps_ns, patient=patient)
    for first, start_ns in enumerate(taken):
        for last in range(first, len(taken)):
            window_s = (taken[last] - start_ns) / SECOND_NS
            assert last - first + 1 <= (rate_hz * window_s + depth) * (1 + 1e-12)


@given(rates, depths, gaps)
def test_the_wait_is_exact(rate_hz: float, depth: float, gaps_ns: list[int]) -> None:
    bucket = TokenBucket(rate_hz, depth)
    now_ns = 0
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        wait_ns = bucket.wait_ns(now_ns)
        assert wait_ns >= 0
        if wait_ns:
            assert bucket.wait_ns(now_ns + wait_ns - 1) == 1
            now_ns += wait_ns
            assert bucket.wait_ns(now_ns) == 0
        bucket.take(now_ns)


@given(rates, depths, st.integers(0, 10**18))
def test_a_bucket_that_was_left_alone_holds_its_whole_depth(
    rate_hz: float, depth: float, now_ns: int
) -> None:
    bucket = TokenBucket(rate_hz, depth)
    for _ in range(int(depth)):
        assert bucket.wait_ns(now_ns) == 0
        bucket.take(now_ns)
    assert bucket.wait_ns(now_ns) > 0


@given(st.floats(0.01, 1e4), st.integers(1, 200))
def test_a_client_that_keeps_to_its_rate_is_never_refused(rate_hz: float, count: int) -> None:
    bucket = TokenBucket(rate_hz, 1.0)
    period_ns = -(-SECOND_NS // rate_hz)
    assert len(accepted(bucket, [int(period_ns)] * count)) == count


def refused(limiter: RateLimiter, now_ns: int, client: str = "c", model: str = "m") -> int:
    with pytest.raises(Rejected) as caught:
        limiter.check(client, model, 0.0, now_ns)
    assert caught.value.outcome is Outcome.RATE_LIMITED
    assert caught.value.retry_after_ns is not None
    return caught.value.retry_after_ns


def test_without_limits_everything_passes() -> None:
    limiter = RateLimiter(RateLimits())
    for _ in range(1000):
        limiter.check("c", "m", 0.0, 0)


@pytest.mark.parametrize(
    ("limits", "named", "other"),
    [
        (RateLimits(per_client_hz=2), "client 'c' is limited to 2", ("d", "m")),
        (RateLimits(per_model_hz={"m": 2}), "model 'm' is limited to 2", ("c", "n")),
        (RateLimits(global_hz=2), "the appliance is limited to 2", None),
    ],
)
def test_each_limit_names_itself_and_touches_nobody_else(
    limits: RateLimits, named: str, other: tuple[str, str] | None
) -> None:
    limiter = RateLimiter(limits)
    limiter.check("c", "m", 0.0, 0)
    with pytest.raises(Rejected, match=named) as caught:
        limiter.check("c", "m", 0.0, 0)
    assert caught.value.retry_after_ns == SECOND_NS // 2
    if other:
        limiter.check(*other, 0.0, 0)
    limiter.check("c", "m", 0.0, SECOND_NS // 2)


def test_the_burst_is_so_many_seconds_worth() -> None:
    limiter = RateLimiter(RateLimits(per_client_hz=100, burst_s=0.1))
    for _ in range(10):
        limiter.check("c", "m", 0.0, 0)
    assert refused(limiter, 0) == SECOND_NS // 100


def test_a_clients_own_rate_goes_before_the_general_one() -> None:
    limiter = RateLimiter(RateLimits(per_client_hz=1))
    for _ in range(5):
        limiter.check("c", "m", 10.0, 0)
    with pytest.raises(Rejected, match="limited to 10 "):
        limiter.check("c", "m", 10.0, 0)


def test_a_refused_request_takes_no_token_from_any_bucket() -> None:
    limiter = RateLimiter(RateLimits(per_client_hz=1, per_model_hz={"m": 2}, global_hz=2))
    limiter.check("c", "m", 0.0, 0)
    for _ in range(10):
        refused(limiter, 0)
    limiter.check("d", "m", 0.0, SECOND_NS // 2)


def test_the_longest_wait_is_told_and_honoured() -> None:
    limiter = RateLimiter(RateLimits(per_client_hz=10, per_model_hz={"m": 0.5}, burst_s=0.1))
    limiter.check("c", "m", 0.0, 0)
    wait_ns = refused(limiter, 0)
    assert wait_ns == 2 * SECOND_NS
    refused(limiter, wait_ns - 1)
    limiter.check("c", "m", 0.0, wait_ns)


def test_a_changed_rate_starts_anew() -> None:
    limiter = RateLimiter(RateLimits())
    limiter.check("c", "m", 1.0, 0)
    limiter.check("c", "m", 2.0, 0)
    with pytest.raises(Rejected):
        limiter.check("c", "m", 2.0, 0)


def test_only_so_many_clients_are_remembered_the_longest_silent_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buckets, "REMEMBERED", 3)
    limiter = RateLimiter(RateLimits(per_client_hz=1))
    for client in ("a", "b", "c"):
        limiter.check(client, "m", 0.0, 0)
    refused(limiter, 0, client="a")  # and so it was heard of last
    limiter.check("d", "m", 0.0, 0)
    assert set(limiter._clients) == {"c", "a", "d"}
    refused(limiter, 0, client="a")


@pytest.mark.parametrize(
    ("limits", "max_rate_hz", "applies"),
    [
        (RateLimits(), 0.0, False),
        (RateLimits(), 5.0, True),
        (RateLimits(per_client_hz=5.0), 0.0, True),
        (RateLimits(global_hz=5.0), 0.0, True),
        (RateLimits(per_model_hz={"policy": 5.0}), 0.0, True),
        (RateLimits(per_model_hz={"other": 5.0}), 0.0, False),
        (RateLimits(per_model_hz={"policy": 0.0}), 0.0, False),
    ],
)
def test_a_limit_applies_if_it_could_ever_refuse(
    limits: RateLimits, max_rate_hz: float, *, applies: bool
) -> None:
    limiter = RateLimiter(limits)
    assert limiter.applies("policy", max_rate_hz) is applies
    refused = 0
    for _ in range(100):
        try:
            limiter.check("arm", "policy", max_rate_hz, 0)
        except Rejected:  # noqa: PERF203  # each is its own
            refused += 1
    assert (refused > 0) is applies
