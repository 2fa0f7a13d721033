"""One loaded model: a batch is staged (gathered), then executed."""

from __future__ import annotations

from attrs import define, field

from appliance.engines.arena import ArenaView
from appliance.engines.base import Engine
from appliance.engines.gather import Gathered, Gatherer
from appliance.engines.outputs import OutputWriter
from appliance.models.plans import Resolved
from appliance.wire.pb import worker_pb2


@define(eq=False)
class LoadedModel:
    """An engine between the arena's rows and the arena's outputs.

    Attributes:
        resolved: What it takes and gives.
        arena: Where rows are and outputs go.
    """

    engine: Engine
    resolved: Resolved
    arena: ArenaView
    _gatherer: Gatherer = field(init=False)
    _writer: OutputWriter = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Prepare what every batch needs."""
        self._gatherer = Gatherer(self.resolved, self.arena, copies=self.engine.keeps_inputs)
        self._writer = OutputWriter(self.resolved, self.arena)

    def gather(self, stage: worker_pb2.Stage) -> Gathered:
        """Gather and preprocess a batch's rows.

        Raises:
            PeerProtocolError: The message is no batch of this model.
        """
        return self._gatherer.gather(stage.rows)

    def execute(self, stage: worker_pb2.Stage, gathered: Gathered, done: worker_pb2.Done) -> None:
        """Run the engine, write outputs and new state, and describe the outputs in `done`.

        Raises:
            EngineError: It returned something else than it promised.
            Exception: Whatever the model raises.
        """
        returned = self.engine.run(gathered.inputs)
        self._writer.write(returned, stage, gathered.rows, done)
