"""Robots get answers, and the box tells how it goes."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from support.box import Box, box
from support.repository import add_onnx_mlp, add_python_model

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
    assert shown(json.loads(ready.stdout)) == shown(json.loads(curled.stdout))

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


def shown(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what may be another number a moment later."""
    document = deepcopy(document)
    for name in ("uptime_s", "timer_lateness_us"):
        del document[name]
    for worker in document["workers"]:
        del worker["rss_bytes"]
    return document


def test_the_status_of_a_box_with_a_worker_that_dies_exits_1(tmp_path: Path) -> None:
    add_onnx_mlp(tmp_path, "mlp")
    add_python_model(tmp_path, "leaves", "import os; os._exit(7)")
    split = """
[[workers]]
name = "a"
models = ["mlp"]

[[workers]]
name = "b"
models = ["leaves"]
"""
    with box(tmp_path, config=split, state="degraded") as running:
        done = command(running, "status", "--json")
        document = json.loads(done.stdout)
        assert (done.returncode, document["state"]) == (1, "degraded")
        # Its worker dies with it a few times, and then comes up without it.
        assert any("b-0" in reason or "leaves" in reason for reason in document["reasons"])
        plain = command(running, "status")
        assert (plain.returncode, plain.stdout.count("degraded")) == (1, 1)


def test_a_robot_that_has_run_dry_goes_before_those_that_are_late(two_workers: Box) -> None:
    running = two_workers
    state = np.zeros(4, np.float32)
    replies: Counter[str] = Counter()
    over = threading.Event()

    def closed_loop(name: str) -> None:
        with running.connect(name) as connection:
            model = connection.model("sleeper", latency_budget_ms=60, lateness="soft")
            while not over.is_set():
                model.observe(state=state)
                answer = model.wait(10_000)
                assert answer is not None
                assert answer.status is Outcome.OK
                replies[name] += 1

    crowd = [threading.Thread(target=closed_loop, args=(f"crowd-{i}",)) for i in range(24)]
    for thread in crowd:
        thread.start()
    try:
        running.wait_until(lambda status: status["requests"]["late"] > 48)
        with running.connect("dry") as connection:
            policy = connection.model(
                "sleeper", latency_budget_ms=5, lateness="firm", step_period_ms=20
            )
            before = replies.total()
            policy.observe(state=state, steps_remaining=0)
            result = policy.wait(10_000)
            answered = replies.total() - before
    finally:
        over.set()
        for thread in crowd:
            thread.join(30)
    assert result is not None
    assert result.status is Outcome.OK, "never refused for lateness"
    assert result.late
    assert answered <= 4, "it waited for what ran and was staged, not for the crowd"


def test_robots_that_are_alike_are_served_alike(two_workers: Box) -> None:
    robots, rounds = 8, 12
    x = np.zeros(4, np.float32)
    replies: Counter[int] = Counter()
    with ExitStack() as stack:
        connections = [
            stack.enter_context(two_workers.connect(f"robot-{i}")) for i in range(robots)
        ]
        models = [each.model("sleeper", latency_budget_ms=1000) for each in connections]
        for model in models:
            model.observe(state=x)
        # One loop asks for all of them: where it runs late, it is late for each.
        while replies.total() < robots * rounds:
            ready, _, _ = select.select(connections, [], [], 10)
            assert ready, replies
            for robot, model in enumerate(models):
                if model.wait(0) is not None:
                    replies[robot] += 1
                    model.observe(state=x)
    counts = [replies[robot] for robot in range(robots)]
    assert max(counts) - min(counts) <= 2, counts


def test_a_second_signal_ends_the_grace_and_the_count_is_whole(two_workers: Box) -> None:
    robots = [two_workers.connect(f"robot-{i}") for i in range(20)]
    for robot in robots:
        robot.model("sleeper", latency_budget_ms=5000).observe(state=np.zeros(4, np.float32))
    two_workers.wait_until(lambda status: status["requests"]["asked"] == 20)
    two_workers.process.send_signal(signal.SIGTERM)
    two_workers.wait_until(lambda status: status["state"] == "draining")
    two_workers.process.send_signal(signal.SIGTERM)
    assert two_workers.process.wait(20) == 0
    answers = [robot.model("sleeper").wait(2000) for robot in robots]
    told = Counter(answer.status.name for answer in answers if answer is not None)
    assert told.total() == 20
    assert told["DRAINING"] > 0
    stopped = json.loads(two_workers.log().splitlines()[-1])
    assert stopped["event"] == "stopped"
    assert stopped["outcomes"] == dict(told)
    assert stopped["balanced"]
    assert stopped["in_flight"] == 0
    assert stopped["rows_finished"] == told["OK"] + sum(stopped["wasted"].values())
    for robot in robots:
        robot.close()


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
