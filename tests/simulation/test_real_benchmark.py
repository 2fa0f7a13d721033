"""`python -m benchmarks.scheduling --real`: its robots, its figures, and a short run of it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.simulation import LinearEngine
from appliance.simulation.population import population
from appliance.simulation.robots import PeriodicRobot
from benchmarks.scheduling.idle import Executed, gaps_us, samples_ns, starts_us
from benchmarks.scheduling.robots import captures
from benchmarks.scheduling.workloads import WORKLOADS, Variation, fleet_of, slowed

ROOT = Path(__file__).parent.parent.parent
SECOND_NS = 1_000_000_000


def robots_of(seed: int, scale: float = 1.0) -> tuple[list[PeriodicRobot], Random]:
    """The fleet at half load."""
    random = Random(seed)
    fleet = slowed(fleet_of(WORKLOADS["w1"], 0.5, Variation()), scale)
    return [each for each in population(fleet, random) if isinstance(each, PeriodicRobot)], random


@given(st.integers(0, 1000))
def test_robots_observe_in_order_at_their_rates(seed: int) -> None:
    robots, random = robots_of(seed)
    found = list(captures(robots, random, SECOND_NS))
    assert found == sorted(found)
    counts = Counter(index for _, index in found)
    for index, robot in enumerate(robots):
        assert abs(counts[index] - robot.kind.rate_hz) <= 1


@given(st.integers(0, 1000))
def test_slow_motion_is_the_same_but_slower(seed: int) -> None:
    plain = by_robot(captures(*robots_of(seed), SECOND_NS))
    slow = by_robot(captures(*robots_of(seed, 3.0), 3 * SECOND_NS))
    assert plain.keys() == slow.keys()
    for index, times_ns in plain.items():
        for at_ns, slow_ns in zip(times_ns, slow[index], strict=False):
            assert abs(slow_ns - 3 * at_ns) < 1000
        assert abs(len(times_ns) - len(slow[index])) <= 1


def by_robot(found: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    times_ns: dict[int, list[int]] = defaultdict(list)
    for at_ns, index in found:
        times_ns[index].append(at_ns)
    return times_ns


def test_slow_motion_is_of_engines_and_deadlines_too() -> None:
    plain = fleet_of(WORKLOADS["w1"], 0.8, Variation())
    slow = slowed(plain, 2.0)
    for engine, before in zip(slow.engines, plain.engines, strict=True):
        assert isinstance(engine, LinearEngine)
        assert engine.mean_ns(8) == 2 * before.mean_ns(8)
    for kind, before in zip(slow.robots, plain.robots, strict=True):
        assert kind.count == before.count
        assert kind.budget_ns == 2 * before.budget_ns
        assert abs(kind.period_ns - 2 * before.period_ns) <= 1


def executed(began_ns: int, finished_ns: int, first_ns: int, told_ns: int = 0) -> Executed:
    return Executed(
        began_ns=began_ns,
        finished_ns=finished_ns,
        first_ns=first_ns,
        told_ns=told_ns,
        model="policy",
        rows=2,
    )


def test_a_gap_counts_only_while_somebody_waits() -> None:
    batches = [
        executed(50_000, 60_000, first_ns=19_000),  # waits since before the one before ended
        executed(10_000, 20_000, first_ns=0, told_ns=4_000),
        executed(90_000, 95_000, first_ns=70_000),  # came when nobody was served
    ]
    assert gaps_us(batches, 0, 100_000) == [30.0]
    assert gaps_us(batches, 51_000, 100_000) == []
    assert starts_us(batches, 0, 50_000) == [6.0]
    assert samples_ns(batches) == {"policy": {2: [10_000, 10_000, 5_000]}}


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it, without the peer: that takes as long again."""
    command = [sys.executable, "-m", "benchmarks.scheduling", "--real", *arguments]
    return subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env={**os.environ, "APPLIANCE_PEER_140": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_short_run_has_all_figures() -> None:
    ran = benchmark("--seconds", "2", "--loads", "0.2", "--scale", "2", "--json")
    assert ran.returncode in (0, 1), ran.stderr  # the machine may be too busy for the limit
    found: dict[str, Any] = json.loads(ran.stdout)
    lines = {line["measured"]: line for line in found["lines"]}
    misses = lines["misses of 15 robots by the server's account"]
    assert found["passed"] is misses["passed"] is (ran.returncode == 0)
    assert misses["limit"] == f"≤ {round(2 * misses['beside_figure'] + 0.2, 3):g} %"
    assert {name.split()[0] for name in misses["note"].split(": ")[1].split(", ")} == {
        *("arm", "base", "camera", "critical")
    }
    assert ";" not in misses["note"]  # all that was sent has ended and was recorded
    heard = lines["misses by the robots' clock"]
    assert heard["figure"] is not None
    assert "/nowhere, which is not there" in heard["note"]
    assert lines["p50 from a decision to the start of its batch"]["figure"] > 0
    assert lines["processor time of the core, of a processor"]["figure"] > 0
    assert "everything takes 2 times as long" in found["machine"]["workload"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workload", "w3"], "w3 has robots that execute chunks"),
        (["--flood"], "--flood: goes without --real"),
        (["--scale", "0"], "--scale 0: more than 0"),
        (["--seconds", "1"], "--seconds 1: at least 2"),
    ],
)
def test_what_cannot_be_run_is_refused(words: list[str], said: str) -> None:
    ran = benchmark(*words)
    assert ran.returncode == 2
    assert said in ran.stderr
