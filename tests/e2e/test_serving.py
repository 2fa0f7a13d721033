"""Robots get answers, and the box tells how it goes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from support.box import Box

from appliance import Outcome
from appliance.admin import client as admin


def directly(models: Path, x: np.ndarray) -> np.ndarray:
    """What onnxruntime itself says."""
    session = onnxruntime.InferenceSession(
        str(models / "mlp" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (name,) = (each.name for each in session.get_inputs())
    return session.run(None, {name: x[None]})[0][0]


def command(running: Box, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *words, "--socket", running.socket],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def input_name(running: Box, model: str) -> str:
    with running.connect("asker") as connection:
        spec = connection.model(model).describe(5000)
        assert spec is not None
        return spec.inputs[0].source


def test_answers_are_what_onnxruntime_says_and_the_ledgers_agree(
    two_workers: Box, models: Path
) -> None:
    name = input_name(two_workers, "mlp")
    random = np.random.default_rng(7)
    with two_workers.connect("arm") as connection:
        model = connection.model("mlp", latency_budget_ms=1000)
        for _ in range(50):
            x = random.standard_normal(8).astype(np.float32)
            sequence = model.observe_at({name: x})
            result = model.wait(5000)
            assert result is not None
            assert result.status is Outcome.OK
            assert result.sequence == sequence
            (output,) = (v for v in result.values() if isinstance(v, np.ndarray))
            np.testing.assert_allclose(output, directly(models, x), rtol=1e-5, atol=1e-6)
        asked = connection.statistics()
    status = two_workers.wait_settled()
    assert asked.asked == 50
    assert asked.answers == {Outcome.OK: 50}
    assert status["outcomes"] == {"OK": 50}
    assert sum(worker["rows_finished"] for worker in status["workers"]) == 50
    assert status["ledger"]["balanced"]


def test_status_is_ready_then_degraded_then_unreachable(two_workers: Box) -> None:
    ready = command(two_workers, "status", "--json")
    assert (ready.returncode, json.loads(ready.stdout)["state"]) == (0, "ready")
    curled = subprocess.run(
        ["curl", "-sS", "--unix-socket", two_workers.socket, "http://box/v1/status"],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    ours, theirs = json.loads(ready.stdout), json.loads(curled.stdout)
    assert ours.keys() == theirs.keys()
    assert ours["instance"] == theirs["instance"]

    pid = two_workers.kill_worker("a-0", signal.SIGSTOP)
    with two_workers.connect("arm") as connection:
        model = connection.model("sleeper", latency_budget_ms=5000)
        model.observe(state=np.zeros(4, np.float32))
        degraded = two_workers.wait_until(lambda status: status["state"] == "degraded")
        assert "a-0" in degraded["reasons"][0]
    two_workers.wait_until(
        lambda status: pid not in [worker["pid"] for worker in status["workers"]]
    )

    assert two_workers.stop() == 0
    assert command(two_workers, "status").returncode == 2


def test_status_while_a_worker_restarts_exits_1(two_workers: Box) -> None:
    two_workers.kill_worker("a-0")
    two_workers.wait_until(lambda status: status["state"] == "degraded")
    two_workers.wait_until(lambda status: status["state"] == "ready")


def test_a_robot_that_has_run_dry_goes_first_and_is_never_refused(two_workers: Box) -> None:
    running = two_workers
    crowd = [running.connect(f"crowd-{i}") for i in range(12)]
    waiting = [c.model("sleeper", latency_budget_ms=60, lateness="soft") for c in crowd]
    state = np.zeros(4, np.float32)
    for model in waiting:
        model.observe(state=state)
    running.wait_until(lambda status: status["requests"]["asked"] == 12)
    dry = running.connect("dry")
    policy = dry.model("sleeper", latency_budget_ms=5, lateness="firm", step_period_ms=20)
    policy.observe(state=state, steps_remaining=0)
    result = policy.wait(5000)
    assert result is not None
    assert result.status is Outcome.OK
    assert result.late
    for model in waiting:
        answer = model.wait(5000)
        assert answer is not None
        assert answer.status is Outcome.OK
    order = [c["id"] for c in running.clients()]
    assert "dry" in order
    # It waited for what ran and what was staged, not for the crowd of twelve.
    assert result.timing.queue_us < 3 * 20_000 + 20_000
    for connection in (dry, *crowd):
        connection.close()


def test_a_drain_answers_what_was_accepted_and_refuses_what_comes_later(two_workers: Box) -> None:
    running = two_workers
    robots = [running.connect(f"robot-{i}") for i in range(30)]
    accepted = [r.model("sleeper", latency_budget_ms=5000) for r in robots]
    for model in accepted:
        model.observe(state=np.zeros(4, np.float32))
    late = running.connect("late")
    running.wait_until(lambda status: status["requests"]["asked"] == 30)
    admin.post(running.socket, "/v1/drain", 5.0)
    refused = late.model("sleeper", latency_budget_ms=5000)
    refused.observe(state=np.zeros(4, np.float32))
    answer = refused.wait(5000)
    assert answer is not None
    assert answer.status is Outcome.DRAINING
    outcomes = [model.wait(5000) for model in accepted]
    assert [answer.status for answer in outcomes if answer] == [Outcome.OK] * 30
    assert running.process.wait(20) == 0
    for connection in (late, *robots):
        connection.close()


def test_a_robot_that_looks_now_and_then_reads_its_last_answer_before_the_box_has_gone(
    two_workers: Box,
) -> None:
    robots = [two_workers.connect(f"robot-{i}") for i in range(5)]
    accepted = [robot.model("sleeper", latency_budget_ms=5000) for robot in robots]
    for model in accepted:
        model.observe(state=np.zeros(4, np.float32))
    two_workers.wait_until(lambda status: status["requests"]["asked"] == 5)
    admin.post(two_workers.socket, "/v1/drain", 5.0)
    time.sleep(0.3)  # five of 20 ms are long over; a control loop that runs at 3 Hz
    assert [answer and answer.status for answer in (m.wait(1) for m in accepted)] == [
        Outcome.OK
    ] * 5
    assert two_workers.process.wait(20) == 0
    for robot in robots:
        robot.close()


def test_a_second_appliance_does_not_take_over_the_door_of_the_first(
    two_workers: Box, tmp_path: Path
) -> None:
    running = two_workers
    done = subprocess.run(
        [
            *(sys.executable, "-m", "appliance", "serve", "--models", str(tmp_path)),
            *("--bind", running.address, "--socket", str(running.directory / "other.sock")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "another instance is listening" in done.stderr
    assert "Traceback" not in done.stderr
