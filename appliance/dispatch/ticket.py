"""What travels with a request from its door and back, and what a door must be able to do."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from attrs import define, field

from appliance.errors import Outcome
from appliance.scheduling.events import Answer
from appliance.values import new_list, value
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Observation, Tensor, Timing
from appliance.workers.allocator import Block

UNTIMED = Timing()
StateKey = tuple[Hashable, str, int]
"""Whose recurrent state: session, model name, episode."""


class Delivery(enum.Enum):
    """What became of a reply."""

    TOLD = enum.auto()
    SILENT = enum.auto()  # the client did not ask to be told of refusals
    LOST = enum.auto()  # the client does not read; its reply is dropped
    GONE = enum.auto()  # the client is not there any more


@value(kw_only=True)
class Reply:
    """How a request ended, for its client.

    Attributes:
        tensors: Headers of the outputs, as if their bytes lay one after the other. Replies of one
            batch share the object where they can.
        parts: Those bytes, output by output; valid until the request has ended.
        answer: What the scheduler decided; None: it was refused before.
        finished_ns: Of an answer: when the engine was done, monotonic.
        slack_us: Of an answer: time that was left to its deadline; negative if it was late.
        advice_us: By how much later its client had better observe next; earlier, if negative.
    """

    outcome: Outcome
    message: str = ""
    late: bool = False
    timing: Timing = UNTIMED
    tensors: tuple[Tensor, ...] = ()
    parts: Sequence[memoryview] = ()
    retry_after_ns: int | None = None
    answer: Answer | None = None
    finished_ns: int = 0
    slack_us: int = 0
    advice_us: int = 0


class Door(Protocol):
    """Where requests come in and replies leave. Never blocks, never raises for a bad client."""

    def deliver(self, ended: Sequence[Ended]) -> list[Delivery]:
        """Send each reply now or not at all; return what became of each, in order."""
        ...


@define(eq=False, kw_only=True)
class Ticket:
    """One request's way back, and the memory it holds.

    Attributes:
        door: Where its reply leaves.
        route: The door's own: whom to tell.
        session: Whose mailbox it waits in.
        client: Who it counts for.
        state_key: Of a recurrent model: whose state it carries on.
        block: Its inputs in the arena.
        row: What a worker is told of them: the feeds of a `Row`.
        state_out: Where its new state goes.
        prefix: The bytes with which its answer begins, if they are known by now.
        holds: Workers that may still read `block`.
        ended: Its outcome is counted.
    """

    door: Door
    route: Any
    session: Hashable
    client: str
    observation: Observation
    received_ns: int
    spec: ModelSpec | None = None
    state_key: StateKey | None = None
    block: Block | None = None
    row: bytes = b""
    state_out: list[Block] = field(factory=new_list)
    prefix: bytes | None = None
    holds: int = 0
    ended: bool = False


Ended = tuple[Ticket, Reply]
"""A request and how it ended."""
