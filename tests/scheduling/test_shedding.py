"""Who is refused where there is too much: evenly, at once, never tier 0."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.scheduling.cadence import Cadence
from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.shedding import APART, INTERVAL_NS, LEAST, Gate, Shedding
from appliance.scheduling.streams import Stream

MS = 1_000_000
POLICY, VISION = ModelRef("policy", "1"), ModelRef("vision", "1")
FOREVER_NS = 1 << 60


def request(model: ModelRef = POLICY, tier: int = 1) -> Request:
    return Request(
        id=1,
        session="robot",
        client="robot",
        lane=Lane(model),
        arrived_ns=0,
        deadline_ns=MS,
        expires_ns=MS,
        firm=True,
        tier=tier,
    )


def stream(credit: float = 0.0, model: ModelRef = POLICY) -> Stream:
    return Stream(1, model, Cadence(), credit)


def passing(share: float) -> Shedding:
    """Return one that lets in this part of the policy's traffic, and stays so."""
    shedding = Shedding(lambda _: 0)
    shedding._gates[POLICY] = Gate(share, share)
    shedding._all_pass, shedding._next_ns = False, FOREVER_NS
    assert shedding.passing(POLICY) == share
    return shedding


def refusals(shedding: Shedding, count: int, credit: float = 0.0, tier: int = 1) -> list[bool]:
    one = stream(credit)
    return [shedding.refuses(request(tier=tier), one, 0) for _ in range(count)]


# ---------------------------------------------------------------------------------- who is refused


@given(st.floats(LEAST, 0.999), st.floats(0, 0.999))
def test_no_client_is_refused_more_often_in_a_row_than_the_share_says(
    share: float, credit: float
) -> None:
    shedding = passing(share)
    run = longest = 0
    for refused in refusals(shedding, 200, credit):
        run = run + 1 if refused else 0
        longest = max(longest, run)
    assert longest <= ceil(1 / share + 1e-9) - 1  # sums of fractions are not exact


@given(st.floats(LEAST, 1.0), st.floats(0, 0.999), st.integers(1, 300))
def test_of_each_client_the_share_is_let_in(share: float, credit: float, count: int) -> None:
    let_in = count - sum(refusals(passing(share), count, credit))
    assert abs(let_in - share * count) <= 1 + 1e-6


def test_tier_0_is_never_refused() -> None:
    assert not any(refusals(passing(LEAST), 100, tier=0))


def test_nobody_is_refused_while_all_is_let_in() -> None:
    assert not any(refusals(Shedding(lambda _: 0), 100))


def test_clients_are_not_refused_all_at_once() -> None:
    shedding = passing(0.5)
    golden = [stream(number * 0.618034 % 1.0) for number in range(100)]
    for _ in range(4):
        refused = sum(shedding.refuses(request(), each, 0) for each in golden)
        assert 40 <= refused <= 60


# ------------------------------------------------------------------------------- how many are


def after(
    intervals: int,
    lost: float,
    idle: float = 0.0,
    shedding: Shedding | None = None,
    models: tuple[ModelRef, ...] = (POLICY,),
) -> Shedding:
    """Let so many intervals pass in which this part of what came was lost.

    Args:
        idle: Part of the time in which a worker had nothing to do.
        models: Those whose requests are lost; of all others nothing comes.
    """
    shedding = shedding or Shedding(lambda _: 0)
    streams = {model: stream(model=model) for model in models}
    begin_ns = shedding._next_ns
    for interval in range(intervals):
        for number in range(100):
            now_ns = begin_ns + interval * INTERVAL_NS + number * INTERVAL_NS // 100
            for model in models:
                shedding.refuses(request(model), streams[model], now_ns)
                if number < 100 * lost:
                    shedding.lost(model, stream(model=model))
        shedding.idled(POLICY, int(idle * INTERVAL_NS))
    return shedding


def test_less_is_let_in_while_much_is_lost() -> None:
    shares = [after(count, lost=0.3).passing(POLICY) for count in (1, 4, 12, 40)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert 0.05 <= shares[-1] < 0.2


def test_something_is_always_let_in() -> None:
    assert after(400, lost=1.0).passing(POLICY) == LEAST


def test_a_little_may_be_lost() -> None:
    assert after(40, lost=0.02).passing(POLICY) == 1.0


def test_all_are_let_in_again_when_nothing_is_lost() -> None:
    shedding = after(20, lost=0.3)
    assert not shedding.is_calm(POLICY)
    after(80, lost=0.0, shedding=shedding)
    assert shedding.passing(POLICY) == 1.0
    assert shedding.is_calm(POLICY)


def test_who_comes_when_workers_are_idle_is_not_refused() -> None:
    assert after(40, lost=0.3, idle=0.2).passing(POLICY) == 1.0


def test_idle_workers_end_it() -> None:
    shedding = after(20, lost=0.3)
    assert shedding.passing(POLICY) < 0.6
    after(80, lost=0.3, idle=0.2, shedding=shedding)
    assert shedding.passing(POLICY) == 1.0


def losing_most(asking: int) -> Shedding:
    """Let `asking` of ten streams lose all they ask, and the others nothing, for 5 s."""
    shedding = Shedding(lambda _: 0)
    streams = [stream() for _ in range(10)]
    for number in range(20 * 100):
        now_ns = number * INTERVAL_NS // 100
        for each in streams:
            refused = shedding.refuses(request(), each, now_ns)
            if not refused and streams.index(each) < asking:
                shedding.lost(POLICY, each)
    return shedding


def test_deadlines_that_cannot_be_met_are_no_sign_of_too_much() -> None:
    assert losing_most(2).passing(POLICY) == 1.0


def test_where_most_streams_lose_most_there_is_too_much() -> None:
    assert losing_most(10).passing(POLICY) < 0.2


def test_no_model_is_let_in_much_more_than_another() -> None:
    shedding = after(1, lost=0.0, models=(POLICY, VISION))
    shedding._gates[POLICY].asked = 0.4
    after(1, lost=0.0, shedding=shedding, models=(VISION,))
    assert shedding.passing(VISION) == pytest.approx(shedding.passing(POLICY) + APART)
    assert shedding.passing(ModelRef("other", "1")) == 1.0


def test_looking_away_for_long_is_one_interval() -> None:
    shedding = after(20, lost=0.3)
    before = shedding.passing(POLICY)
    shedding.refuses(request(), stream(), FOREVER_NS)
    assert shedding.passing(POLICY) >= before * 0.85
