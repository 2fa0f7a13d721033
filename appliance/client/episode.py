"""An episode of a model: what to observe when, and the action for each instant.

Nothing here waits. Answers are taken in when they are asked for: by `action`, `due` and `observe`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from attrs import define, frozen

from appliance.client.cadence import period_ns_of
from appliance.client.chunks import MERGES, Chunk, Merge, Plan, Rows
from appliance.client.codec import Value
from appliance.client.ticks import Instant, instant_ns
from appliance.errors import LocalProtocolError, Outcome

if TYPE_CHECKING:
    from typing_extensions import Self

    from appliance.client.channel import Channel
    from appliance.client.link import Link
    from appliance.client.result import Result

PUMP_NS = 1_000_000
"""Whoever did not move messages for this long, does so before looking for answers."""

LATENCIES = 8

FUTURE_NS = 60_000_000_000
"""A capture that is further ahead was timed by another clock."""

REFUSED_NS = 100_000_000
"""Between a refusal and the next observation, without a rate."""

MOST_ASKED = 1024
"""Observations remembered that were not answered."""


@frozen
class Step:
    """What to do at one instant.

    Attributes:
        action: One row of the model's chunk; without one, what the dry policy gives, or None.
        reason: Empty for a row of the model. Else why there is none: NOT_YET (no answer in this
            episode so far), DRY (all rows are used up), LINK_DOWN (the appliance cannot be
            reached), or the outcome that the latest observation ended in, such as SHED.
    """

    action: Rows | None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a row of the model."""
        return not self.reason


Dry = Literal["none", "hold", "zero"] | Callable[["Step"], "Rows | None"]
"""What a robot gets that has no row: nothing, its last row, zeros in its shape, or what a function
returns that is given the step."""


@define(eq=False)
class Counts:
    """What became of an episode's answers and instants.

    Attributes:
        chunks: Answers taken over.
        stale: Answers of no use: older than one taken before, or over.
        steps: Instants asked about.
        dry: Of these, without a row, after the first chunk had come.
    """

    chunks: int = 0
    stale: int = 0
    steps: int = 0
    dry: int = 0


class Episode:
    """See `ModelHandle.episode`, which begins it. Leave it by `with`, or `close` it.

    Attributes:
        number: Of this episode on the wire.
        counts: Of this episode.
    """

    def __init__(
        self,
        link: Link,
        channel: Channel,
        observe_at: Callable[..., int],
        constant: Mapping[str, Value],
        *,
        observation_hz: float | None,
        step_ns: int,
        action: str | None,
        merge: str | Merge,
        dry: Dry,
    ) -> None:
        """Begin it.

        Args:
            observe_at: Of the model's handle.
            step_ns: How long an action lasts, if the model does not say.
        """
        period_ns = (
            None if observation_hz is None else period_ns_of("observation_hz", observation_hz)
        )
        if not callable(dry) and dry not in ("none", "hold", "zero"):
            raise ValueError(f"dry {dry!r} is not 'none', 'hold', 'zero' or a function")
        if isinstance(merge, str) and merge not in MERGES:
            raise ValueError(f"merge {merge!r} is not {', '.join(MERGES)} or a function")
        if channel.takes_older:
            raise LocalProtocolError(f"model {channel.model_id!r} has an episode that is not over")
        self._link = link
        self._core = link.core
        self._channel = channel
        self._observe_at = observe_at
        self._constant = constant
        self._period_ns = period_ns
        self._step_ns = step_ns
        self._action_key = action
        self._dry: Dry = dry
        self._plan = Plan(MERGES[merge] if isinstance(merge, str) else merge)
        self._closed = False
        self._latencies_ns: deque[int] = deque(maxlen=LATENCIES)
        self._moves = link.moves
        self._asked: dict[int, tuple[int, int]] = {}
        channel.takes_older = True
        self._begin()

    def _begin(self) -> None:
        channel = self._channel
        self.number = channel.episode = max(1, channel.episode)
        self.counts = Counts()
        channel.forget_cadence()
        self._cadence = None if self._period_ns is None else channel.follow(self._period_ns)
        self._begun = False
        self._due_ns: int | None = None
        self._observed_ns = 0
        self._retry_ns = 0
        self._hurry_ns = 0

    # ----------------------------------------------------------------------------- observing

    def due(self, now: Instant | None = None) -> bool:
        """Return whether to observe now.

        That is: at the first instant of an episode; at the observation rate, shifted as the
        appliance advises; and, if nothing is under way, when what is left would run out before
        an answer to a later observation came. Not before the appliance wants to be asked again.
        """
        now_ns = time.monotonic_ns() if now is None else instant_ns(now)
        self._collect(now_ns)
        due = self._is_due(now_ns)
        self._due_ns = now_ns if due else None
        return due

    def _is_due(self, now_ns: int) -> bool:
        if self._moves != self._link.moves:  # another appliance has refused nothing yet
            self._moves = self._link.moves
            self._retry_ns = self._hurry_ns = 0
        if now_ns < self._retry_ns:
            return False
        if not self._begun:
            return True
        cadence = self._cadence
        if cadence is not None and now_ns + cadence.period_ns // 16 >= cadence.due_ns(now_ns):
            return True
        return now_ns >= self._hurry_ns and self._runs_low(now_ns)

    def _runs_low(self, now_ns: int) -> bool:
        """Return whether what is left ends before a later answer would come, and none will."""
        channel, plan = self._channel, self._plan
        channel.has_slot(now_ns)  # forgets what was lost
        step_ns = plan.step_ns if plan.latest_ns is not None else self._step_ns
        left_ns = plan.remaining(now_ns) * step_ns
        waited_ns = now_ns - self._observed_ns
        return (
            not (channel.on_wire or channel.pending)
            and waited_ns >= step_ns
            and left_ns <= self._latency_ns + step_ns
        )

    @property
    def _latency_ns(self) -> int:
        """How long an answer takes: the second longest of the latest, as one may be odd."""
        ordered = sorted(self._latencies_ns)
        return ordered[-2] if len(ordered) > 2 else max(ordered, default=0)

    def observe(self, captured: Instant | None = None, /, **values: Value) -> int:
        """Ask for the next chunk; returns at once, with the observation's number.

        Args:
            captured: When the values were; now if None.
            values: As `Model.observe` takes them. What the episode was begun with is added.

        Raises:
            LocalProtocolError: The episode is over, or the connection closed.
            WindowFull: Under `keep="all"`, when too many are unanswered.
            TypeError: A value cannot be sent.
            ValueError: `captured` is of another clock.
        """
        if self._closed:
            raise LocalProtocolError("the episode is over")
        now_ns = time.monotonic_ns()
        captured_ns = now_ns if captured is None else instant_ns(captured)
        if captured_ns > now_ns + FUTURE_NS:
            raise ValueError(
                "captured lies in the future; a tick or time.monotonic_ns() is expected"
            )
        self._collect(captured_ns)  # the row of this instant is still to be executed
        plan = self._plan
        remaining = plan.remaining(captured_ns)
        delay = -(-self._latency_ns // plan.step_ns) if plan.latest_ns is not None else None
        committed = None if delay is None else min(delay, remaining)
        if self._cadence is not None:
            self._cadence.observed(captured_ns if self._due_ns is None else self._due_ns)
        self._due_ns = None
        sequence = self._observe_at(
            {**self._constant, **values},
            steps_remaining=remaining if plan.latest_ns is not None else None,
            age_us=max(0, now_ns - captured_ns) // 1000,
            committed_steps=committed,
            inference_delay_steps=delay,
        )
        if len(self._asked) >= MOST_ASKED:
            del self._asked[next(iter(self._asked))]
        self._observed_ns = captured_ns
        self._asked[sequence] = (captured_ns, captured_ns + (committed or 0) * plan.step_ns)
        self._begun = True
        return sequence

    # ------------------------------------------------------------------------------- acting

    def action(self, now: Instant | None = None) -> Step:
        """Return the action for an instant, or why there is none."""
        now_ns = time.monotonic_ns() if now is None else instant_ns(now)
        self._collect(now_ns)
        self.counts.steps += 1
        row = self._plan.at(now_ns)
        return Step(row) if row is not None else self._without()

    def _without(self) -> Step:
        plan, status = self._plan, self._channel.status
        started = plan.latest_ns is not None
        self.counts.dry += started
        if not self._link.up:
            reason = "LINK_DOWN"
        elif status is not None and status is not Outcome.OK:
            reason = status.name
        else:
            reason = "DRY" if started else "NOT_YET"
        last = plan.last
        if callable(self._dry):
            return Step(self._dry(Step(last, reason)), reason)
        if self._dry == "none" or last is None:
            return Step(None, reason)
        return Step(last if self._dry == "hold" else np.zeros_like(last), reason)

    # ------------------------------------------------------------------------------ answers

    def _collect(self, now_ns: int) -> None:
        """Take in what has come."""
        if now_ns - self._link.pumped_ns > PUMP_NS:
            self._link.pump()
        while self._channel.answers:
            result = self._channel.take_first()
            if result is not None:
                self._answered(result, now_ns)

    def _answered(self, result: Result, now_ns: int) -> None:
        if result.episode != self.number:
            self.counts.stale += result.ok
            return
        asked = self._asked.get(result.sequence)
        if asked is None:  # something later was answered before
            self.counts.stale += result.ok
            return
        if not result.ok:
            del self._asked[result.sequence]
            after_s = result.retry_after_s
            if after_s is not None:
                self._retry_ns = now_ns + round(after_s * 1e9)
            self._hurry_ns = now_ns + (self._period_ns or REFUSED_NS)
            return
        for sequence in [number for number in self._asked if number <= result.sequence]:
            del self._asked[sequence]
        self._latencies_ns.append(result.elapsed_ns)
        captured_ns, committed_until_ns = asked
        step_ns = result.response.step_period_us * 1000 or self._step_ns
        rows = self._rows(result)
        start_ns = captured_ns + result.first_step * step_ns
        chunk = Chunk(rows, captured_ns, start_ns, step_ns, committed_until_ns)
        if self._plan.take(chunk, now_ns):
            self.counts.chunks += 1
        else:
            self.counts.stale += 1

    def _rows(self, result: Result) -> Rows:
        key = self._action_key
        if key is None:
            keys = [tensor.key for tensor in result.response.tensors]
            if len(keys) != 1:
                raise ValueError(
                    f"model {self._channel.model_id!r} answers with {', '.join(keys) or 'nothing'}:"
                    " episode(action=...) has to say which one holds the actions"
                )
            key = keys[0]
        if key not in result:
            raise ValueError(f"model {self._channel.model_id!r} answers without {key!r}")
        rows: Any = result[key]
        return rows if result.horizon else rows[None]

    # --------------------------------------------------------------------------------- ends

    def reset(self) -> None:
        """End the episode and begin the next; nothing of the old one is delivered any more.

        Raises:
            LocalProtocolError: The episode is over, or the connection closed.
        """
        if self._closed:
            raise LocalProtocolError("the episode is over")
        self._end()
        self._begin()

    def close(self) -> None:
        """End the episode. Idempotent."""
        if not self._closed:
            self._closed = True
            self._channel.takes_older = False
            self._channel.forget_cadence()
            if not self._core.closed:
                self._end()

    def _end(self) -> None:
        for sequence in self._asked:
            self._core.cancel(self._channel, sequence)
        self._asked.clear()
        self._core.drop_answers(self._channel)
        self._plan.clear()
        self._core.end_episode(self._channel)
        self._link.pump()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
