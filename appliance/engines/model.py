"""One loaded model: a batch is staged (gathered), submitted, and finished."""

from __future__ import annotations

from attrs import define, field

from appliance.engines.arena import ArenaView
from appliance.engines.base import DeviceEngine, Engine
from appliance.engines.gather import Gathered, Gatherer
from appliance.engines.outputs import OutputWriter
from appliance.errors import EngineError
from appliance.models.plans import Resolved
from appliance.wire.pb import worker_pb2


@define(eq=False)
class LoadedModel:
    """An engine between the arena's rows and the arena's outputs.

    Attributes:
        resolved: What it takes and gives.
        arena: Where rows are and outputs go.
        device: The engine, if it computes on a device by itself: then `submit` does not wait.
    """

    engine: Engine
    resolved: Resolved
    arena: ArenaView
    device: DeviceEngine | None = field(init=False)
    _gatherer: Gatherer = field(init=False)
    _writer: OutputWriter = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Prepare what every batch needs."""
        self.device = self.engine if isinstance(self.engine, DeviceEngine) else None
        self._gatherer = Gatherer(self.resolved, self.arena, copies=self.engine.keeps_inputs)
        self._writer = OutputWriter(self.resolved, self.arena)

    def gather(self, stage: worker_pb2.Stage) -> Gathered:
        """Gather and preprocess a batch's rows.

        Raises:
            PeerProtocolError: The message is no batch of this model.
            EngineError: Too many batches are on their way.
            DeviceLost: The process has to end.
        """
        if self.device is None:
            return self._gatherer.gather(stage.rows)
        buffers = self.device.buffers()
        if buffers is None:
            raise EngineError("more batches are staged than the engine has buffers for")
        try:
            return self._gatherer.gather(stage.rows, buffers)
        except BaseException:
            buffers.release()
            raise

    @property
    def is_urgent(self) -> bool:
        """Whether a device runs its batches beside those of others, and before them."""
        return self.device is not None and self.device.is_urgent

    @property
    def has_room(self) -> bool:
        """Whether a batch can be gathered now."""
        return self.device is None or self.device.has_buffers

    def submit(self, gathered: Gathered) -> None:
        """Have a device run a batch; nothing happens yet with an engine that is on none.

        Raises:
            EngineError: It cannot be run.
            DeviceLost: The process has to end.
        """
        if gathered.buffers is not None:
            gathered.buffers.submit(gathered.inputs, len(gathered.rows))

    def finish(self, stage: worker_pb2.Stage, gathered: Gathered, done: worker_pb2.Done) -> None:
        """Run the engine or wait for it, write outputs and new state, describe them in `done`.

        Raises:
            EngineError: It failed, or returned something else than it promised.
            DeviceLost: The process has to end.
            Exception: Whatever the model raises.
        """
        if gathered.buffers is None:
            returned = self.engine.run(gathered.inputs)
        else:
            returned = gathered.buffers.outputs()
        self._writer.write(returned, stage, gathered.rows, done)

    def execute(self, stage: worker_pb2.Stage, gathered: Gathered, done: worker_pb2.Done) -> None:
        """Submit and finish, and release the buffers.

        Raises:
            Exception: As `submit` and `finish`.
        """
        try:
            self.submit(gathered)
            self.finish(stage, gathered, done)
        finally:
            release(gathered)


def release(gathered: Gathered) -> None:
    """Give back what a batch holds of a device; it is not needed any more."""
    if gathered.buffers is not None:
        gathered.buffers.release()
