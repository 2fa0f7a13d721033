"""The SDK's state machine against an oracle, under any interleaving of asking and answering."""

from __future__ import annotations

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.client.channel import SLOT_NS, Channel
from appliance.client.core import HEARTBEAT_NS, Core
from appliance.errors import Outcome, WindowFull
from appliance.wire.session import decode_observation, encode_response
from appliance.wire.types import (
    PROTOCOL_VERSION,
    Keep,
    Kind,
    Observation,
    Response,
    Timing,
)

WINDOW = 4
GIVE_UP_NS = 10_000
MS = 1_000_000


def new_core(give_up_ns: int = GIVE_UP_NS) -> Core:
    return Core(client_id="r1", client_type="sim", nonce=7, give_up_ns=give_up_ns, started_ns=0)


def ask(core: Core, channel: Channel, now_ns: int = 0) -> int:
    sequence = core.next_sequence(channel)
    observation = Observation(
        client_id="r1",
        model_id=channel.model_id,
        sequence=sequence,
        protocol_version=PROTOCOL_VERSION,
        keep=channel.keep,
    )
    core.ask(channel, observation, b"", now_ns)
    return sequence


def send(core: Core, now_ns: int = 0) -> Observation:
    outgoing = core.outgoing(now_ns)
    core.sent(outgoing, now_ns)
    return decode_observation(outgoing.envelope, len(outgoing.payload))


def answer(sequence: int, outcome: Outcome = Outcome.OK, **fields: object) -> list[bytes]:
    response = Response(
        protocol_version=PROTOCOL_VERSION, sequence=sequence, outcome=outcome, **fields
    )
    return [b"", encode_response(response), b""]


class Conversation(RuleBasedStateMachine):
    """Two models, one of each `keep`; the oracle follows each observation by its sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.core = new_core()
        self.channels = {
            Keep.LATEST: self.core.channel("latest", keep=Keep.LATEST, window=WINDOW),
            Keep.ALL: self.core.channel("all", keep=Keep.ALL, window=WINDOW),
        }
        self.now_ns = 0
        self.asked: dict[int, tuple[Keep, int]] = {}  # sequence: keep, when
        self.ended: dict[int, Outcome | None] = {}  # None: unanswered
        self.on_the_wire: list[int] = []
        self.sent: set[int] = set()
        self.withdrawn: set[int] = set()
        self.collectable: list[int] = []
        self.given: list[int] = []
        self.dropped = 0

    def open_of(self, keep: Keep) -> list[int]:
        return [s for s, (k, _) in self.asked.items() if k is keep and s not in self.ended]

    def latest_of(self, keep: Keep) -> int:
        return max((s for s, (k, _) in self.asked.items() if k is keep), default=0)

    def uncollected_of(self, keep: Keep) -> list[int]:
        return [s for s in self.collectable if self.asked[s][0] is keep]

    def drop(self, keep: Keep) -> None:
        for sequence in self.uncollected_of(keep):
            self.collectable.remove(sequence)
            self.dropped += 1

    @rule()
    def ask_latest(self) -> None:
        previous = self.latest_of(Keep.LATEST)
        if previous and previous not in self.ended and previous not in self.sent:
            self.ended[previous] = Outcome.SUPERSEDED
        while len(self.open_of(Keep.LATEST)) >= WINDOW:
            self.ended[self.open_of(Keep.LATEST)[0]] = None
        self.drop(Keep.LATEST)
        sequence = ask(self.core, self.channels[Keep.LATEST], self.now_ns)
        self.asked[sequence] = (Keep.LATEST, self.now_ns)

    @rule()
    def ask_all(self) -> None:
        held = len(self.open_of(Keep.ALL)) + len(self.uncollected_of(Keep.ALL))
        try:
            sequence = ask(self.core, self.channels[Keep.ALL], self.now_ns)
        except WindowFull:
            assert held == WINDOW
        else:
            assert held < WINDOW
            self.asked[sequence] = (Keep.ALL, self.now_ns)

    @precondition(lambda self: self.core.has_outgoing)
    @rule()
    def network_takes_all(self) -> None:
        while self.core.has_outgoing:
            message = send(self.core, self.now_ns)
            if message.kind is Kind.OBSERVE:
                assert message.sequence not in self.ended
                assert not self.sent or message.sequence > max(self.sent)
                self.sent.add(message.sequence)
                self.on_the_wire.append(message.sequence)

    @precondition(lambda self: self.on_the_wire)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), again=st.booleans())
    def appliance_answers(self, data: st.DataObject, outcome: Outcome, *, again: bool) -> None:
        sequence = data.draw(st.sampled_from(self.on_the_wire))
        if not again:
            self.on_the_wire.remove(sequence)
        keep, _ = self.asked[sequence]
        if sequence not in self.ended:
            self.ended[sequence] = outcome
            wanted = keep is Keep.ALL or sequence == self.latest_of(keep)
            if wanted and sequence not in self.withdrawn:
                self.collectable.append(sequence)
            else:
                self.dropped += 1
        self.core.receive(answer(sequence, outcome), self.now_ns, prompt=True)

    @precondition(lambda self: self.on_the_wire)
    @rule(data=st.data())
    def network_loses_one(self, data: st.DataObject) -> None:
        self.on_the_wire.remove(data.draw(st.sampled_from(self.on_the_wire)))

    @rule(sequence=st.integers(0, 100), garbage=st.binary(max_size=20))
    def nonsense_arrives(self, sequence: int, garbage: bytes) -> None:
        if sequence not in self.sent:
            self.core.receive(answer(sequence), self.now_ns, prompt=False)
        self.core.receive([garbage], self.now_ns, prompt=False)
        self.core.receive([b"", b"\xff" + garbage, b""], self.now_ns, prompt=False)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def user_cancels(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.asked)))
        self.core.cancel(self.channels[self.asked[sequence][0]], sequence)
        if sequence not in self.ended:
            if sequence in self.sent:
                self.withdrawn.add(sequence)
            else:
                self.ended[sequence] = Outcome.CANCELLED

    @rule(keep=st.sampled_from([Keep.LATEST, Keep.ALL]))
    def user_takes_latest(self, keep: Keep) -> None:
        result = self.core.take_latest(self.channels[keep])
        if result is None:
            assert self.latest_of(keep) not in self.collectable
            return
        assert result.sequence == self.latest_of(keep)
        assert result.status is self.ended[result.sequence]
        self.given.append(result.sequence)
        self.collectable.remove(result.sequence)
        self.drop(keep)

    @rule()
    def user_takes_first(self) -> None:
        waiting = self.uncollected_of(Keep.ALL)
        result = self.channels[Keep.ALL].take_first()
        assert (result and result.sequence) == (waiting[0] if waiting else None)
        if waiting:
            self.collectable.remove(waiting[0])
            self.given.append(waiting[0])

    @rule(elapsed_ns=st.sampled_from([1, GIVE_UP_NS // 2, GIVE_UP_NS]))
    def time_passes(self, elapsed_ns: int) -> None:
        self.now_ns += elapsed_ns
        self.core.tick(self.now_ns)
        for sequence, (_, asked_ns) in self.asked.items():
            if self.now_ns - asked_ns >= GIVE_UP_NS:
                self.ended.setdefault(sequence, None)

    @rule(keep=st.sampled_from([Keep.LATEST, Keep.ALL]))
    def user_ends_episode(self, keep: Keep) -> None:
        self.core.end_episode(self.channels[keep])

    @invariant()
    def every_observation_is_in_one_place(self) -> None:
        statistics = self.core.statistics()
        assert statistics.asked == len(self.asked)
        assert statistics.asked == statistics.ended + statistics.outstanding
        assert statistics.sent == len(self.sent)
        assert statistics.outstanding == len(self.asked) - len(self.ended)
        outcomes = [outcome for outcome in self.ended.values() if outcome is not None]
        assert statistics.answers == {each: outcomes.count(each) for each in outcomes}
        assert statistics.unanswered == len(self.ended) - len(outcomes)
        assert statistics.stale_dropped == self.dropped

    @invariant()
    def nothing_is_given_twice(self) -> None:
        assert len(self.given) == len(set(self.given))

    @invariant()
    def nothing_grows(self) -> None:
        for channel in self.channels.values():
            assert len(channel.held) + len(channel.answers) <= WINDOW + 1
        ends_of_episodes = 2
        assert len(self.core._line) <= 2 * WINDOW + ends_of_episodes


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)


def test_after_close_everything_is_accounted_for() -> None:
    core = new_core()
    channel = core.channel("p", keep=Keep.ALL)
    for _ in range(3):
        ask(core, channel)
    send(core)
    core.close()
    statistics = core.statistics()
    assert (statistics.asked, statistics.unanswered, statistics.outstanding) == (3, 3, 0)
    assert not core.has_outgoing


def test_local_ends_are_told_from_the_appliances() -> None:
    core = new_core()
    channel = core.channel("p")
    ask(core, channel)
    cancelled = ask(core, channel)
    core.cancel(channel, cancelled)
    statistics = core.statistics()
    assert statistics.superseded_locally == 1
    assert statistics.cancelled_locally == 1
    assert statistics.answers == {Outcome.SUPERSEDED: 1, Outcome.CANCELLED: 1}
    assert channel.status is Outcome.CANCELLED
    assert not core.has_outgoing


def test_what_is_too_old_is_given_up() -> None:
    core = new_core(give_up_ns=100)
    channel = core.channel("p", keep=Keep.ALL)
    lost = ask(core, channel, now_ns=0)
    send(core)
    ask(core, channel, now_ns=60)
    core.tick(99)
    assert core.outstanding == 2
    core.tick(100)
    assert (core.outstanding, core.statistics().unanswered) == (1, 1)
    core.receive(answer(lost), 101, prompt=True)
    assert core.statistics().unmatched == 1
    assert channel.take_first() is None


def test_under_keep_latest_the_window_gives_up_the_oldest() -> None:
    core = new_core()
    channel = core.channel("p", window=2)
    for _ in range(3):
        ask(core, channel)
        send(core)
    statistics = core.statistics()
    assert (statistics.outstanding, statistics.unanswered) == (2, 1)
    assert list(channel.held) == [2, 3]


def test_an_older_answer_is_not_kept_for_anybody() -> None:
    core = new_core()
    channel = core.channel("p")
    older = ask(core, channel)
    send(core)
    ask(core, channel)
    core.receive(answer(older, Outcome.SUPERSEDED), 0, prompt=True)
    assert channel.take(older) is None
    assert channel.take_first() is None
    assert channel.status is None
    assert core.statistics().stale_dropped == 1


def test_an_answer_to_what_was_never_sent_is_unmatched() -> None:
    core = new_core()
    channel = core.channel("p")
    sequence = ask(core, channel)
    core.receive(answer(sequence), 0, prompt=True)
    assert core.statistics().unmatched == 1
    assert core.take_latest(channel) is None
    assert core.has_outgoing


def test_cancelling_what_was_sent_tells_the_appliance_once_and_hides_the_answer() -> None:
    core = new_core()
    channel = core.channel("p")
    sequence = ask(core, channel)
    send(core)
    core.cancel(channel, sequence)
    core.cancel(channel, sequence)
    message = send(core)
    assert (message.kind, message.model_id, message.sequence) == (Kind.CANCEL, "p", sequence)
    assert not core.has_outgoing
    core.receive(answer(sequence), 0, prompt=True)
    assert core.take_latest(channel) is None
    assert core.statistics().stale_dropped == 1
    assert core.statistics().answers == {Outcome.OK: 1}


def test_end_of_episode_follows_its_observations_and_names_the_episode() -> None:
    core = new_core()
    channel = core.channel("p", keep=Keep.ALL)
    channel.episode = 5
    ask(core, channel)
    core.end_episode(channel)
    first, second = send(core), send(core)
    assert first.kind is Kind.OBSERVE
    assert (second.kind, second.episode) == (Kind.END_EPISODE, 5)
    assert channel.episode == 6


def test_what_was_sent_is_not_held_any_longer() -> None:
    core = new_core()
    channel = core.channel("p")
    observation = Observation(model_id="p", sequence=core.next_sequence(channel))
    payload = bytes(bytearray(1000))
    core.ask(channel, observation, payload, 0)
    outgoing = core.outgoing(0)
    assert outgoing.payload is payload
    core.sent(outgoing, 0)
    assert channel.held[observation.sequence].payload == b""


def test_waiting_adds_to_the_age() -> None:
    core = new_core(give_up_ns=1 << 62)
    channel = core.channel("p")
    sequence = core.next_sequence(channel)
    observation = Observation(model_id="p", sequence=sequence, age_us=300, protocol_version=1)
    core.ask(channel, observation, b"", 0)
    assert decode_observation(core.outgoing(MS - 1).envelope, 0).age_us == 300
    assert decode_observation(core.outgoing(7 * MS).envelope, 0) == evolve(observation, age_us=7300)


def test_a_silent_second_sends_one_heartbeat() -> None:
    core = new_core()
    core.tick(HEARTBEAT_NS - 1)
    assert not core.has_outgoing
    core.tick(HEARTBEAT_NS)
    core.tick(HEARTBEAT_NS + 1)
    message = send(core, HEARTBEAT_NS + 2)
    assert message.kind is Kind.HEARTBEAT
    assert message.wants_status
    assert not core.has_outgoing
    core.tick(2 * HEARTBEAT_NS + 1)
    assert not core.has_outgoing


def test_an_observation_stands_for_a_heartbeat() -> None:
    core = new_core()
    ask(core, core.channel("p"))
    send(core, HEARTBEAT_NS)
    core.tick(HEARTBEAT_NS + 1)
    assert not core.has_outgoing


def test_an_answered_heartbeat_is_heard_and_counts_nowhere() -> None:
    core = new_core()
    core.receive(answer(1, kind=Kind.HEARTBEAT), 77, prompt=True)
    assert core.last_heard_ns == 77
    statistics = core.statistics()
    assert (statistics.asked, statistics.unmatched, statistics.bad_answers) == (0, 0, 0)


def test_garbage_is_not_hearing_the_appliance() -> None:
    core = new_core()
    core.receive([b"", b"\xff", b""], 77, prompt=True)
    assert core.last_heard_ns is None


def test_round_trip_is_what_the_appliance_did_not_need() -> None:
    core = new_core(give_up_ns=1 << 62)
    channel = core.channel("p")
    sequence = ask(core, channel)
    send(core, 5 * MS)
    core.receive(answer(sequence, timing=Timing(total_us=20_000)), 28 * MS, prompt=True)
    assert core.statistics().round_trip_us == 3000


def test_a_refused_description_says_why() -> None:
    core = new_core()
    channel = core.channel("p")
    core.specs.describe(channel, "3")
    message = send(core)
    assert (message.kind, message.model_version) == (Kind.DESCRIBE, "3")
    core.receive(
        answer(message.sequence, Outcome.UNKNOWN_MODEL, message="served: q", kind=Kind.DESCRIBE),
        0,
        prompt=True,
    )
    assert channel.describing == 0
    assert channel.spec is None
    assert (channel.status, channel.message) == (Outcome.UNKNOWN_MODEL, "served: q")


def test_only_the_last_description_asked_for_counts() -> None:
    core = new_core()
    channel = core.channel("p")
    core.specs.describe(channel)
    stale = send(core).sequence
    core.specs.describe(channel)
    core.receive(answer(stale, kind=Kind.DESCRIBE), 0, prompt=True)
    assert channel.describing
    assert core.statistics().unmatched == 1


def test_two_are_on_the_wire_and_the_newest_waits_here() -> None:
    core = new_core(give_up_ns=10**12)
    channel = core.channel("p")
    for _ in range(2):
        ask(core, channel)
        send(core)
    third, fourth = ask(core, channel), ask(core, channel)
    assert not core.has_outgoing
    assert channel.waiting is not None
    assert channel.waiting.observation.sequence == fourth
    assert core.statistics().superseded_locally == 1
    assert third not in channel.held
    core.receive(answer(1, Outcome.SUPERSEDED), 5, prompt=True)
    assert send(core).sequence == fourth
    assert not core.has_outgoing


def test_what_waits_here_can_be_cancelled_and_given_up() -> None:
    core = new_core()
    channel = core.channel("p")
    for _ in range(2):
        ask(core, channel)
        send(core)
    core.cancel(channel, ask(core, channel))
    assert channel.waiting is None
    assert core.statistics().cancelled_locally == 1
    ask(core, channel)
    core.close()
    assert core.statistics().unanswered == 3
    assert core.outstanding == 0


def test_answers_that_never_come_do_not_stop_what_follows() -> None:
    core = new_core(give_up_ns=10**12)
    channel = core.channel("p")
    for _ in range(2):
        ask(core, channel)
        send(core)
    waiting = ask(core, channel)
    core.tick(SLOT_NS - 1)
    assert not core.has_outgoing
    core.tick(SLOT_NS)
    assert core.outgoing(SLOT_NS).key == waiting


def test_a_lost_connection_frees_the_wire() -> None:
    core = new_core(give_up_ns=10**12)
    channel = core.channel("p")
    for _ in range(2):
        ask(core, channel)
        send(core)
    core.lost()
    assert send_after(core, ask(core, channel))


def send_after(core: Core, sequence: int) -> bool:
    return send(core).sequence == sequence


def test_keep_all_is_bound_by_its_window_alone() -> None:
    core = new_core(give_up_ns=10**12)
    channel = core.channel("p", keep=Keep.ALL, window=10)
    for _ in range(10):
        ask(core, channel)
        send(core)
    assert not channel.on_wire
