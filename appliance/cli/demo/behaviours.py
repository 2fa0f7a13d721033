"""What each kind of robot asks in a period, and what it does with the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from appliance import Encoded, Result
from appliance.cli.demo.chunk import ActionChunk
from appliance.cli.demo.roster import RobotPlan
from appliance.cli.demo.senses import Frame, Samples, frames, sound, wav, window

CONTROL_MS = 20.0
JOINTS = 7
SPEED = 0.02
"""Of a joint at full action, in each control period."""

BURST = 40


@frozen
class Ask:
    """One observation to make.

    Attributes:
        within_ms: The robot needs the answer sooner than its budget says; None: it does not.
    """

    tensors: Mapping[str, NDArray[Any] | Encoded]
    steps_remaining: int | None = None
    within_ms: float | None = None


class Behaviour(Protocol):
    """A robot's mind. Ticks count its periods and may skip some, never go back.

    Attributes:
        period_ms: Of a tick.
        wrong: Answers checked and found wrong.
        dry_steps: Control periods without an action.
    """

    period_ms: float
    wrong: int
    dry_steps: int

    def asks(self, tick: int) -> Iterable[Ask]:
        """Live through one tick; return what to ask in it."""
        ...

    def answered(self, result: Result, tick: int) -> None:
        """Take the answer to what was asked in `tick`."""
        ...


def behaviour(plan: RobotPlan) -> Behaviour:
    """Return the mind of a robot."""
    if plan.role == "camera":
        return Camera(period_ms=plan.period_ms, frames=frames(plan.seed))
    if plan.role == "microphone":
        return Microphone(period_ms=plan.period_ms, samples=sound(plan.seed))
    random = np.random.default_rng(plan.seed)
    if plan.role == "noisy":
        return Noisy(period_ms=plan.period_ms, random=random)
    joints = random.uniform(-1, 1, JOINTS).astype(np.float32)
    return Arm(every=round(plan.period_ms / CONTROL_MS), joints=joints)


@define(eq=False, kw_only=True)
class Arm:
    """Moves its joints 50 times a second by chunks of actions; every few steps it asks for more."""

    every: int
    joints: NDArray[np.float32]
    period_ms: float = field(default=CONTROL_MS, init=False)
    wrong: int = field(default=0, init=False)
    dry_steps: int = field(default=0, init=False)
    _chunk: ActionChunk = field(factory=ActionChunk, init=False)
    _has_moved: bool = field(default=False, init=False)

    def asks(self, tick: int) -> Iterable[Ask]:
        """Ask with the joints as they are, then move."""
        remaining = self._chunk.remaining(tick)
        asks: list[Ask] = []
        if tick % self.every == 0:
            within_ms = remaining * CONTROL_MS if remaining else None
            asks.append(Ask({"joints": self.joints.copy()}, remaining, within_ms))
        action = self._chunk.at(tick)
        if action is not None:
            moved = np.clip(self.joints + SPEED * action, -1, 1)
            self.joints = moved.astype(np.float32)
            self._has_moved = True
        elif self._has_moved:
            self.dry_steps += 1
        return asks

    def answered(self, result: Result, tick: int) -> None:
        """Go on with the new actions, from the step that they are for."""
        actions = result["actions"]
        if actions.shape != (result.horizon, JOINTS) or not np.all(np.abs(actions) <= 1):
            self.wrong += 1
            return
        self._chunk.replace(actions, tick + result.first_step)


@define(eq=False, kw_only=True)
class Camera:
    """Sends JPEG frames, and knows which of them are upside down."""

    period_ms: float
    frames: list[Frame]
    wrong: int = field(default=0, init=False)
    dry_steps: int = field(default=0, init=False)

    def asks(self, tick: int) -> Iterable[Ask]:
        """Send the next frame."""
        return [Ask({"camera": Encoded(self._frame(tick).jpeg, "jpeg")})]

    def answered(self, result: Result, tick: int) -> None:
        """Compare with what is known."""
        scores = _only_array(result)
        self.wrong += bool(scores.argmax()) is not self._frame(tick).upside_down

    def _frame(self, tick: int) -> Frame:
        return self.frames[tick % len(self.frames)]


@define(eq=False, kw_only=True)
class Microphone:
    """Sends each 32 ms of sound as a WAV file; the model remembers what it heard before."""

    period_ms: float
    samples: Samples
    wrong: int = field(default=0, init=False)
    dry_steps: int = field(default=0, init=False)

    def asks(self, tick: int) -> Iterable[Ask]:
        """Send the next step."""
        return [Ask({"audio": Encoded(wav(window(self.samples, tick)), "wav")})]

    def answered(self, result: Result, tick: int) -> None:  # noqa: ARG002  one answer, any step
        """A probability is all that can be said for certain."""
        self.wrong += not 0 <= _only_array(result).item() <= 1


@define(eq=False, kw_only=True)
class Noisy:
    """Asks for actions in bursts, far more than it may, and wants every answer."""

    period_ms: float
    random: np.random.Generator
    wrong: int = field(default=0, init=False)
    dry_steps: int = field(default=0, init=False)

    def asks(self, tick: int) -> Iterable[Ask]:  # noqa: ARG002  every tick is the same to it
        """Return a burst."""
        joints = self.random.uniform(-1, 1, (BURST, JOINTS)).astype(np.float32)
        return [Ask({"joints": row}) for row in joints]

    def answered(self, result: Result, tick: int) -> None:
        """Do nothing with it."""


def _only_array(result: Result) -> NDArray[Any]:
    """Return the one tensor of an answer, whatever the model calls it."""
    arrays: list[NDArray[Any]] = [each for each in result.values() if hasattr(each, "shape")]
    return arrays[0]
