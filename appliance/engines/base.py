"""What every engine offers. An engine owns one loaded model; it is used from one thread.

An engine on a device (`DeviceEngine`) offers more: a batch is put together in its buffers while
the one before runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from appliance.models.manifest import Precision
from appliance.models.plans import InputPlan, Signature

Arrays = Mapping[str, NDArray[Any]]
"""Batched arrays by name."""


class Engine(Protocol):
    """One loaded model.

    Attributes:
        signature: What the model says of itself.
        keeps_inputs: Its `run` may hold on to the arrays it was given, or change them. They are
            then its own; otherwise they may be read-only views of memory that others use
            afterwards.
    """

    signature: Signature
    keeps_inputs: bool

    def run(self, inputs: dict[str, NDArray[Any]]) -> Arrays:
        """Run the model once.

        Args:
            inputs: By the model's input name; leading dimension is the batch size (except of
                recurrent state, whose batch dimension is where the manifest says).

        Returns:
            The model's outputs by name, recurrent state among them.

        Raises:
            EngineError: It returned something that is no such mapping.
            Exception: Whatever the model raises.
        """
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


class Buffers(Protocol):
    """Where one batch is put together and run. It belongs to that batch until `release`.

    Rows are put in their places in any order, a place more than once if need be; then `submit`,
    then `outputs`.
    """

    def take(self, name: str, position: int, address: int, size: int) -> bool:
        """Have the device fetch a row of an input from where it lies, by and by.

        Args:
            address: Of the row in memory, as the model wants it. It has to stay as it is until
                `outputs`.
            size: Its bytes.

        Returns:
            False: the device cannot reach it; write it to `place`.
        """
        ...

    def take_image(self, name: str, position: int, pixels: NDArray[Any]) -> bool:
        """Have the device preprocess an image, by and by, as `preprocess_images` was told.

        Args:
            pixels: uint8[height, width, channels], as they came or were decoded. They have to stay
                as they are until `outputs`.

        Returns:
            False: it does not; write to `place` what the model wants.
        """
        ...

    def place(self, name: str, position: int) -> NDArray[Any]:
        """Return where a row of an input is to be written."""
        ...

    def submit(self, inputs: Mapping[str, NDArray[Any]], count: int) -> None:
        """Have the batch run, behind what was submitted before. Does not wait.

        Args:
            inputs: Whole inputs of `count` rows, of those whose rows were not put in place.
            count: Rows; those behind them are not part of it.

        Raises:
            EngineError: It cannot be run.
            DeviceLost: The process has to end.
        """
        ...

    def is_done(self) -> bool:
        """Return whether it has run.

        Raises:
            EngineError: It failed.
            DeviceLost: The process has to end.
        """
        ...

    def outputs(self) -> Arrays:
        """Wait until it has run, asleep; return what came, to be read until `release`.

        Raises:
            EngineError: It failed.
            DeviceLost: The process has to end.
        """
        ...

    def release(self) -> None:
        """Give the buffers back, whether it was run or not."""
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """One loaded model on a device that computes by itself.

    Attributes:
        precision: What it computes in, where the model's file has float32.
        is_urgent: What it runs comes before what other engines run meanwhile.
        without_graphs: Why batches are not run as CUDA graphs, in words; empty: they are.
        images_on_cpu: Why it does not preprocess images, in words; empty: it does all it is to.
        has_buffers: `buffers` returns some.
    """

    precision: Precision
    is_urgent: bool
    without_graphs: str
    images_on_cpu: str

    @property
    def has_buffers(self) -> bool:
        """See above."""
        ...

    def preprocess_images(self, plans: Sequence[InputPlan]) -> None:
        """Preprocess the images of these inputs on the device, of those that it can.

        Raises:
            DeviceLost: The process has to end.
        """
        ...

    def prepare(self, sizes: Sequence[int]) -> None:
        """Do what can be done ahead for these batch sizes; none: nothing.

        Raises:
            DeviceLost: The process has to end.
        """
        ...

    def buffers(self) -> Buffers | None:
        """Return free buffers; None: as many batches are on their way as there are buffers for."""
        ...

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """Let the device read this process's memory directly until `unpin`, if it can."""
        ...

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """Take `pin` back, before the memory goes."""
        ...
