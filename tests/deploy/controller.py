"""`python controller.py ADDRESS NAME`: a robot's controller, until its input ends.

50 Hz control, 10 Hz policy, chunks of 16 steps of 20 ms. The policy writes into each row when its
observation was captured and which step it is, so that an action of another instant is seen. Prints
`executes` when it does for the first time; at the end what it executed, where it had no answer for
long, and the SDK's own ledger, as one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import select
import sys
import time

import numpy as np

from appliance import Connection

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


def main() -> None:
    address, name = sys.argv[1:]
    connection = Connection([f"{address}:5555"], client_id=name, reconnect_max_ms=100)
    model = connection.model("clock", latency_budget_ms=100, step_period_ms=STEP_MS)
    executed = wrong = dry = longest = without = 0
    answered_ns: list[int] = []
    unanswered_s: list[float] = []
    with model.episode(observation_hz=POLICY_HZ, dry="hold") as episode:
        for tick in model.ticks(CONTROL_HZ):
            if episode.due(tick):
                episode.observe(tick, captured=np.array([tick.time_ns]))
            step = episode.action(tick)
            if step.ok and step.action is not None:
                captured, row = map(int, step.action)
                wrong += captured + row * STEP_NS != tick.time_ns
                if not executed:
                    print("executes", flush=True)
                executed, without = executed + 1, 0
                if not answered_ns or captured > answered_ns[-1]:
                    answered_ns.append(captured)
            elif executed:
                dry, without = dry + 1, without + 1
                longest = max(longest, without)
            if tick.number % LOOK_TICKS == 0:
                lost = connection.statistics().unanswered - len(unanswered_s)
                unanswered_s += [time.monotonic()] * lost
            if select.select([sys.stdin], [], [], 0)[0]:
                break
    # What is still under way is heard of.
    until_s = time.monotonic() + END_S
    while connection.statistics().outstanding and time.monotonic() < until_s:
        model.get_result(timeout_ms=20)
    pairs = list(itertools.pairwise(answered_ns))
    counted = connection.statistics()
    connection.close()
    print(
        json.dumps(
            {
                "robot": name,
                "executed": executed,
                "wrong": wrong,
                "dry": dry,
                "longest_dry_ms": longest * STEP_MS,
                # When each began, in seconds of the monotonic clock, and how long it was.
                "gaps": [(a / 1e9, (b - a) / 1e6) for a, b in pairs if b - a > LONG_NS],
                "unanswered_s": unanswered_s,
                "asked": counted.asked,
                "answers": {outcome.name: number for outcome, number in counted.answers.items()},
                "unanswered": counted.unanswered,
                "outstanding": counted.outstanding,
                "unmatched": counted.unmatched,
            }
        )
    )


if __name__ == "__main__":
    main()
