"""More models than a worker's memory: robots that ask for either are answered all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from support.box import Box, box
from support.repository import add_onnx_mlp

from appliance import Outcome

TURNS = 6
HIDDEN = 1 << 19  # a file of 24 MiB
NAMES = ("first", "second")


def ask_in_turn(running: Box) -> dict[str, list[Any]]:
    """Ask for one model after the other; return the answers."""
    answers: dict[str, list[Any]] = {name: [] for name in NAMES}
    with running.connect("arm") as connection:
        for turn in range(TURNS):
            for name in NAMES:
                model = connection.model(name, latency_budget_ms=20_000)
                model.observe_at({"x": np.full(8, turn, np.float32)})
                result = model.wait(20_000)
                assert result is not None
                assert result.status is Outcome.OK
                answers[name].append(result["y"])
        assert connection.statistics().answers == {Outcome.OK: TURNS * len(NAMES)}
    return answers


def test_two_models_with_memory_for_one_are_asked_in_turn(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        add_onnx_mlp(tmp_path, name, seed=seed, hidden=HIDDEN)
    with box(tmp_path) as running:
        status = running.status()
        taken_bytes = sorted(model["memory_bytes"] for model in status["models"])
        assert taken_bytes[0] >= 24 << 20
        (worker,) = status["workers"]
        assert (worker["resident"], worker["budget_bytes"]) == ([*NAMES], 0)
        assert worker["resident_bytes"] == sum(taken_bytes)
        expected = ask_in_turn(running)
        assert [model["loads"] for model in running.status()["models"]] == [0, 0]

    budget_mib = (taken_bytes[1] + taken_bytes[0] // 2) >> 20
    with box(tmp_path, config=f"[[workers]]\nmemory_mib = {budget_mib}\n") as running:
        answers = ask_in_turn(running)
        status = running.wait_settled()
        shown = subprocess.run(
            [sys.executable, "-m", "appliance", "models", "list", "--socket", running.socket],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    for name in NAMES:
        np.testing.assert_array_equal(answers[name], expected[name])
    (worker,) = status["workers"]
    assert (worker["resident"], worker["restarts"]) == (["second"], 0)
    assert worker["resident_bytes"] <= worker["budget_bytes"] == budget_mib << 20
    assert worker["rows_finished"] == TURNS * len(NAMES)
    assert status["outcomes"] == {"OK": TURNS * len(NAMES)}
    assert status["ledger"]["balanced"]
    loads = {model["name"]: (model["loads"], model["evictions"]) for model in status["models"]}
    assert loads == {"first": (TURNS, TURNS), "second": (TURNS, TURNS)}, json.dumps(status)
    assert "first" in shown
    assert f"in no worker's memory; loaded again {TURNS} times" in " ".join(shown.split())
