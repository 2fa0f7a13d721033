"""`python -m benchmarks.scheduling`: one case as JSON, a table with its plot, and the peers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
ASKED = {
    "miss",
    "critical_miss",
    "goodput",
    "bound",
    "useful_work",
    "worst_client",
    "longest_streak",
    "p99_hit_ms",
    "decision_us",
}


def benchmark(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.scheduling", "--seconds", "3", *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300
    ).stdout


def case(*arguments: str) -> dict[str, Any]:
    return json.loads(benchmark("--json", *arguments))


def test_one_case_is_one_document() -> None:
    found = case("--policy", "appliance", "--load", "0.8", "--seed", "21", "--advice")
    assert found.keys() >= ASKED
    assert found["decision_us"].keys() == {"p50", "p99"}
    assert found["unanswered"] == 0
    assert 0 < found["goodput"] <= found["bound"]
    assert "dry_starts" not in found


def test_chunk_executing_robots_have_figures_of_their_own() -> None:
    found = case("--workload", "w3", "--policy", "edf")
    assert found["dry_start_ms"].keys() == {"p50", "p99", "max"}
    assert found["dry_ticks_per_robot_hour"] >= 0


def test_all_that_makes_it_harder_does() -> None:
    easy = case("--policy", "edf", "--load", "0.8")
    hard = case(
        *("--policy", "edf", "--load", "0.8", "--flood", "--sync", "--jitter", "3"),
        *("--sigma", "0.1", "--spikes", "0.01"),
    )
    assert easy["miss"] < 5 < hard["miss"]
    assert hard["miss_of"].keys() == easy["miss_of"].keys()  # the one who floods is not counted


def test_without_a_policy_there_is_a_table_of_everybody_and_a_plot(tmp_path: Path) -> None:
    plot = tmp_path / "made" / "plot.png"
    shown = benchmark("--seeds", "1", "--loads", "0.5,1.5", "--plot", str(plot))
    for name in ("appliance", "appliance + advice", "edf", "triton", "inferential-ideal"):
        assert len(re.findall(rf" {re.escape(name)}  ", shown)) == 2  # at each of two loads
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("policy", ["inferential", "ray-serve", "clockwork", "symphony"])
def test_peers_answer_everybody(policy: str) -> None:
    found = case("--policy", policy, "--load", "1.5", "--flood")
    assert found["unanswered"] == 0
    assert found["miss"] > 10
