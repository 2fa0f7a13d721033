"""A batch on its way through a worker: staged, submitted to a device, done."""

from __future__ import annotations

from attrs import define

from appliance.engines.base import Buffers
from appliance.engines.gather import Gathered
from appliance.engines.model import LoadedModel, release
from appliance.values import value
from appliance.wire.pb import worker_pb2


@value
class Staged:
    """A gathered batch; `error` says why there is nothing to execute.

    Attributes:
        load_ns: What loading its model for it took.
        resident: What was in memory after that.
    """

    stage: worker_pb2.Stage
    gathered: Gathered | None
    error: str
    gather_ns: int
    load_ns: int = 0
    resident: tuple[int, ...] = ()


@define(eq=False)
class Submitted:
    """A batch on a device; see `overtaking.Running`."""

    loaded: LoadedModel
    staged: Staged
    gathered: Gathered
    buffers: Buffers
    expected_ns: int
    since_ns: int

    @property
    def model(self) -> int:
        """Its model, by index."""
        return self.staged.stage.model


def let_go(staged: Staged) -> None:
    """Give back what a batch holds that will not be run."""
    if staged.gathered is not None:
        release(staged.gathered)


def done_of(staged: Staged, execute_started_ns: int) -> worker_pb2.FromWorker:
    """Return what is known of a batch before it has run."""
    message = worker_pb2.FromWorker()
    done = message.done
    done.batch_id = staged.stage.batch_id
    done.gather_ns = staged.gather_ns
    done.execute_started_ns = execute_started_ns
    done.error = staged.error
    if staged.load_ns:
        done.load_ns = staged.load_ns
        done.resident.extend(staged.resident)
    for failure in () if staged.gathered is None else staged.gathered.failures:
        done.row_errors.add(
            row=failure.row,
            code=int(failure.outcome),  # pyright: ignore[reportArgumentType]  an integer
            message=failure.message,
        )
    return message
