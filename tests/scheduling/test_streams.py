"""What is known of each client: its allowance, where it is expected, if it follows advice."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.streams import MOST_STREAMS, Stream, Streams

MS = 1_000_000
SECOND = 1000 * MS
PERIOD = 100 * MS
EXCESS, DEPTH = 1.25, 3
"""What is promised: 1.25 of what a client says, and three more."""

MODEL = ModelRef("policy", "1")


def request(at_ns: int, client: str = "robot", period_ns: int = PERIOD, **more: Any) -> Request:
    return Request(
        id=at_ns,
        session=client,
        client=client,
        lane=Lane(MODEL),
        arrived_ns=at_ns,
        deadline_ns=at_ns + 50 * MS,
        expires_ns=at_ns + SECOND,
        period_ns=period_ns,
        **more,
    )


def admitted(arrivals_ns: list[int], period_ns: int, streams: Streams | None = None) -> list[int]:
    """Return which arrivals of one client are not more than it said it would send."""
    streams = streams or Streams()
    within: list[int] = []
    for at_ns in arrivals_ns:
        each = request(at_ns, period_ns=period_ns)
        if streams.arrived(each, at_ns).may_come(each, at_ns):
            within.append(at_ns)
    return within


# ----------------------------------------------------------------------------- its allowance

gaps = st.lists(st.one_of(st.integers(0, 5 * MS), st.integers(0, 400 * MS)), max_size=80)


@given(gaps, st.sampled_from((1, MS, 33 * MS, PERIOD)))
def test_in_any_time_it_may_send_what_it_said_and_a_little_more(
    apart_ns: list[int], period_ns: int
) -> None:
    within_ns = admitted([SECOND + each for each in accumulate(apart_ns)], period_ns)
    for first, from_ns in enumerate(within_ns):
        for count, until_ns in enumerate(within_ns[first:], 1):
            assert count <= EXCESS * (until_ns - from_ns) / period_ns + DEPTH + 1e-6


@given(st.integers(0, 1 << 32), st.floats(0.9, 1.2))
def test_who_sends_what_it_said_may_send_all_of_it(seed: int, factor: float) -> None:
    random = Random(seed)
    arrivals_ns = sorted(
        round(SECOND + (number + random.gauss(0, 0.1)) * PERIOD / factor) for number in range(100)
    )
    assert admitted(arrivals_ns, PERIOD) == arrivals_ns


@pytest.mark.parametrize("declared", [PERIOD, 0])
def test_a_flood_leaves_a_client_what_it_had_before(declared: int) -> None:
    calm = [SECOND + number * PERIOD for number in range(30)]
    flood = [calm[-1] + number * 2 * MS for number in range(1, 501)]
    within = admitted(calm + flood, declared)
    assert within[:30] == calm
    assert 10 <= len(within) - 30 <= EXCESS * 10 * (1.25 if not declared else 1) + DEPTH


def test_a_rate_that_is_not_declared_grows_slowly_and_is_then_its_own() -> None:
    calm = [SECOND + number * PERIOD for number in range(30)]
    faster = [calm[-1] + number * PERIOD // 5 for number in range(1, 1500)]
    within = admitted(calm + faster, 0)
    begin_ns = calm[-1]
    first = sum(begin_ns < each <= begin_ns + SECOND for each in within)
    last = sum(each > faster[-1] - SECOND for each in within)
    assert first < 25  # of 50
    assert last == 50


def test_a_rate_that_falls_is_followed_at_once() -> None:
    fast = [SECOND + number * PERIOD // 10 for number in range(100)]
    slow = [fast[-1] + number * PERIOD * 3 // 10 for number in range(1, 60)]
    flood = [slow[-1] + number * MS for number in range(1, 1001)]
    within = admitted(fast + slow + flood, 0)
    during = sum(slow[-1] < each <= slow[-1] + SECOND for each in within)
    assert during <= EXCESS * 34 * 1.25 + DEPTH


def test_who_has_no_rhythm_yet_may_send() -> None:
    assert len(admitted([SECOND, SECOND + MS, SECOND + 9 * MS], 0)) == 3


# ------------------------------------------------------------------------- where it is expected


def predicted(streams: Streams) -> list[str]:
    """Return who is expected; checks that all agree on it."""
    known = {stream.number: client for (client, _), stream in streams._streams.items()}
    names: list[str] = []
    for forecast in streams.forecasts.values():
        keys = [(each[0], each[1]) for each in forecast.arrivals]
        standing = [each[-1] for each in forecast.arrivals]
        assert keys == [(stream.predicted_ns, stream.number) for stream in standing]
        assert keys == sorted(set(keys))
        names += [known[number] for _, number in keys]
    standing = [s for s in streams._streams.values() if s.predicted_ns is not None]
    assert len(names) == len(set(names)) == len(standing)
    return names


def test_tier_0_with_a_rhythm_is_expected() -> None:
    streams = Streams()
    for turn in range(10):
        for tier in (0, 1):
            at_ns = turn * PERIOD
            streams.arrived(request(at_ns, f"tier {tier}", tier=tier), at_ns)
    assert predicted(streams) == ["tier 0"]
    (only,) = streams.forecasts[MODEL].arrivals
    assert (only[0], only[-1].lead_ns) == (10 * PERIOD, 50 * MS)


def forget(streams: Streams, now_ns: int) -> None:
    """Forget who should have come long before."""
    for forecast in streams.forecasts.values():
        forecast.forget_missing(now_ns)


def test_who_is_overdue_is_expected_no_more_until_it_comes() -> None:
    streams = Streams()
    for turn in range(10):
        streams.arrived(request(turn * PERIOD, tier=0), turn * PERIOD)
    forget(streams, 10 * PERIOD + MS)
    assert predicted(streams) == ["robot"]
    forget(streams, 11 * PERIOD)
    assert predicted(streams) == []
    streams.arrived(request(11 * PERIOD, tier=0), 11 * PERIOD)
    assert predicted(streams) == ["robot"]


def test_who_should_have_come_is_overdue_until_it_comes_or_is_lost() -> None:
    streams = Streams()
    for turn in range(10):
        streams.arrived(request(turn * PERIOD), turn * PERIOD)
        if turn % 2 == 0:
            streams.arrived(request(turn * PERIOD, "slow", 2 * PERIOD), turn * PERIOD)
    streams.arrived(request(9 * PERIOD, "new"), 9 * PERIOD)
    assert streams.overdue_ns(10 * PERIOD + 2 * MS) == {}
    overdue_ns = streams.overdue_ns(10 * PERIOD + 80 * MS)
    assert overdue_ns.keys() == {"robot"}, "the slow one may be late by more"
    assert abs(overdue_ns["robot"] - 80 * MS) < MS
    streams.arrived(request(11 * PERIOD), 11 * PERIOD)
    assert streams.overdue_ns(11 * PERIOD) == {}
    assert streams.overdue_ns(11 * PERIOD + 5 * SECOND) == {}, "it has stopped"


def test_who_is_not_of_tier_0_any_more_is_not_expected() -> None:
    streams = Streams()
    for turn in range(20):
        streams.arrived(request(turn * PERIOD, tier=0 if turn < 10 else 1), turn * PERIOD)
    forget(streams, 20 * PERIOD)
    assert predicted(streams) == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 8),  # client
            st.integers(0, 300).map(lambda each: each * MS),  # later
            st.sampled_from(("comes", "comes", "comes", "is advised", "is forgotten")),
        ),
        max_size=120,
    )
)
def test_forecasts_stay_consistent(happenings: list[tuple[int, int, str]]) -> None:
    streams, now_ns = Streams(), SECOND
    for client, later_ns, what in happenings:
        now_ns += later_ns
        each = request(now_ns, f"robot {client}", tier=0)
        stream = streams.find(each)
        if what == "comes":
            streams.arrived(each, now_ns)
        elif what == "is advised" and stream is not None:
            stream.obedience = 1.0
            streams.advised(stream, later_ns // 10)
        else:
            forget(streams, now_ns)
        predicted(streams)


# --------------------------------------------------------------------------------- forgetting


def test_ten_thousand_clients_with_one_observation_each_are_forgotten() -> None:
    streams = Streams()
    for turn in range(20):
        streams.arrived(request(turn * PERIOD, "stays", tier=0), turn * PERIOD)
    for number in range(10_000):
        at_ns = 2 * SECOND + number * MS
        streams.arrived(request(at_ns, f"once {number}", tier=0), at_ns)
        if number % 100 == 0:
            streams.arrived(request(at_ns, "stays", tier=0), at_ns)
        assert len(streams) < 1100  # a second's worth
    assert predicted(streams) == ["stays"]


def test_as_many_at_once_are_bounded_all_the_same() -> None:
    streams = Streams()
    for number in range(MOST_STREAMS + 100):
        streams.arrived(request(number, f"once {number}"), number)
    assert len(streams) <= MOST_STREAMS + 1
    assert streams.find(request(0, "once 0")) is None


def test_who_is_forgotten_is_expected_no_more() -> None:
    streams = Streams()
    for turn in range(10):
        streams.arrived(request(turn * PERIOD, "gone", tier=0), turn * PERIOD)
    assert predicted(streams) == ["gone"]
    streams.arrived(request(100 * PERIOD, "new"), 100 * PERIOD)
    assert predicted(streams) == []
    assert len(streams) == 1


# ---------------------------------------------------------------------------------- obedience


def advised(follows: float, seed: int, *, delayed: bool = False) -> Stream:
    """Return the stream of a robot that follows this part of its advice, after 300 cycles.

    Args:
        delayed: Its next observation is under way already when advice comes.
    """
    random, streams = Random(seed), Streams()
    due_ns, owed_ns = SECOND, 0.0
    for _ in range(300):
        arrived_ns = round(due_ns + random.gauss(0, MS / 2))
        stream = streams.arrived(request(arrived_ns), arrived_ns)
        advice_ns = random.choice((-5, -2, 0, 2, 5)) * MS
        if advice_ns:
            streams.advised(stream, advice_ns)
        moves_ns = follows * advice_ns
        if delayed:
            moves_ns, owed_ns = owed_ns, moves_ns
        due_ns += PERIOD + round(moves_ns)
    return stream


@given(st.integers(0, 1 << 32))
def test_whether_a_robot_follows_is_learnt(seed: int) -> None:
    assert advised(1.0, seed).obedience > 0.8
    assert advised(0.0, seed).obedience < 0.2


@given(st.integers(0, 1 << 32))
def test_a_robot_that_follows_one_observation_later_is_known_to_follow(seed: int) -> None:
    assert advised(1.0, seed, delayed=True).obedience > 0.3
    assert advised(0.0, seed, delayed=True).obedience < 0.2


@given(st.integers(0, 1 << 32))
def test_a_robot_that_does_the_opposite_counts_as_not_following(seed: int) -> None:
    assert advised(-1.0, seed).obedience == 0.0


def test_who_follows_is_expected_where_it_was_advised_to() -> None:
    follower, other = advised(1.0, 1), advised(0.0, 1)
    for stream in (follower, other):
        streams, before_ns = Streams(), stream.cadence.next_ns
        streams.advised(stream, 8 * MS)
        moved_ns = stream.cadence.next_ns - before_ns
        assert moved_ns == int(stream.obedience * 8 * MS)


def test_where_nobody_is_advised_nothing_is_learnt() -> None:
    streams = Streams()
    for turn in range(10):
        streams.arrived(request(turn * PERIOD), turn * PERIOD)
    assert streams.find(request(0)).obedience == 0.0
