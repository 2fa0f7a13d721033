"""Workers die, hang and fail: every request has one outcome, and nobody else is harmed."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.box import Box, box

from appliance import Outcome

PAIR = """
[[workers]]
name = "a"
count = 2
models = ["poisonous", "sleeper"]

[[workers]]
name = "b"
models = ["mlp"]
"""
# A row that a worker died on waits for a second worker, and a busy machine starts one slowly.
PATIENT = ("scheduling.request_ttl_ms=60000",)
KILLER = np.full(4, 666, np.float32)
UNLUCKY = np.full(4, 13, np.float32)


def ledgers_agree(running: Box, asked: int, answers: Counter[Outcome]) -> dict[str, object]:
    """Compare what the SDKs were told, what the server counted, and what the engines ran."""
    status = running.wait_settled()
    assert status["requests"]["asked"] == asked
    assert status["outcomes"] == {outcome.name: count for outcome, count in answers.items()}
    assert sum(status["outcomes"].values()) == asked
    assert status["ledger"]["balanced"], status["ledger"]
    finished = sum(worker["rows_finished"] for worker in status["workers"])
    assert finished == answers[Outcome.OK] + sum(status["ledger"]["wasted"].values())
    return status


def test_one_row_that_kills_its_worker_costs_nobody_else_an_answer(models: Path) -> None:
    with box(models, config=PAIR, overrides=PATIENT) as running:
        robots = [running.connect(f"robot-{i}") for i in range(6)]
        policies = [r.model("poisonous", latency_budget_ms=5000) for r in robots]
        for round_number in range(3):
            for i, policy in enumerate(policies):
                policy.observe(state=KILLER if i == 2 else np.full(4, i, np.float32))
            for i, policy in enumerate(policies):
                answer = policy.wait(60_000)
                assert answer is not None, (round_number, i, running.log())
                wanted = Outcome.WORKER_LOST if i == 2 else Outcome.OK
                assert answer.status is wanted, (answer.message, running.log())
        answers: Counter[Outcome] = Counter()
        for robot in robots:
            answers.update(robot.statistics().answers)
        ledgers_agree(running, 18, answers)
        for robot in robots:
            robot.close()


def test_one_row_that_the_engine_fails_on_fails_alone(models: Path) -> None:
    with box(models, config=PAIR, overrides=PATIENT) as running:
        robots = [running.connect(f"robot-{i}") for i in range(8)]
        policies = [r.model("poisonous", latency_budget_ms=5000) for r in robots]
        for i, policy in enumerate(policies):
            policy.observe(state=UNLUCKY if i == 5 else np.full(4, i, np.float32))
        for i, policy in enumerate(policies):
            answer = policy.wait(10_000)
            assert answer is not None
            if i == 5:
                assert answer.status is Outcome.ENGINE_FAILED
                assert "thirteen brings bad luck" in answer.message
            else:
                assert answer.status is Outcome.OK
                np.testing.assert_array_equal(answer["action"], np.full(4, 2 * i, np.float32))
        status = running.wait_settled()
        assert status["outcomes"] == {"OK": 7, "ENGINE_FAILED": 1}
        assert all(worker["restarts"] == 0 for worker in status["workers"])
        for robot in robots:
            robot.close()


def closed_loop(running: Box, name: str, model: str, key: str, width: int, stop: threading.Event,
                answers: Counter[Outcome], asked: Counter[str]) -> None:  # fmt: skip
    with running.connect(name) as connection:
        policy = connection.model(model, latency_budget_ms=3000)
        x = np.zeros(width, np.float32)
        while not stop.is_set():
            policy.observe_at({key: x})
            answer = policy.wait(60_000)
            assert answer is not None, "no outcome at all"
        statistics = connection.statistics()
        answers.update(statistics.answers)
        asked[name] = statistics.asked


def test_ten_kills_under_load(models: Path) -> None:
    with box(models, config=PAIR, overrides=PATIENT) as running:
        with running.connect("asker") as connection:
            spec = connection.model("mlp").describe(5000)
            assert spec is not None
            key = spec.inputs[0].source
        stop = threading.Event()
        answers: Counter[Outcome] = Counter()
        asked: Counter[str] = Counter()
        threads = [
            threading.Thread(
                target=closed_loop,
                args=(running, f"robot-{i}", *which, stop, answers, asked),
            )
            for i, which in enumerate([("sleeper", "state", 4)] * 4 + [("mlp", key, 8)])
        ]
        for thread in threads:
            thread.start()
        try:
            for kill in range(10):
                slot = f"a-{kill % 2}"
                before = next(
                    w["generation"] for w in running.status()["workers"] if w["slot"] == slot
                )
                running.kill_worker(slot)
                running.wait_until(
                    lambda status, slot=slot, before=before: any(
                        w["slot"] == slot and w["generation"] > before and w["state"] == "ready"
                        for w in status["workers"]
                    )
                )
        finally:
            stop.set()
            for thread in threads:
                thread.join(90)
        assert not any(thread.is_alive() for thread in threads)
        assert asked["robot-4"] > 100
        # What ran on a killed worker is tried once more where another one is up in time.
        assert set(answers) <= {Outcome.OK, Outcome.WORKER_LOST, Outcome.EXPIRED}
        assert answers[Outcome.OK] > 0.9 * asked.total()
        ledgers_agree(running, asked.total(), answers)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced_and_what_it_ran_is_answered(
    models: Path, how: signal.Signals
) -> None:
    with box(models, config=PAIR, overrides=PATIENT) as running:
        robots = [running.connect(f"robot-{i}") for i in range(2)]
        policies = [robot.model("sleeper", latency_budget_ms=10_000) for robot in robots]
        pid = running.kill_worker("a-0", how)
        for policy in policies:  # two at a time, so that both workers are given one
            policy.observe(state=np.zeros(4, np.float32))
        for policy in policies:
            answer = policy.wait(60_000)
            assert answer is not None
            assert answer.status is Outcome.OK, answer.message
        running.wait_until(
            lambda status: (
                status["state"] == "ready"
                and pid not in [worker["pid"] for worker in status["workers"]]
            )
        )
        ledgers_agree(running, 2, Counter({Outcome.OK: 2}))
        for robot in robots:
            robot.close()


def test_models_that_cannot_load_are_told_apart_and_harm_nobody(
    models: Path, tmp_path: Path
) -> None:
    import shutil

    from support.repository import add_onnx_model, add_python_model

    root = tmp_path / "models"
    shutil.copytree(models, root)
    add_onnx_model(root, "corrupt", b"this is not ONNX")
    (root / "missing" / "1").mkdir(parents=True)
    (root / "missing" / "model.toml").write_text('engine = "onnxruntime"\n')
    (root / "wrong" / "1").mkdir(parents=True)
    (root / "wrong" / "model.toml").write_text("max_bach = 3\n")
    add_python_model(root, "raises", "raise RuntimeError('no weights')")
    add_python_model(root, "leaves", "import os; os._exit(7)")
    with box(root, state="degraded") as running, running.connect("robot") as connection:
        running.wait_until(
            lambda status: any(
                m["name"] == "mlp" and m["state"] == "ready" for m in status["models"]
            )
        )
        for name in ("corrupt", "missing", "wrong", "raises", "leaves"):
            policy = connection.model(name)
            policy.observe(x=np.zeros(4, np.float32))
            answer = policy.wait(10_000)
            assert answer is not None, name
            assert answer.status is Outcome.ENGINE_FAILED, (name, answer.status, answer.message)
            assert name in answer.message
        policy = connection.model("sleeper", latency_budget_ms=1000)
        policy.observe(state=np.zeros(4, np.float32))
        answer = policy.wait(10_000)
        assert answer is not None
        assert answer.status is Outcome.OK
        reasons = " ".join(running.status()["reasons"])
        assert "max_bach" in reasons
        assert "no weights" in reasons
