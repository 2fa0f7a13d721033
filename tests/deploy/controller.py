"""`python controller.py ADDRESS NAME [KEYS]`: a robot's controller, until its input ends.

50 Hz control, 10 Hz policy, chunks of 16 steps of 20 ms. The policy writes into each row when its
observation was captured and which step it is, so that an action of another instant is seen. A line
`PORT KEYS` in its input lets it move to another door of the box, with another key file: it goes
on with the actions it has until there are some from there. Prints `executes` when it does for the
first time, `moved` when it has; at the end what it executed, where it had no answer for
long, and the SDK's own ledger, as one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import select
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field

from appliance import Connection, Episode, Model, Outcome

if TYPE_CHECKING:
    from appliance import Step, Tick

CONTROL_HZ, POLICY_HZ, STEP_MS = 50.0, 10.0, 20
STEP_NS = STEP_MS * 1_000_000
END_S = 2.0
LONG_NS = 300_000_000
LOOK_TICKS = 5

MANIFEST = """
engine = "python"
callable = "policy:run"
max_batch = 4

[[inputs]]
name = "captured"
dtype = "int64"
shape = [1]

[chunk]
horizon = 16
step_period_ms = 20
"""
POLICY = """
import time
import numpy as np

STEPS = np.arange(16)

def run(batch):
    time.sleep(0.005)
    captured = np.repeat(batch["captured"], 16, axis=1)
    return {"actions": np.stack([captured, np.broadcast_to(STEPS, captured.shape)], -1)}
"""


@define
class Line:
    """A connection to the box, and an episode of the model there."""

    connection: Connection
    model: Model
    episode: Episode

    @classmethod
    def open(cls, server: str, name: str, keys: str) -> Line:
        connection = Connection([server], client_id=name, reconnect_max_ms=100, keys=keys or None)
        model = connection.model("clock", latency_budget_ms=100, step_period_ms=STEP_MS)
        return cls(connection, model, model.episode(observation_hz=POLICY_HZ, dry="hold"))

    def step(self, tick: Tick) -> Step:
        """Observe if it is time to; return what to do now."""
        if self.episode.due(tick):
            self.episode.observe(tick, captured=np.array([tick.time_ns]))
        return self.episode.action(tick)

    def leave(self) -> None:
        """Observe no more, and hear of what is still under way."""
        self.episode.close()
        until_s = time.monotonic() + END_S
        while self.connection.statistics().outstanding and time.monotonic() < until_s:
            self.model.get_result(timeout_ms=20)
        self.connection.close()


@define
class Ledger:
    """What was executed.

    Attributes:
        dry: Instants without an action, after the first one; `longest`: most of them in a row.
        answered_ns: When the observations were captured whose actions were executed.
    """

    executed: int = 0
    wrong: int = 0
    dry: int = 0
    longest: int = 0
    answered_ns: list[int] = field(factory=list[int])
    _without: int = 0

    def count(self, tick: Tick, step: Step) -> None:
        """Take in what was done at an instant."""
        if step.ok and step.action is not None:
            captured, row = map(int, step.action)
            self.wrong += captured + row * STEP_NS != tick.time_ns
            if not self.executed:
                print("executes", flush=True)
            self.executed, self._without = self.executed + 1, 0
            if not self.answered_ns or captured > self.answered_ns[-1]:
                self.answered_ns.append(captured)
        elif self.executed:
            self.dry, self._without = self.dry + 1, self._without + 1
            self.longest = max(self.longest, self._without)

    def gaps(self) -> list[tuple[float, float]]:
        """Return when each long one began, in seconds of the monotonic clock, and its ms."""
        pairs = itertools.pairwise(self.answered_ns)
        return [(a / 1e9, (b - a) / 1e6) for a, b in pairs if b - a > LONG_NS]


def main() -> None:
    address, name, *keys = sys.argv[1:]
    line = Line.open(f"{address}:5555", name, "".join(keys))
    following: Line | None = None
    left: list[Line] = []
    ledger = Ledger()
    unanswered_s: list[float] = []
    for tick in line.model.ticks(CONTROL_HZ):
        step = line.step(tick)
        if following is not None and (next_step := following.step(tick)).ok:
            # It has an action for this very instant, so it takes over without a gap.
            line.episode.close()
            left, line, following, step = [*left, line], following, None, next_step
            print("moved", flush=True)
        ledger.count(tick, step)
        if tick.number % LOOK_TICKS == 0:
            lost = sum(each.connection.statistics().unanswered for each in (*left, line))
            unanswered_s += [time.monotonic()] * (lost - len(unanswered_s))
        if select.select([sys.stdin], [], [], 0)[0]:
            words = sys.stdin.readline().split()
            if not words:
                break
            following = Line.open(f"{address}:{words[0]}", name, words[1])
    for each in (*left, line):
        each.leave()
    counts = [each.connection.statistics() for each in (*left, line)]
    answers = sum((Counter(each.answers) for each in counts), Counter[Outcome]())
    print(
        json.dumps(
            {
                "robot": name,
                "executed": ledger.executed,
                "wrong": ledger.wrong,
                "dry": ledger.dry,
                "longest_dry_ms": ledger.longest * STEP_MS,
                "gaps": ledger.gaps(),
                "unanswered_s": unanswered_s,
                "asked": sum(each.asked for each in counts),
                "answers": {outcome.name: number for outcome, number in answers.items()},
                "unanswered": sum(each.unanswered for each in counts),
                "outstanding": sum(each.outstanding for each in counts),
                "unmatched": sum(each.unmatched for each in counts),
            }
        )
    )


if __name__ == "__main__":
    main()
