"""Who is there."""

from __future__ import annotations

import pytest
from attrs import evolve

from appliance.errors import MISSES, Outcome
from appliance.sessions.document import client_counts, client_documents
from appliance.sessions.table import SECOND_NS, Session, SessionTable
from appliance.wire.spec import ModelSpec
from appliance.wire.tensors import DAY_US
from appliance.wire.types import Observation

MS = 1_000_000
NEW = Observation(client_id="arm-3", client_type="arm", protocol_version=1)
OLD = Observation(client_id="arm-3", client_type="arm")
CHUNK = ModelSpec("policy", "1", (), (), horizon=8, step_period_us=20_000)


def table(max_sessions: int = 100) -> SessionTable:
    return SessionTable(max_sessions, 10 * SECOND_NS)


def session(observation: Observation = NEW) -> Session:
    return table().seen(b"id", observation, SECOND_NS)


def test_a_connection_has_one_session() -> None:
    sessions = table()
    first = sessions.seen(b"a", NEW, 1)
    assert sessions.seen(b"a", NEW, 2) is first
    assert sessions.find(b"a") is first
    assert sessions.find(b"b") is None
    assert (first.first_seen_ns, first.last_seen_ns, len(sessions)) == (1, 2, 1)


def test_a_client_is_who_it_says_and_on_the_old_wire_its_routing_id() -> None:
    sessions = table()
    assert sessions.seen(b"\x00\x01", NEW, 1).client == "arm-3"
    assert sessions.seen(b"robot-7", OLD, 1).client == "robot-7"
    assert sessions.seen(b"\xff\x00r", OLD, 1).client == "\\xff\x00r"
    assert sessions.seen(b"nameless", Observation(protocol_version=1), 1).client == "nameless"


def test_two_connections_may_be_one_client() -> None:
    sessions = table()
    assert sessions.seen(b"a", NEW, 1) is not sessions.seen(b"b", NEW, 1)
    assert {session.client for session in sessions} == {"arm-3"}


def test_a_client_whose_first_message_was_garbage_says_who_it_is_with_the_next() -> None:
    sessions = table()
    unread = sessions.seen(b"a", Observation(), 1)
    assert unread.client == "a"
    named = sessions.seen(b"a", NEW, 2)
    assert named is unread
    assert (named.client, named.client_type, named.protocol) == ("arm-3", "arm", 1)
    again = sessions.seen(b"a", Observation(client_id="other", protocol_version=1), 3)
    assert again.client == "arm-3"


def test_cadence_and_jitter_are_learnt_from_arrivals() -> None:
    robot = session()
    for n in range(200):
        robot.observed(NEW, SECOND_NS + n * 20 * MS)
    assert robot.period_ns == pytest.approx(20 * MS)
    assert robot.jitter_ns == pytest.approx(0, abs=1)
    for n in range(200):
        robot.observed(NEW, robot.last_observation_ns + (30 if n % 2 else 10) * MS)
    assert robot.period_ns == pytest.approx(20 * MS, rel=0.05)
    assert robot.jitter_ns == pytest.approx(10 * MS, rel=0.1)
    assert robot.observations == 400


def test_one_observation_has_no_cadence() -> None:
    robot = session()
    robot.observed(NEW, SECOND_NS)
    assert robot.period_ns == 0


def test_a_silence_that_ended_is_no_part_of_the_cadence() -> None:
    sessions = table()
    for at_ns in (1 * SECOND_NS, 2 * SECOND_NS):
        sessions.seen(b"a", NEW, at_ns).observed(NEW, at_ns)
    sessions.expire(100 * SECOND_NS)
    for at_ns in (100 * SECOND_NS, 101 * SECOND_NS):
        robot = sessions.seen(b"a", NEW, at_ns)
        robot.observed(NEW, at_ns)
    assert robot.period_ns == SECOND_NS
    assert not robot.silent


def test_it_knows_when_the_robot_runs_dry() -> None:
    robot = session()
    robot.observed(Observation(steps_remaining=3, step_period_us=20_000, age_us=5_000), SECOND_NS)
    assert robot.dry_ns == SECOND_NS + 55 * MS
    robot.observed(Observation(steps_remaining=3), SECOND_NS)
    assert robot.dry_ns == SECOND_NS + 55 * MS
    said = {"steps_remaining": 2**32 - 1, "step_period_us": DAY_US, "round_trip_us": 4_000}
    robot.observed(Observation(**said), SECOND_NS)
    assert robot.dry_ns == SECOND_NS + DAY_US * 1000 - 2 * MS


def test_a_chunk_that_was_sent_has_it_run_dry_later_never_sooner() -> None:
    robot = session()
    asked = Observation(steps_remaining=1, step_period_us=20_000, age_us=5_000)
    robot.observed(asked, SECOND_NS)
    robot.supplied(asked, SECOND_NS, CHUNK)
    assert robot.dry_ns == SECOND_NS + 155 * MS
    robot.supplied(asked, SECOND_NS - 50 * MS, CHUNK)  # an older one, answered later
    assert robot.dry_ns == SECOND_NS + 155 * MS
    robot.observed(asked, SECOND_NS + 100 * MS)  # it forgot the rest: its own word counts
    assert robot.dry_ns == SECOND_NS + 115 * MS


def test_an_answer_that_is_no_chunk_says_nothing() -> None:
    robot = session()
    robot.supplied(NEW, SECOND_NS, evolve(CHUNK, horizon=0))
    robot.supplied(NEW, SECOND_NS, evolve(CHUNK, step_period_us=0))
    assert robot.dry_ns is None
    robot.supplied(evolve(NEW, step_period_us=10_000), SECOND_NS, evolve(CHUNK, step_period_us=0))
    assert robot.dry_ns == SECOND_NS + 80 * MS


def test_outcomes_are_counted() -> None:
    robot = session()
    robot.ended(Outcome.OK, late=False)
    robot.ended(Outcome.OK, late=True)
    robot.ended(Outcome.SUPERSEDED, late=False)
    robot.ended(Outcome.INVALID, late=False)
    assert (robot.answered, robot.late, robot.misses) == (2, 1, 1)
    assert robot.last_outcome is Outcome.INVALID


def test_the_slack_is_that_of_the_last_answer() -> None:
    robots = table()
    robot = robots.seen(b"a", NEW, 0)
    assert [c["slack_ms"] for c in client_documents(robots, lambda _: 1, {}, 0)] == [None]
    robot.ended(Outcome.OK, late=False, slack_us=12_340)
    robot.ended(Outcome.OK, late=True, slack_us=-1_230)
    robot.ended(Outcome.EXPIRED, late=False)
    assert [c["slack_ms"] for c in client_documents(robots, lambda _: 1, {}, 0)] == [-1.23]


def test_who_is_connected_may_be_overdue() -> None:
    robots = table()
    for name in (b"a", b"b", b"c"):
        robots.seen(name, OLD, 0)
    robots.mark_silent(robots.seen(b"c", OLD, 0))
    overdue_ns = {"b": 12_340_000, "c": 1}

    def overdue_ms() -> list[float | None]:
        return [c["overdue_ms"] for c in client_documents(robots, lambda _: 1, overdue_ns, 0)]

    assert overdue_ms() == [None, 12.3, None]
    robots.seen(b"b", OLD, 0).observed(OLD, 0)
    assert overdue_ms() == [None, None, None], "it waits for an answer"


def test_who_runs_dry_first_is_known_of_those_that_ask_for_more() -> None:
    robots = table()
    assert client_counts(robots, 0)["first_dry"] is None
    for name, left_ms in ((b"a", 90), (b"b", 30), (b"c", 10), (b"d", None)):
        robot = robots.seen(name, OLD, SECOND_NS)
        robot.observed(OLD, SECOND_NS)
        robot.dry_ns = None if left_ms is None else SECOND_NS + left_ms * MS

    def first(at_ms: float) -> tuple[str, float]:
        found = client_counts(robots, SECOND_NS + round(at_ms * MS))["first_dry"]
        assert found is not None
        return found["id"], found["runs_dry_in_ms"]

    a, b, c, _ = robots
    assert first(0.5) == ("c", 9.5)
    assert first(20) == ("c", -10)  # waits for its answer
    c.ended(Outcome.OK, late=False)
    assert first(9) == ("c", 1)
    assert first(20) == ("b", 10)  # has stopped asking
    robots.mark_silent(b)
    assert first(20) == ("a", 70)
    b.silent = False
    b.ended(Outcome.EXPIRED, late=False)
    assert first(40) == ("b", -10)
    assert a.dry_ns is not None


def test_what_a_client_brings_upon_itself_is_no_miss() -> None:
    own = {Outcome.INVALID, Outcome.TOO_LARGE, Outcome.RATE_LIMITED, Outcome.CANCELLED, Outcome.OK}
    assert not MISSES & own


def test_a_silent_client_is_gone_once_and_back_when_it_speaks() -> None:
    sessions = table()
    robot = sessions.seen(b"a", NEW, 0)
    other = sessions.seen(b"b", NEW, 5 * SECOND_NS)
    assert sessions.expire(10 * SECOND_NS) == []
    assert sessions.expire(10 * SECOND_NS + 1) == [robot]
    assert sessions.expire(11 * SECOND_NS) == []
    assert (sessions.gone, sessions.connected(), robot.silent, other.silent) == (1, 1, True, False)
    sessions.seen(b"a", NEW, 12 * SECOND_NS)
    assert (sessions.connected(), robot.silent) == (2, False)
    assert sessions.expire(13 * SECOND_NS) == []


def test_whoever_was_seen_again_is_not_gone_with_those_before() -> None:
    sessions = table()
    robots = {name: sessions.seen(name, NEW, 0) for name in (b"a", b"b", b"c")}
    sessions.seen(b"a", NEW, 5 * SECOND_NS)
    assert sessions.expire(11 * SECOND_NS) == [robots[b"b"], robots[b"c"]]


def test_beyond_the_limit_the_longest_silent_is_forgotten() -> None:
    sessions = table(max_sessions=2)
    robots = [sessions.seen(name, NEW, at) for at, name in enumerate((b"a", b"b", b"c"))]
    sessions.seen(b"a", NEW, 4)
    assert sessions.expire(5) == [robots[1]]
    assert sessions.find(b"b") is None
    assert (len(sessions), sessions.gone) == (2, 1)


def test_whoever_was_forgotten_is_not_gone_a_second_time() -> None:
    sessions = table(max_sessions=1)
    robot = sessions.seen(b"a", NEW, 0)
    sessions.seen(b"b", NEW, 1)
    assert sessions.expire(2) == [robot]
    assert not sessions.mark_silent(robot)  # the door finds its connection gone, too
    assert sessions.gone == 1


def test_a_broken_connection_is_news_once() -> None:
    sessions = table()
    robot = sessions.seen(b"a", NEW, 0)
    assert sessions.mark_silent(robot)
    assert not sessions.mark_silent(robot)
    assert (sessions.gone, sessions.connected()) == (1, 0)
    assert sessions.expire(20 * SECOND_NS) == []
