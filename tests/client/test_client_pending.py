"""Observations whose images are compressed first, under any interleaving: order, ends, bounds."""

from __future__ import annotations

from collections import Counter

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_client_core import answer, new_core, send

from appliance.client.channel import SLOTS, Channel
from appliance.client.core import Core
from appliance.client.images import Done, Job
from appliance.client.specs import ANSWER_NS
from appliance.errors import Outcome, WindowFull
from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import PROTOCOL_VERSION, DType, Keep, Kind, Observation, Tensor

WINDOW = 8
FOREVER_NS = 10**15
MADE = (Tensor("camera", DType.UINT8, (4,), 0, 4),)


def ask(core: Core, channel: Channel, *, image: bool, now_ns: int = 0) -> int:
    sequence = core.next_sequence(channel)
    observation = Observation(
        client_id="r1",
        model_id=channel.model_id,
        sequence=sequence,
        episode=channel.episode,
        protocol_version=PROTOCOL_VERSION,
    )
    job = Job(channel.model_id, sequence, (), (), b"", 0) if image else None
    core.ask(channel, observation, b"", now_ns, job)
    return sequence


def made(job: Job) -> Done:
    return Done(job.model_id, job.sequence, MADE, b"jpeg")


def failed(job: Job) -> Done:
    return Done(job.model_id, job.sequence, error="'camera': broken")


class Encoding(RuleBasedStateMachine):
    """A model of each `keep`; the encoder is slow, and fails now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.core = new_core(FOREVER_NS)
        self.channels = {
            keep: self.core.channel(keep.name, keep=keep, window=WINDOW)
            for keep in (Keep.LATEST, Keep.ALL)
        }
        self.in_hand: list[Job] = []
        self.asked: dict[int, bool] = {}  # sequence: with an image
        self.sent: dict[str, list[Observation]] = {"LATEST": [], "ALL": []}
        self.unanswered: list[int] = []
        self.failures = 0

    @rule(keep=st.sampled_from([Keep.LATEST, Keep.ALL]), image=st.booleans())
    def observe(self, keep: Keep, *, image: bool) -> None:
        channel = self.channels[keep]
        try:
            self.asked[ask(self.core, channel, image=image)] = image
        except WindowFull:
            assert keep is Keep.ALL

    @rule()
    def hand_over(self) -> None:
        self.in_hand += self.core.jobs(0)

    @precondition(lambda self: self.in_hand)
    @rule(fails=st.booleans(), which=st.integers(0, 1))
    def finish(self, *, fails: bool, which: int) -> None:
        job = self.in_hand.pop(which % len(self.in_hand))
        before = self.core.ledger.encoding_failed
        self.core.encoded(failed(job) if fails else made(job), 0)
        self.core.tick(0)
        self.failures += self.core.ledger.encoding_failed - before

    @precondition(lambda self: self.core.has_outgoing)
    @rule()
    def network_takes_one(self) -> None:
        message = send(self.core)
        if message.kind in (Kind.OBSERVE, Kind.END_EPISODE):
            self.sent[message.model_id].append(message)
        if message.kind is Kind.OBSERVE:
            self.unanswered.append(message.sequence)
            assert bool(message.tensors) == self.asked[message.sequence]

    @precondition(lambda self: self.unanswered)
    @rule()
    def answer_one(self) -> None:
        self.core.receive(answer(self.unanswered.pop(0)), 0, prompt=True)

    @rule(keep=st.sampled_from([Keep.LATEST, Keep.ALL]), data=st.data())
    def cancel(self, keep: Keep, data: st.DataObject) -> None:
        channel = self.channels[keep]
        if channel.held:
            self.core.cancel(channel, data.draw(st.sampled_from(sorted(channel.held))))

    @rule(keep=st.sampled_from([Keep.LATEST, Keep.ALL]))
    def end_episode(self, keep: Keep) -> None:
        self.core.end_episode(self.channels[keep])

    @rule()
    def collect(self) -> None:
        for channel in self.channels.values():
            while channel.take_first() is not None:
                pass

    @invariant()
    def order_is_kept_and_nothing_is_of_an_episode_that_is_over(self) -> None:
        for messages in self.sent.values():
            sequences = [message.sequence for message in messages]
            assert sequences == sorted(sequences)
            episodes = [message.episode for message in messages]
            assert episodes == sorted(episodes)

    @invariant()
    def the_encoder_has_one_of_each_model(self) -> None:
        assert max(Counter(job.model_id for job in self.in_hand).values(), default=0) <= 1

    @invariant()
    def few_wait_under_latest(self) -> None:
        # One that can be sent, one in the encoder's hands, one behind it.
        assert len(self.channels[Keep.LATEST].unsent) <= 3

    @invariant()
    def the_books_balance(self) -> None:
        statistics = self.core.statistics()
        assert statistics.asked == len(self.asked)
        assert statistics.asked == statistics.ended + statistics.outstanding
        assert statistics.answers.get(Outcome.INVALID, 0) == self.failures

    def teardown(self) -> None:
        """Given time, everything ends."""
        for _ in range(4 * WINDOW):
            self.hand_over()
            while self.in_hand:
                self.core.encoded(made(self.in_hand.pop()), 0)
            self.core.tick(0)
            while self.core.has_outgoing:
                self.network_takes_one()
            while self.unanswered:
                self.answer_one()
        assert self.core.outstanding == 0
        assert not self.core.jobs(0)


TestEncoding = Encoding.TestCase
TestEncoding.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_who_observes_faster_than_images_are_compressed_still_sends() -> None:
    core = new_core(FOREVER_NS)
    channel = core.channel("p", keep=Keep.LATEST)
    sequences = [ask(core, channel, image=True)]
    (job,) = core.jobs(0)
    for _ in range(3):
        sequences.append(ask(core, channel, image=True))
        assert core.jobs(0) == []
    assert core.statistics().superseded_locally == 2
    core.encoded(made(job), 0)
    core.tick(0)
    assert send(core).sequence == sequences[0]
    (job,) = core.jobs(0)
    core.encoded(made(job), 0)
    core.tick(0)
    assert send(core).sequence == sequences[-1]


def test_what_needs_no_compressing_replaces_what_does() -> None:
    core = new_core(FOREVER_NS)
    channel = core.channel("p", keep=Keep.LATEST)
    ask(core, channel, image=True)
    (job,) = core.jobs(0)
    newest = ask(core, channel, image=False)
    assert send(core).sequence == newest
    core.encoded(made(job), 0)
    core.tick(0)
    assert not core.has_outgoing
    assert core.statistics().superseded_locally == 1


def test_a_failed_image_ends_its_observation_and_says_which() -> None:
    core = new_core(FOREVER_NS)
    channel = core.channel("p", keep=Keep.LATEST)
    sequence = ask(core, channel, image=True, now_ns=5)
    (job,) = core.jobs(5)
    core.encoded(failed(job), 12)
    result = core.take_latest(channel)
    assert result is not None
    assert (result.sequence, result.status, result.elapsed_ns) == (sequence, Outcome.INVALID, 7)
    assert (channel.status, channel.message) == (Outcome.INVALID, "'camera': broken")
    assert not core.has_outgoing
    statistics = core.statistics()
    assert (statistics.encoding_failed, statistics.outstanding) == (1, 0)


def test_its_age_counts_from_the_asking() -> None:
    core = new_core(FOREVER_NS)
    channel = core.channel("p")
    ask(core, channel, image=True)
    (job,) = core.jobs(0)
    core.encoded(made(job), 7_000_000)
    core.tick(7_000_000)
    assert send(core, 9_000_000).age_us == 9000


# --------------------------------------------------------------- what the model takes

SPEC = ModelSpec("p", "1", (InputSpec("x", "camera", DType.UINT8, (-1, -1, 3), (2, 2, 3)),), ())


def learning() -> tuple[Core, Channel]:
    core = new_core(FOREVER_NS)
    channel = core.channel("p", keep=Keep.LATEST)
    core.specs.learn(channel)
    ask(core, channel, image=True)
    return core, channel


def test_images_wait_for_what_the_model_takes() -> None:
    core, _ = learning()
    assert core.jobs(0) == []
    asked = send(core)
    assert asked.kind is Kind.DESCRIBE
    core.receive(answer(asked.sequence, kind=Kind.DESCRIBE, spec=SPEC), 1, prompt=True)
    (job,) = core.jobs(1)
    assert job.inputs["camera"].shape == (-1, -1, 3)


@pytest.mark.parametrize("outcome", [Outcome.LOADING, Outcome.UNKNOWN_MODEL])
def test_a_refusal_to_say_it_is_not_the_observations_own(outcome: Outcome) -> None:
    core, channel = learning()
    core.receive(answer(send(core).sequence, outcome, kind=Kind.DESCRIBE), 1, prompt=True)
    assert channel.status is None
    (job,) = core.jobs(1)
    assert job.inputs == {}


def test_an_appliance_that_never_says_it_is_not_waited_for() -> None:
    core, _ = learning()
    assert core.jobs(FOREVER_NS - 1) == []  # not asked yet: the link may be down
    send(core, 7)
    assert core.jobs(7 + ANSWER_NS - 1) == []
    assert len(core.jobs(7 + ANSWER_NS)) == 1


def test_another_version_or_connection_is_asked_anew_meanwhile_the_known_holds() -> None:
    core, channel = learning()
    core.receive(answer(send(core).sequence, kind=Kind.DESCRIBE, spec=SPEC), 1, prompt=True)
    core.encoded(made(core.jobs(1)[0]), 1)
    core.tick(1)
    observed = send(core, 1)
    core.receive(answer(observed.sequence, model_version="1"), 2, prompt=True)
    assert not core.has_outgoing
    ask(core, channel, image=False)
    core.receive(answer(send(core).sequence, model_version="2"), 2, prompt=True)
    again = send(core)
    assert again.kind is Kind.DESCRIBE
    second = evolve(SPEC, version="2", inputs=())
    core.receive(answer(again.sequence, kind=Kind.DESCRIBE, spec=second), 2, prompt=True)
    core.lost()
    assert send(core).kind is Kind.DESCRIBE
    ask(core, channel, image=True)
    assert core.jobs(2)[0].inputs == {}


def test_a_user_who_asks_is_told_and_so_are_the_images() -> None:
    core, channel = learning()
    core.specs.describe(channel)
    asked = send(core)  # the only one in the line
    assert not core.has_outgoing
    core.receive(answer(asked.sequence, kind=Kind.DESCRIBE, spec=SPEC), 1, prompt=True)
    assert channel.describing == 0
    assert channel.spec is not None
    assert len(core.jobs(1)) == 1


def test_a_user_whose_question_was_lost_is_told_by_the_next_connection() -> None:
    core, channel = learning()
    core.specs.describe(channel)
    send(core)
    core.lost()
    core.receive(answer(send(core).sequence, kind=Kind.DESCRIBE, spec=SPEC), 1, prompt=True)
    assert channel.describing == 0
    assert channel.spec is not None
    assert len(core.jobs(1)) == 1


def test_slots_hold_for_images_too_and_the_newest_takes_the_next() -> None:
    core = new_core(FOREVER_NS)
    channel = core.channel("p", keep=Keep.LATEST)
    for _ in range(SLOTS + 2):
        newest = ask(core, channel, image=True)
        core.encoded(made(core.jobs(0)[0]), 0)
        core.tick(0)
        if core.has_outgoing:
            send(core)
    assert len(channel.on_wire) == SLOTS
    assert core.statistics().superseded_locally == 1
    assert core.outstanding == SLOTS + 1
    core.receive(answer(min(channel.on_wire)), 0, prompt=True)
    assert send(core).sequence == newest
