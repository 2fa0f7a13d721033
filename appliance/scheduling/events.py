"""The scheduler's vocabulary: what it is told (events) and what it asks for (effects).

Everything here is plain data. The dispatcher turns the world into events and effects into
messages; a simulation does the same without a world.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from attrs import define, field, frozen

from appliance.errors import Outcome
from appliance.values import new_dict, value

if TYPE_CHECKING:
    from appliance.scheduling.streams import Stream
    from appliance.scheduling.turns import Mailbox

Rank = tuple[int, int, int, int, int]
"""Deadline, tier, priority, last turn, id; of a dry one: tier, since when, and the same."""

UNRANKED: Rank = (0, 0, 0, 0, 0)
"""Of a request that has not been in a line yet."""


class ModelRef(NamedTuple):
    """One version of one model."""

    name: str
    version: str


class WorkerRef(NamedTuple):
    """One life of one worker slot; an answer of an older generation is dropped."""

    slot: str
    generation: int


class Lane(NamedTuple):
    """What may share a batch: one model version and the rows' shapes after preprocessing.

    `isolation` is 0 for ordinary traffic. Rows of a batch that failed get a lane of their own,
    so that one bad row takes nobody else with it.
    """

    model: ModelRef
    shapes: tuple[tuple[int, ...], ...] = ()
    isolation: int = 0


@define(eq=False, kw_only=True)
class Request:
    """One observation on its way to an answer. An identity, not a value.

    Attributes:
        id: Unique within the process, growing.
        session: Whose mailbox it waits in; one per connection.
        client: Who it counts for (fairness, limits).
        deadline_ns: When the answer must have left the box, monotonic nanoseconds.
        expires_ns: Arrival plus the time to live: nobody waits longer in the queue.
        period_ns: How long after it its client will ask again, by its own word and no less than
            the configuration allows; 0: it does not say.
        keep_latest: A newer request of the same (session, model) replaces this one.
        firm: Refused rather than late.
        dry: The robot has run out of actions: first of its tier, once in a round (see `turns`),
            and never refused for lateness.
        runs_out: Its deadline is when the robot runs out of actions: if that cannot be met any
            more, it is as good as dry, and not refused.
        tier: From configuration only; 0 is most important.
        priority: Rank within the tier, lower first.
        order_key: Requests with the same key run one at a time, in arrival order.
        queue_limit: With `keep_latest` off: how many of its mailbox may wait.
        tag: The client's own number for it, by which it may withdraw it.
        payload: The owner's business; the scheduler never looks.
        since_ns: From when on its robot waits, if it is dry; 0: since it arrived.
        rank_ns: Its place in the line: its deadline, or the end of its time to live if that is
            sooner, or an older one that it inherited.
        rank: Its whole rank in its part of the line, from when it lines up.
        yields: It is dry, and not its session's turn.
        background: More than its client said it would send: it runs where nobody else would.
        stream: Of its client; None: it never came to the queue.
        mailbox: Where it waits; None: it does not.
        attempts: Times the engine failed on it alone.
        deaths: Times a worker died while running it.
        started_ns: When its batch was started; 0 while it waits.
    """

    id: int
    session: Hashable
    client: str
    lane: Lane
    arrived_ns: int
    deadline_ns: int
    expires_ns: int
    period_ns: int = 0
    keep_latest: bool = True
    firm: bool = False
    dry: bool = False
    runs_out: bool = False
    tier: int = 1
    priority: int = 1
    order_key: Hashable | None = None
    queue_limit: int = 64
    tag: int = 0
    payload: Any = None
    since_ns: int = field(default=0, init=False)
    rank_ns: int = 0
    rank: Rank = field(default=UNRANKED, init=False)
    yields: bool = field(default=False, init=False)
    background: bool = field(default=False, init=False)
    stream: Stream | None = field(default=None, init=False, repr=False)
    mailbox: Mailbox | None = field(default=None, init=False, repr=False)
    attempts: int = 0
    deaths: int = 0
    started_ns: int = 0


@define(eq=False)
class Batch:
    """Rows that run together on one worker.

    Attributes:
        expected_ns: How long it is planned to take.
        switched: That worker ran another model before.
        committed: Its worker begins it by itself, when it is done with the one before.
        latest_start_ns: A worker that comes to it later skips it; 0: it never does.
        lead: The one without a deadline to lose for whom it goes before all others.
    """

    id: int
    lane: Lane
    requests: list[Request]
    worker: WorkerRef
    expected_ns: int
    started_ns: int = 0
    switched: bool = False
    committed: bool = False
    latest_start_ns: int = 0
    lead: Request | None = None


# ---------------------------------------------------------------------------------- events


@value
class Arrived:
    """A request passed admission; its rows lie in the arena."""

    request: Request


@frozen
class Withdrawn:
    """What a session has waiting is taken back.

    Attributes:
        model: Of this model only; None is all.
        tag: Only the request with this tag; None is all.
        gone: The session itself has ended, and is forgotten.
        outcome: How it ends; None: in CLIENT_GONE if the session has ended, else in CANCELLED.
        message: Why.
    """

    session: Hashable
    model: str | None = None
    tag: int | None = None
    gone: bool = False
    outcome: Outcome | None = None
    message: str = "withdrawn by its client"


@frozen
class WorkerMemory:
    """What of a worker's models is in memory, of which there is less than they need.

    Attributes:
        budget_bytes: What those in memory may take.
        memory_bytes: What each takes.
        load_ns: How long it takes to load each.
        resident: Those in memory, the least recently used first.
    """

    budget_bytes: int
    memory_bytes: dict[ModelRef, int]
    load_ns: dict[ModelRef, int]
    resident: tuple[ModelRef, ...]


@frozen
class WorkerReady:
    """A worker is up. `times_ns[model][batch size]` was measured at its warm-up.

    Attributes:
        memory: What of its models is in memory; None: all of them stay.
        urgent: Models of which it runs a batch beside one of another model, and before it.
    """

    worker: WorkerRef
    times_ns: dict[ModelRef, dict[int, int]]
    max_batch: dict[ModelRef, int]
    memory: WorkerMemory | None = None
    urgent: frozenset[ModelRef] = frozenset()


@frozen
class WorkerLost:
    """A worker process is gone and reaped."""

    worker: WorkerRef


@frozen
class WorkerRetired:
    """A worker has a successor, which is up: it runs what only it can run, and is `Released`."""

    worker: WorkerRef


@frozen
class ClocksRead:
    """How far down the clocks of a worker's device are held. Told with each reading of them.

    Attributes:
        slot: The worker's.
        slowdown: How much slower than usual they are; 1.0: nothing holds them down.
    """

    slot: str
    slowdown: float


@value
class BatchDone:
    """A worker finished a batch.

    Attributes:
        busy_ns: From the start of gathering to the end of execution.
        failed_rows: Row index to the outcome it failed with alone.
        error: Not empty: every row failed.
        finished_ns: When; 0: now.
        answering_ns: How long it will take until the answers have left.
        skipped: It came to it after `Batch.latest_start_ns`, and did not run it.
        load_ns: How long loading its model took before that; 0: it was in memory.
        resident: What is in memory after that, as in `WorkerMemory`.
    """

    worker: WorkerRef
    batch_id: int
    busy_ns: int
    failed_rows: dict[int, tuple[Outcome, str]] = field(factory=new_dict)
    error: str = ""
    finished_ns: int = 0
    answering_ns: int = 0
    skipped: bool = False
    load_ns: int = 0
    resident: tuple[ModelRef, ...] = ()


@frozen
class Closing:
    """The appliance stops: whatever has no outcome yet gets one now."""


Event = Union[  # noqa: UP007
    Arrived, Withdrawn, WorkerReady, WorkerLost, WorkerRetired, ClocksRead, BatchDone, Closing
]

# --------------------------------------------------------------------------------- effects


@value
class Stage:
    """Send a batch to a worker. With `go` it starts when the worker is free, else it waits."""

    batch: Batch
    go: bool


@frozen
class Go:
    """Start the staged batch when the worker is free. It is not taken back any more."""

    batch: Batch


@frozen
class Revoke:
    """Take the staged batch back; its requests are queued again."""

    batch: Batch


@value
class Answer:
    """A request ends, with its one outcome.

    Attributes:
        batch, row: For OK, where its outputs are.
        advice_ns: By how much later its client had better observe next (earlier, if negative).
    """

    request: Request
    outcome: Outcome
    message: str = ""
    late: bool = False
    batch: Batch | None = None
    row: int = 0
    retry_after_ns: int | None = None
    advice_ns: int = 0


@frozen
class Released:
    """A retired worker has nothing to do any more."""

    worker: WorkerRef


Effect = Union[Stage, Go, Revoke, Answer, Released]  # noqa: UP007


@value
class Decision:
    """What `Scheduler.handle` returns.

    Attributes:
        effects: Batches are staged, started and taken back in this order, requests answered in it.
        next_wakeup_ns: Call `handle` again by then, even without events; None: no need.
    """

    effects: list[Effect]
    next_wakeup_ns: int | None
