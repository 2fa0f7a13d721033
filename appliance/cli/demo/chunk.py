"""The actions an arm still has. Steps are counted from the arm's start; one each control period."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import define
from numpy.typing import NDArray


@define(eq=False)
class ActionChunk:
    """The latest chunk of actions, and for which step its first row is."""

    _actions: NDArray[Any] | None = None
    _first_step: int = 0

    def replace(self, actions: NDArray[np.float32], first_step: int) -> None:
        """Take over a new chunk, shape [horizon, joints]."""
        self._actions, self._first_step = actions, first_step

    def remaining(self, step: int) -> int:
        """Return how many actions there are from `step` on, itself included."""
        if self._actions is None:
            return 0
        return max(0, self._first_step + len(self._actions) - step)

    def at(self, step: int) -> NDArray[np.float32] | None:
        """Return the action for `step`, or None: the arm has run dry."""
        if self._actions is None or not 0 <= step - self._first_step < len(self._actions):
            return None
        return self._actions[step - self._first_step]
