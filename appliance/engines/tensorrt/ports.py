"""What an engine needs of TensorRT."""

from __future__ import annotations

from typing import Protocol

from appliance.engines.cuda.ports import Stream
from appliance.engines.tensorrt.tensors import Tensor


class Run(Protocol):
    """An execution context: shapes and addresses, which stay until they are set anew."""

    def set_batch(self, size: int) -> None:
        """Set the shapes of a batch, for what is enqueued from now on.

        Raises:
            EngineError: It does not take such a batch.
        """
        ...

    def set_address(self, name: str, address: int) -> None:
        """Set where a tensor lies, likewise."""
        ...

    def enqueue(self, stream: Stream) -> None:
        """Put a run on a stream.

        Raises:
            EngineError: It cannot be run.
            DeviceLost: The process has to end.
        """
        ...

    def is_capturable(self, stream: Stream) -> bool:
        """Return whether `enqueue` can be captured."""
        ...


class Executor(Protocol):
    """A loaded engine.

    Attributes:
        tensors: What it takes and gives.
        max_batch: The most rows it takes.
    """

    tensors: tuple[Tensor, ...]
    max_batch: int

    def new_run(self) -> Run:
        """Return an execution context. All of them share memory, so only one may run at a time.

        Where TensorRT has but one for an engine, that one is returned each time.

        Raises:
            EngineError: There is not enough memory.
        """
        ...

    def keep_compiled(self) -> None:
        """Keep what was compiled for this GPU so far, for whoever loads the engine next."""
        ...

    def close(self) -> None:
        """Let the engine go; its runs have to be gone already."""
        ...
