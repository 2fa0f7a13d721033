"""A place for one worker process: what runs there, and how its state is told. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, max_len, min_len

from appliance.workers.arena import MODELS_PER_SLOT

_MS = 1_000_000
_SECOND = 1_000_000_000

WorkerState = Literal["starting", "loading", "ready", "restarting", "stopped"]


@frozen(kw_only=True)
class HostedModel:
    """One model version for a worker to load.

    Attributes:
        manifest: What its `model.toml` said when it was checked: a process that is started later
            loads the same.
        manifest_path: For messages.
        directory: Path of the version's directory.
    """

    name: str
    version: str
    manifest: str = ""
    manifest_path: str = ""
    directory: str = ""


@frozen(kw_only=True)
class Slot:
    """One worker: a process, and after it the next, that hosts `models` on `device`.

    Attributes:
        name: Unique in the pool.
        models: In the order they are loaded; a model's index here names it everywhere.
        memory_bytes: What its models may take together; 0: whatever they do.
        start_timeout_ns: While loading, without any progress.
        hang_floor_ns: No batch is called hung before this.
        hang_factor: Nor before this times the slowest batch seen of its model.
        command: A program to be run instead of a copy of the fork server, before
            `--control-fd N --arena-fd M`.
        environment: Added to the core's own; see `ForkServer.start_worker`.
    """

    name: str = field(validator=min_len(1))
    models: tuple[HostedModel, ...] = field(validator=max_len(MODELS_PER_SLOT))
    device: str = "cpu"
    memory_bytes: int = field(default=0, validator=ge(0))
    start_timeout_ns: int = field(default=120 * _SECOND, validator=gt(0))
    hang_floor_ns: int = field(default=2000 * _MS, validator=gt(0))
    hang_factor: float = field(default=10.0, validator=ge(1))
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(factory=dict[str, str])


@frozen(kw_only=True)
class WorkerStatistics:
    """A snapshot of one slot.

    Attributes:
        models: What it hosts, by name.
        generation: Of the present or latest process; 0 before the first.
        pid: Of the present process; None between two.
        restarts: Processes started after the first.
        last_cause: Why the latest process that ended did; empty if none did.
        last_stderr: The last lines it wrote there.
        progress: Of loading, 0 to 1 over all models.
        step: Of loading, in words.
        batches: Finished, over all generations.
        hang_bound_ns: How long the running batch may take; None if none is running.
        busy_since_ns: Since when a batch is running; None if none is.
    """

    slot: str
    device: str
    models: tuple[str, ...]
    generation: int
    state: WorkerState
    pid: int | None
    restarts: int
    last_cause: str
    last_stderr: tuple[str, ...]
    progress: float
    step: str
    batches: int
    hang_bound_ns: int | None
    busy_since_ns: int | None
