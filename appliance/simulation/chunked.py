"""A robot that executes chunks of actions and observes anew before they run out."""

from __future__ import annotations

from random import Random

from attrs import define, field, frozen

from appliance.errors import Outcome
from appliance.simulation.cadence import Cadence
from appliance.simulation.fleet import Chunks, RobotClass
from appliance.simulation.robots import Arrival, uplink_ns


@frozen
class Dry:
    """A time without actions."""

    from_ns: int
    to_ns: int


@define(eq=False, kw_only=True)
class ChunkedRobot:
    """Executes the chunk of the newest observation that was answered.

    A row is for its instant after the capture, so a chunk runs out `steps * step_period` after its
    capture, however late it came. An episode begins without actions, with an observation at once;
    what comes for the episode before is not used.

    Attributes:
        least_ns: What an idle box needs for one row: who has less time left is dry.
        starts: How long each episode waited for its first actions, where that is over.
        gaps: Times without actions later in an episode, likewise.
    """

    client: str
    kind: RobotClass
    chunks: Chunks
    obeys: bool
    cadence: Cadence
    least_ns: int
    starts: list[Dry] = field(factory=list[Dry], init=False)
    gaps: list[Dry] = field(factory=list[Dry], init=False)
    _uplink_ns: int = field(default=0, init=False)
    _reset_ns: int | None = field(default=None, init=False)
    _resets: bool = field(default=False, init=False)
    _episode_ns: int = field(default=0, init=False)
    _chunk_ns: int | None = field(default=None, init=False)

    @property
    def due_ns(self) -> int:
        """Its next capture."""
        return self.cadence.due_ns

    @property
    def dry_from_ns(self) -> int:
        """When its actions run out, or ran out."""
        return (
            self._episode_ns if self._chunk_ns is None else self._chunk_ns + self.chunks.length_ns
        )

    def plan(self, random: Random) -> None:
        """Draw the next observation: by its cadence, or at the beginning of an episode."""
        self.cadence.plan(random)
        self._uplink_ns = uplink_ns(self.kind.network, random)
        if self._reset_ns is None:
            self._begin(self.cadence.due_ns, random)
        elif self._reset_ns <= self.cadence.due_ns:
            self.cadence.restart(self._reset_ns)
            self._resets = True
            self._reset_ns += self._episode(random)

    def _begin(self, first_ns: int, random: Random) -> None:
        """Let the first episode be a part of one, so that not all robots end it at once."""
        self._episode_ns = first_ns
        self._reset_ns = first_ns + round(random.random() * self.chunks.episode_ns)

    def _episode(self, random: Random) -> int:
        return round(random.uniform(0.5, 1.5) * self.chunks.episode_ns)

    def capture(self, now_ns: int) -> Arrival:
        """Observe, and say how many steps are left."""
        captured_ns = self.cadence.due_ns
        self.cadence.captured()
        if self._resets:
            self._resets = False
            self._close(now_ns)
            self._chunk_ns, self._episode_ns = None, captured_ns
        steps = self._steps_remaining(captured_ns)
        left_ns = steps * self.chunks.step_period_ns
        budget_ns = left_ns if self.kind.budget_ns is None else min(left_ns, self.kind.budget_ns)
        return_ns = self.kind.network.return_ns
        travel_ns = self._uplink_ns + return_ns
        dry = steps == 0 or left_ns - travel_ns < self.least_ns
        return Arrival(
            client=self.client,
            model=self.kind.model,
            captured_ns=captured_ns,
            arrived_ns=captured_ns + self._uplink_ns,
            deadline_ns=captured_ns + budget_ns - return_ns,
            tier=self.kind.tier,
            firm=self.kind.firm and budget_ns - travel_ns >= self.least_ns,
            dry=dry,
            runs_out=budget_ns == left_ns,
            period_ns=self.kind.period_ns if self.kind.declares_period else 0,
            counted=self.kind.counted,
        )

    def _steps_remaining(self, captured_ns: int) -> int:
        """Count rows as the SDK does: that of an instant included, a little early is in time."""
        if self._chunk_ns is None:
            return 0
        step_ns = self.chunks.step_period_ns
        return max(0, self.chunks.steps - (captured_ns - self._chunk_ns + step_ns // 8) // step_ns)

    def advised(self, advice_ns: int, now_ns: int) -> None:
        """Observe so much later from now on; an episode begins when it does."""
        if not self._resets:
            self.cadence.advised(advice_ns, now_ns)

    def hears(self, arrival: Arrival, outcome: Outcome, now_ns: int) -> None:
        """Execute the chunk, if it is newer than what is executed and not over."""
        newest_ns = self._episode_ns if self._chunk_ns is None else self._chunk_ns + 1
        captured_ns = arrival.captured_ns
        is_over = captured_ns + self.chunks.length_ns <= now_ns
        if outcome is Outcome.OK and captured_ns >= newest_ns and not is_over:
            self._close(now_ns)
            self._chunk_ns = captured_ns

    def _close(self, now_ns: int) -> None:
        self.starts, self.gaps = self.dry_until(now_ns)

    def dry_until(self, now_ns: int) -> tuple[list[Dry], list[Dry]]:
        """Return `starts` and `gaps`, with the time without actions that lasts at `now_ns`."""
        starts, gaps = self.starts, self.gaps
        if now_ns <= self.dry_from_ns:
            return starts, gaps
        lasting = [Dry(self.dry_from_ns, now_ns)]
        if self._chunk_ns is None:
            return starts + lasting, gaps
        return starts, gaps + lasting
