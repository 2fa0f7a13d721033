"""What the pool tells. Plain data, handed to `on_event` in the order it came to be.

Each generation of a worker gives, in this order: one `ModelLoaded` or `ModelFailed` for each
model of its slot, one `WorkerUp`, any number of `BatchFinished`, one `WorkerDown`. It may end
anywhere before `WorkerDown`, but that one always comes, and last.
"""

from __future__ import annotations

from typing import Union

from attrs import frozen

from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import ModelSpec

STOPPED = "stopped"
"""The cause of a worker that was asked to go."""


@frozen
class ModelLoaded:
    """A model is loaded and warm.

    Attributes:
        model: Its index in the slot.
        times_ns: Batch size to measured nanoseconds.
        memory_bytes: What it takes, of the GPU or of the process.
        load_ns: How long it takes to have it ready again.
        is_urgent: Its batches run beside those of other models, and before them.
        without_graphs: Why they are not run as CUDA graphs; empty: they are, or there is no GPU.
        images_on_cpu: Why the GPU does not preprocess its images; empty: it does all it is to.
    """

    worker: WorkerRef
    model: int
    spec: ModelSpec
    times_ns: dict[int, int]
    memory_bytes: int = 0
    load_ns: int = 0
    is_urgent: bool = False
    without_graphs: str = ""
    images_on_cpu: str = ""


@frozen
class ModelFailed:
    """A model could not be loaded, or is left out; the worker serves its other models."""

    worker: WorkerRef
    model: int
    message: str


@frozen
class WorkerUp:
    """A worker is READY: batches may be staged.

    Attributes:
        budget_bytes: What its models may take together; 0: whatever they do.
        resident: Those in memory, the least recently used first.
        unpinned: The GPU cannot read the arena: rows are copied once more.
    """

    worker: WorkerRef
    budget_bytes: int = 0
    resident: tuple[int, ...] = ()
    unpinned: bool = False


@frozen
class WorkerDown:
    """A worker's process is gone and reaped: nobody reads or writes its batches' memory now.

    Attributes:
        cause: One line.
        stderr: The last lines its process wrote there.
    """

    worker: WorkerRef
    cause: str
    stderr: tuple[str, ...] = ()


@frozen
class BatchFinished:
    """A batch was executed. Its outputs lie within the block that was staged for them."""

    worker: WorkerRef
    done: worker_pb2.Done


PoolEvent = Union[ModelLoaded, ModelFailed, WorkerUp, WorkerDown, BatchFinished]  # noqa: UP007
