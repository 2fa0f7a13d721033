"""What a worker computes on: the CPU, or one GPU that is opened before any model is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from appliance.engines.cuda.driver import CPU, ordinal_of
from appliance.engines.cuda.ports import Cuda


@frozen
class Device:
    """What models are loaded for.

    Attributes:
        name: As the configuration has it.
        cuda: The GPU; None on the CPU.
    """

    name: str
    cuda: Cuda | None = None

    def pin(self, memory: NDArray[Any]) -> bool:
        """Let a GPU read memory of this process directly, if there is one; return if it can."""
        return self.cuda is None or self.cuda.pin(memory.view(np.uint8))

    def close(self) -> None:
        """Leave the GPU."""
        if self.cuda is not None:
            self.cuda.close()


ON_CPU = Device(CPU)


def open_named(name: str) -> Device:
    """Return the device of a worker, ready to be used from this thread.

    Raises:
        DeviceMissing: It cannot be had. The CPU never takes its place.
        ExtraMissing: What it takes to use it is not installed.
    """
    ordinal = ordinal_of(name)
    if ordinal is None:
        return ON_CPU
    from appliance.engines.cuda.device import open_device  # noqa: PLC0415  only where it is used

    return Device(name, open_device(ordinal))
