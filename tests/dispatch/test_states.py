"""A state lives as long as its episode, its memory as long as a worker may read it."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.admission.tensors import Feed
from appliance.dispatch.memory import Memory
from appliance.dispatch.states import MAX_EPISODES
from appliance.dispatch.ticket import StateKey, Ticket
from appliance.errors import Outcome, Rejected
from appliance.wire.spec import ModelSpec
from appliance.wire.types import DType, Encoding, Observation
from appliance.workers.arena import Arena

SPEC = ModelSpec("voice", "1", (), (), state_bytes=(1024,))
KEY: StateKey = (b"session", "voice", 1)
SHARE = 1 << 20


@pytest.fixture
def memory() -> Memory:
    return Memory(Arena(1 << 20))


def ticket(memory: Memory, key: StateKey = KEY) -> Ticket:
    made = Ticket(
        door=None,  # type: ignore[arg-type]
        route=None,
        session=key[0],
        client="robot",
        observation=Observation(),
        received_ns=0,
    )
    made.spec = SPEC
    made.state_key = key
    data = np.zeros(8, np.float32).tobytes()
    memory.store(made, [Feed(data, DType.FLOAT32, Encoding.RAW, (8,))], SHARE)
    return made


def step(memory: Memory, key: StateKey = KEY) -> None:
    """One request that succeeds."""
    running = ticket(memory, key)
    state = memory.states.start(key, running)
    memory.hold([running])
    memory.states.keep(key, running)
    memory.end(running)
    memory.release([running])
    if state is not None:
        memory.states.release(state)


def used(memory: Memory) -> int:
    return memory.arena.allocator.statistics().blocks


def test_each_step_starts_from_what_the_last_one_left(memory: Memory) -> None:
    assert memory.states.start(KEY, ticket(memory)) is None
    step(memory)
    first = memory.states.start(KEY, ticket(memory))
    assert first is not None
    assert len(first.blocks) == 1


def test_a_state_that_a_worker_may_read_is_not_reused_when_its_episode_ends(
    memory: Memory,
) -> None:
    step(memory)
    staged = ticket(memory)
    state = memory.states.start(KEY, staged)
    assert state is not None
    before = used(memory)
    memory.states.forget_episode(KEY)
    assert used(memory) == before, "its memory is somebody else's while a worker still reads it"
    memory.states.release(state)
    assert used(memory) == before - 1


def test_what_runs_when_its_episode_ends_leaves_no_state(memory: Memory) -> None:
    running = ticket(memory)
    memory.states.start(KEY, running)
    memory.hold([running])
    memory.states.forget_session(KEY[0])
    memory.states.keep(KEY, running)
    memory.end(running)
    memory.release([running])
    assert used(memory) == 0
    assert memory.states.start(KEY, ticket(memory)) is None


def test_only_so_many_episodes_are_remembered(memory: Memory) -> None:
    for episode in range(2 * MAX_EPISODES):
        step(memory, (b"session", "voice", episode))
    assert used(memory) == MAX_EPISODES
    memory.states.forget_session(b"session")
    assert used(memory) == 0


def test_a_row_that_can_never_fit_is_too_large_and_not_told_to_come_again(memory: Memory) -> None:
    asked = ticket(memory)
    memory.end(asked)
    data = bytes(8192)
    with pytest.raises(Rejected) as refused:
        memory.store(asked, [Feed(data, DType.UINT8, Encoding.RAW, (8192,))], 4096)
    assert refused.value.outcome is Outcome.TOO_LARGE
    assert refused.value.retry_after_ns is None
