"""Roles that act: the documented controller, and a loop that only keeps time.

50 Hz control, 10 Hz policy, chunks of 16 steps. The policy writes into each row when its
observation was captured and which step it is, so that every row can be checked against the instant
it was executed at.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import numpy as np

from appliance import Connection
from benchmarks.box import PYTHON, Model
from benchmarks.stdio import answer

CONTROL_HZ, POLICY_HZ = 50.0, 10.0
STEP_MS, HORIZON = 20, 16
STEP_NS = STEP_MS * 1_000_000


def clock_policy(*, ms: float) -> Model:
    """Return a policy whose rows say (capture in nanoseconds, step); a batch takes `ms`."""
    manifest = PYTHON.format(max_batch=32, name="captured", dtype="int64", shape=[1])
    chunk = f"\n[chunk]\nhorizon = {HORIZON}\nstep_period_ms = {STEP_MS}\n"
    policy = f"""
        import time
        import numpy as np

        STEPS = np.arange({HORIZON})

        def run(batch):
            time.sleep({ms / 1000})
            captured = np.repeat(batch["captured"], {HORIZON}, axis=1)
            return {{"actions": np.stack([captured, np.broadcast_to(STEPS, captured.shape)], -1)}}
        """
    return Model("clock", manifest + chunk, policy)


def controller(*, addresses: list[str], number: int) -> None:
    """Control for `seconds`; answer with what was executed, and what the SDK took of each tick."""
    connection = Connection(addresses, client_id=f"controller-{number}", reconnect_max_ms=100)
    model = connection.model("clock", latency_budget_ms=100, step_period_ms=STEP_MS)
    connection.wait_reachable(5000)

    def run(seconds: float) -> dict[str, Any]:
        wrong = executed = missed = 0
        reasons: Counter[str] = Counter()
        longest = without = 0
        late_ns: list[int] = []
        spent_ns: list[int] = []
        time.sleep(random.random() / CONTROL_HZ)
        with model.episode(observation_hz=POLICY_HZ, dry="hold") as episode:
            for tick in model.ticks(CONTROL_HZ):
                began = time.monotonic_ns()
                if episode.due(tick):
                    episode.observe(tick, captured=np.array([tick.time_ns]))
                step = episode.action(tick)
                spent_ns.append(time.monotonic_ns() - began)
                late_ns.append(tick.late_ns)
                missed += tick.missed
                without = 0 if step.ok else without + 1
                longest = max(longest, without if executed else 0)
                if step.ok and step.action is not None:
                    captured, row = map(int, step.action)
                    executed += 1
                    wrong += captured + row * STEP_NS != tick.time_ns
                elif reasons or executed:
                    reasons[step.reason] += 1
                if tick.number >= seconds * CONTROL_HZ:
                    break
        return {
            "executed": executed,
            "wrong": wrong,
            "reasons": reasons,
            "longest_dry_s": longest / CONTROL_HZ,
            "missed": missed,
            "late_us": [time_ns / 1000 for time_ns in late_ns],
            "spent_us": [time_ns / 1000 for time_ns in spent_ns],
        }

    answer(run)


def bare_loop() -> None:
    """Keep time as a controller does, and do nothing; answer with how late each tick was."""

    def run(seconds: float) -> dict[str, Any]:
        period_ns = round(1e9 / CONTROL_HZ)
        start = time.monotonic_ns()
        late_ns: list[int] = []
        for number in range(1, round(seconds * CONTROL_HZ)):
            moment = start + number * period_ns
            time.sleep(max(0, moment - time.monotonic_ns()) / 1e9)
            late_ns.append(time.monotonic_ns() - moment)
        return {"late_us": [time_ns / 1000 for time_ns in late_ns]}

    answer(run)
