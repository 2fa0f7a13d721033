"""What every engine offers. An engine owns one loaded model; it is used from one thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from appliance.models.plans import Signature

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
