"""The documents operators read, `/v1/status` and its neighbours: the app builds, the CLI shows.

Only types: importing this costs nothing at run time. Units are in the names: `_us`, `_ms`, `_s`,
`_hz`, `bytes`.
"""

from __future__ import annotations

from typing import Literal, TypedDict

Stage = Literal["age", "queue", "batch", "execute", "reply", "total", "slack", "lateness"]
State = Literal["starting", "standby", "ready", "degraded", "draining"]
ModelState = Literal["loading", "ready", "failed"]


class Latency(TypedDict):
    """One histogram, in microseconds. All zero where nothing was recorded."""

    count: int
    p50: int
    p90: int
    p99: int
    p99_9: int
    max: int


Latencies = dict[Stage, Latency]
"""By stage; every stage is there."""


class Requests(TypedDict):
    """`asked` is `in_flight` plus every outcome; `answered` are those that ended in OK."""

    asked: int
    answered: int
    in_flight: int
    queued: int
    per_second: float
    late: int


class Model(TypedDict):
    """One model and how it does. `rows` and `batch_size_mean` count executed rows.

    `resident` are those of its `workers` that have it in memory, `memory_bytes` is what it takes
    there, and `loads` and `evictions` count how often it was loaded again, and had to leave.
    """

    name: str
    version: str
    state: ModelState
    error: str | None
    workers: list[str]
    resident: list[str]
    memory_bytes: int
    loads: int
    evictions: int
    queued: int
    rows: int
    batch_size_mean: float
    latency_us: Latencies
    outcomes: dict[str, int]


class Worker(TypedDict):
    """One worker slot and its present process.

    `device` is as configured: `cpu`, `cuda:0`. `resident` are the models in memory, the least
    recently used first, and `resident_bytes` is what they take, of the GPU or of the process;
    `budget_bytes` is what they may take together (0: whatever they do). `remarks` say what makes
    its batches slower than they could be, such as why a model runs without CUDA graphs.
    """

    slot: str
    device: str
    generation: int
    state: str
    pid: int | None
    models: list[str]
    restarts: int
    last_cause: str | None
    rows_started: int
    rows_finished: int
    rows_failed: int
    busy: bool
    resident: list[str]
    resident_bytes: int
    budget_bytes: int
    remarks: list[str]
    rss_bytes: int


class Device(TypedDict):
    """One GPU that workers compute on. None: it, or its driver, does not say.

    `source` is `nvml`, `sysfs` (a Jetson), or empty where nothing can be read, and `error` says
    why. `holds` is what holds its clocks down now: `thermal`, `power`, `power_brake`, `hardware`;
    the scheduler plans with clocks that are `slowdown` times slower than usual. `slow_from_c` is
    the temperature at which it begins to slow down. `memory_used_bytes` and `power_w` of a Jetson
    are those of the whole module. `ecc_corrected` and `ecc_uncorrected` count memory errors since
    the driver was loaded, `xids` the driver's error reports since its health is read, `last_xid`
    is the latest one's number. `concerns` says in words what is wrong. `age_s` is since it was
    read.
    """

    device: str
    workers: list[str]
    source: str
    name: str
    error: str
    is_idle: bool
    holds: list[str]
    slowdown: float
    utilisation_percent: float | None
    temperature_c: float | None
    slow_from_c: float | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    memory_clock_mhz: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    power_w: float | None
    power_limit_w: float | None
    ecc_corrected: int | None
    ecc_uncorrected: int | None
    xids: int | None
    last_xid: int | None
    power_mode: int | None
    concerns: list[str]
    age_s: float


class FirstDry(TypedDict):
    """A robot and when its actions end; negative: it has been dry for so long."""

    id: str
    runs_dry_in_ms: float


class Clients(TypedDict):
    """How many clients are connected at the robots' door now, are remembered, and have left.

    `first_dry` is the robot whose actions end first, or ended first, of those that are connected
    and have some left or wait for more; None: nothing is known of any.
    """

    connected: int
    known: int
    disconnects: int
    first_dry: FirstDry | None


class Arena(TypedDict):
    """Shared memory: all of it, in use now, in use at most."""

    bytes: int
    used: int
    peak: int


class LedgerDocument(TypedDict):
    """The server's count beside the rows that the engines ran.

    `wasted` are rows that ran for nothing, by cause. `balanced` says that every finished row is
    an OK, or wasted, or belongs to a request still in flight, or to a batch that was given up when
    the appliance stopped and has not ended yet.
    """

    asked: int
    ended: int
    in_flight: int
    rows_finished: int
    ok: int
    wasted: dict[str, int]
    balanced: bool


class Status(TypedDict):
    """`GET /v1/status`. `reasons` says in words why the state is not `ready`.

    `config_error` says why the configuration on disk does not hold; empty if it does. `pending`
    says what has changed in the model repository: the next instance serves it.
    `connections_refused` counts what failed in the handshake, by cause. `devices` are the GPUs
    that workers compute on.
    """

    state: State
    reasons: list[str]
    appliance_id: str
    version: str
    instance: str
    pid: int
    uptime_s: float
    binds: list[str]
    config_error: str
    pending: list[str]
    requests: Requests
    outcomes: dict[str, int]
    replies_lost: dict[str, int]
    latency_us: Latencies
    models: list[Model]
    workers: list[Worker]
    devices: list[Device]
    clients: Clients
    connections_refused: dict[str, int]
    arena: Arena
    timer_lateness_us: Latency
    ledger: LedgerDocument


class Client(TypedDict):
    """One client's session at the robots' door, or one client of the gRPC door.

    `door` says which it comes by. One of the gRPC door is `connected` while it has asked something
    within 10 s, each row of its calls is one of its `observations`, and its `cadence_hz` is that of
    its calls; when it runs dry, and whether it is overdue, is not known.

    `cadence_hz` is how often it sends (None: not known yet), `slack_ms` the time that was left to
    the deadline at its last answer (negative: late; None: no answer yet), `runs_dry_in_ms` when its
    actions end, by its own word and by the chunks it was sent (negative: it has been dry for so
    long; None: nothing is known of that), `overdue_ms` by how much its next observation is overdue,
    by its rhythm so far (None: it is not, or it has none, or has stopped), `silent_s` how long
    nothing came.
    """

    id: str
    door: Literal["robots", "grpc"]
    session: str
    type: str
    protocol: int
    tier: int
    connected: bool
    cadence_hz: float | None
    jitter_ms: float | None
    observations: int
    answered: int
    late: int
    misses: int
    last_outcome: str | None
    slack_ms: float | None
    runs_dry_in_ms: float | None
    overdue_ms: float | None
    silent_s: float
    queued: int
    address: str


class ClientList(TypedDict):
    """`GET /v1/clients`."""

    clients: list[Client]


TimelineRow = tuple[str, int, "int | None", "str | None"]
"""Client, when it was received, time left to its deadline at the answer (negative: late), and what
the batch came to for it; both None where that is nothing, or nothing yet. As a list in JSON."""


class TimelineBatch(TypedDict):
    """One batch. Times are since the start of the appliance; 0: it did not come to that.

    `end` is `running`, `finished`, `revoked` (taken back before it was started, or skipped) or
    `lost` (its worker ended). `execute_us` ends at `finished_us`; gathering, `batch_us`, is before.
    """

    id: int
    end: str
    model: str
    version: str
    worker: str
    generation: int
    staged_us: int
    started_us: int
    finished_us: int
    ended_us: int
    batch_us: int
    execute_us: int
    error: str
    rows: list[TimelineRow]


class Drop(TypedDict):
    """A request that ended other than OK; in a flood, `count` of them within a second.

    `client` is empty for several, `model` for what is not served. `miss` says that it left a robot
    without its action, through no fault of the robot.
    """

    at_us: int
    waited_us: int
    client: str
    model: str
    outcome: str
    message: str
    count: int
    miss: bool


class TimelineCount(TypedDict):
    """So many."""

    batches: int
    drops: int


class TimelineDocument(TypedDict):
    """`GET /v1/timeline?since=CURSOR`: what is over since then, the oldest first.

    `now_us` is since the start of the appliance, `unix_s` the same moment by the wall clock.
    `missed` came after the cursor and is not kept any more. `more` is there by now, but too much
    for one document: ask again with this one's `cursor`.
    """

    instance: str
    now_us: int
    unix_s: float
    span_s: int
    cursor: str
    missed: TimelineCount
    more: TimelineCount
    running: list[TimelineBatch]
    batches: list[TimelineBatch]
    drops: list[Drop]


class ModelSnapshot(TypedDict):
    """What the registry knows about one model."""

    latency_us: Latencies
    rows: int
    batch_size_mean: float


class Snapshot(TypedDict):
    """What the registry knows. The model "" takes every name that is not served.

    `clamped` counts values outside a histogram's range; `counters` are by name, then cause.
    """

    latency_us: Latencies
    models: dict[str, ModelSnapshot]
    timer_lateness_us: Latency
    counters: dict[str, dict[str, int]]
    clamped: int
