"""A recording sees what happens, on the fast path as on the slow one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.core import WORKER, Core
from support.pair import BARE, CAMERA, FORMS, SPEC, STATE, Pair, payload_of

from appliance.errors import Outcome
from appliance.recording.buffers import Record, Ring
from appliance.recording.capture import LARGE_BYTES, Capture
from appliance.recording.messages import MESSAGES, Topic, encode
from appliance.sessions import fastpath
from appliance.wire.pb import recording_pb2
from appliance.wire.session import encode_observation
from appliance.wire.types import DType, Keep, Kind, Observation
from appliance.workers.events import WorkerDown


class Watched:
    """A core and what is taken down of it."""

    def __init__(self, core: Core, *, images: bool = True) -> None:
        self.core = core
        self.ring = Ring(10**18, 1 << 30, images=images)
        self.misses: list[int] = []
        self.lost: list[int] = []
        self.capture = Capture(on_miss=self.misses.append, on_worker_lost=self.lost.append)
        self.capture.sinks.append(self.ring)
        core.dispatcher.endings.witness = self.capture

    def records(self) -> list[Record]:
        return self.ring.recent(self.core.now_ns)

    def messages(self, topic: Topic) -> list[Any]:
        encoded = [encode(r, images=True) for r in self.records() if r[0] == topic]
        return [MESSAGES[topic].FromString(each) for each in encoded if each is not None]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC)) as core:
        yield Watched(core)


@pytest.mark.skipif(bool(fastpath.missing), reason=fastpath.missing)
async def test_both_paths_are_seen_alike(tmp_path: Path) -> None:
    with closing(Pair(tmp_path)) as pair:
        both = [Watched(core) for core in pair]
        for number in range(30):
            form = FORMS[number % 5]  # the last is of the old wire, which is answered last
            observation = evolve(form, sequence=number, keep=Keep.ALL)
            pair.ask(observation, payload_of(observation, number))
            if number % 5 == 4:
                pair.finish()
        pair.ask(evolve(BARE, model_id="nobody"), payload_of(BARE))
        pair.finish()
        pair.check()
        assert pair.fast.fast > 5
        for topic in Topic:
            fast, slow = (each.messages(topic) for each in both)
            assert fast == slow, topic
        assert len(both[0].messages(Topic.OBSERVATIONS)) == 31
        assert len(both[0].messages(Topic.OUTCOMES)) == 31
        assert both[0].messages(Topic.BATCHES)


async def test_an_answer_is_recorded_with_its_outputs_and_its_batch(watched: Watched) -> None:
    for number in (1, 2, 3):
        observation = evolve(BARE, sequence=number, keep=Keep.ALL)
        watched.core.ask(b"arm-3", b"", encode_observation(observation), payload_of(BARE, number))
    while watched.core.finish():
        pass
    outcomes = watched.messages(Topic.OUTCOMES)
    assert [each.sequence for each in outcomes] == [1, 2, 3]
    assert [each.payload for each in outcomes] == [payload_of(BARE, n) for n in (1, 2, 3)]
    assert {each.outcome for each in outcomes} == {Outcome.OK}
    assert {each.client for each in outcomes} == {"arm-3"}
    batches = {each.id: each for each in watched.messages(Topic.BATCHES)}
    assert {each.batch_id for each in outcomes} <= batches.keys()
    for batch in batches.values():
        assert batch.end == recording_pb2.Batch.FINISHED
        assert batch.worker == WORKER.slot
        assert batch.staged_ns <= batch.started_ns <= batch.finished_ns <= batch.ended_ns


async def test_a_miss_and_a_lost_worker_are_noticed(watched: Watched) -> None:
    for number in range(1, 8):  # one is started, and one staged; of the others the last waits
        observation = evolve(BARE, sequence=number)
        watched.core.ask(b"arm-3", b"", encode_observation(observation), payload_of(BARE))
    assert watched.misses
    assert watched.lost == []
    watched.core.dispatcher.on_pool_event(WorkerDown(WORKER, "killed by signal 9"))
    assert len(watched.lost) == 1
    (down,) = watched.messages(Topic.WORKERS)
    assert (down.event, down.message) == (recording_pb2.Worker.DOWN, "killed by signal 9")
    ends = [batch.end for batch in watched.messages(Topic.BATCHES)]
    assert recording_pb2.Batch.LOST in ends


async def test_large_images_are_left_out_at_once(tmp_path: Path) -> None:
    side = 64
    camera = evolve(CAMERA, shape=(side, side, 3), length=side * side * 3)
    observation = evolve(BARE, tensors=(STATE, camera))
    payload = payload_of(observation)
    assert len(payload) > LARGE_BYTES
    with closing(Core(f"ipc://{tmp_path}/door", SPEC)) as core:
        slim = Watched(core, images=False)
        whole = Ring(10**18, 1 << 30)
        slim.capture.sinks.append(whole)
        core.ask(b"arm-3", b"", encode_observation(observation), payload)
        (without, *_), (with_it, *_) = slim.records(), whole.recent(core.now_ns)
    assert bytes(without[3][2]) == payload[: STATE.length]
    assert without[3][4] == ("camera",)
    assert without[2] < LARGE_BYTES < with_it[2]
    assert bytes(with_it[3][2]) == payload


async def test_outputs_that_are_too_large_are_left_out_and_it_says_so(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.recording.capture.LARGEST_OUTPUT_BYTES", 15)
    for number in (1, 2):
        observation = evolve(BARE, sequence=number, keep=Keep.ALL)
        watched.core.ask(b"arm-3", b"", encode_observation(observation), payload_of(BARE))
    old = Observation(client_id="x", model_id="policy", tensors=(STATE,))
    watched.core.ask(b"old", b"", encode_observation(old), payload_of(BARE))
    while watched.core.finish():
        pass
    outcomes = watched.messages(Topic.OUTCOMES)
    assert [each.payload_omitted for each in outcomes] == [True] * 3
    assert {each.payload for each in outcomes} == {b""}
    assert {tensor.dtype for each in outcomes for tensor in each.tensors} == {DType.UINT8}


async def test_what_nobody_could_read_is_recorded_too(watched: Watched) -> None:
    watched.core.ask(b"arm-3", b"", b"\xff" * 9, b"payload")
    (message,) = watched.messages(Topic.OBSERVATIONS)
    assert (message.unreadable, message.payload) == (b"\xff" * 9, b"")
    (outcome,) = watched.messages(Topic.OUTCOMES)
    assert outcome.outcome == Outcome.INVALID


async def test_control_messages_are_recorded_if_they_change_something(watched: Watched) -> None:
    for number, kind in enumerate(Kind, 1):
        message = evolve(BARE, kind=kind, sequence=number, tensors=())
        watched.core.ask(b"arm-3", b"", encode_observation(message), b"")
    kinds = {message.envelope.kind for message in watched.messages(Topic.OBSERVATIONS)}
    assert kinds == {Kind.OBSERVE, Kind.CANCEL, Kind.END_EPISODE}
