"""`appliance plan --replay`: what was recorded is served anew, beside how it went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from recording.recordings import MS, OBSERVATION, batch, observation, outcome, write
from support.box import box
from support.fleet_models import add_sleeper
from support.recording import recording

from appliance.cli import main
from appliance.errors import Outcome
from appliance.recording.buffers import Record
from appliance.wire.types import Kind

Capture = pytest.CaptureFixture[str]
ARMS = ("one", "two", "three")
START_NS = 7_000 * MS

TIER_0 = """
[clients.defaults]
latency_budget_ms = 25

[[clients.known]]
id = "three"
tier = 0
"""


def asked(name: str, number: int, *, at_ms: int, budget_ms: int | None = 25) -> Record:
    """An observation of an arm, due in 25 ms."""
    of = evolve(
        OBSERVATION,
        client_id=name,
        latency_budget_us=None if budget_ms is None else 1000 * budget_ms,
    )
    return observation(number, at_ns=START_NS + at_ms * MS, session=name.encode(), of=of)


def ended(
    name: str, number: int, *, at_ms: int, took_ms: int, code: Outcome = Outcome.OK
) -> Record:
    return outcome(
        number,
        at_ns=START_NS + at_ms * MS,
        took_ns=took_ms * MS,
        session=name.encode(),
        client=name,
        code=code,
        slack_us=1000 * (25 - took_ms),
    )


def rush(*, budget_ms: int | None = 25) -> list[Record]:
    """Three arms that ask at once a worker that takes 10 ms for each: the third is late."""
    made: list[Record] = []
    for number, name in enumerate(ARMS):
        took_ms = 10 * (number + 1)
        made += [
            asked(name, 1, at_ms=0, budget_ms=budget_ms),
            batch(1, 10 * MS, at_ns=START_NS + took_ms * MS),
            ended(name, 1, at_ms=took_ms, took_ms=took_ms),
        ]
    return made


def replayed(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["plan", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def missed(found: dict[str, Any], when: str) -> list[str]:
    return [row["client"] for row in found["clients"] if row[f"{when}_miss_percent"]]


def test_who_was_late_is_late_again(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "rush.mcap"
    write(path, rush())
    code, found = replayed(capsys, "--replay", str(path))
    assert (code, found["within"]) == (0, None)
    assert found["total"]["observations"] == 3
    assert missed(found, "recorded") == ["three"]
    assert len(missed(found, "simulated")) == 1
    assert found["total"]["recorded_p99_ms"] == found["total"]["simulated_p99_ms"] == 20
    assert found["models"] == [{"name": "policy", "recorded": True, "times_ms": {"1": 10}}]
    assert found["workers"] == {"cpu-0": ["policy"]}
    assert (found["deadlines_differ"], found["unanswered"], found["left_out"]) == (0, 0, {})
    assert main(["plan", "--replay", str(path)]) == 0
    out = capsys.readouterr().out
    assert "rush.mcap: 3 observations in 0.0 s, served anew by 1 workers" in out
    assert "recorded: [models.policy] times_ms = { 1 = 10.0 }" in out


def test_the_configuration_says_who_is_important_and_what_is_due(
    tmp_path: Path, capsys: Capture
) -> None:
    path, config = tmp_path / "rush.mcap", tmp_path / "appliance.toml"
    write(path, rush(budget_ms=None))
    config.write_text(TIER_0)
    _, found = replayed(capsys, "--replay", str(path), "--config", str(config))
    assert found["deadlines_differ"] == 0
    assert missed(found, "recorded") == ["three"]
    assert missed(found, "simulated") in (["one"], ["two"])
    assert [row["tier"] for row in found["clients"]] == [1, 0, 1]  # by name: one, three, two
    _, found = replayed(capsys, "--replay", str(path))
    assert found["deadlines_differ"] == 3
    assert main(["plan", "--replay", str(path)]) == 0
    assert "3 deadlines were others when it was recorded: name the conf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fleet", "code", "late"),
    [
        ("[[workers]]\ncount = 2\n", 0, 0),
        ("[models.policy]\ntimes_ms = {1 = 5}\n", 0, 0),
        ("[models.policy]\ntimes_ms = {1 = 30}\n", 1, 3),
        ("[target]\nmiss_percent = 30\n", 1, 1),
        ("[target]\nmiss_percent = 34\n", 0, 1),
    ],
)
def test_another_box(tmp_path: Path, capsys: Capture, fleet: str, code: int, late: int) -> None:
    path, described = tmp_path / "rush.mcap", tmp_path / "fleet.toml"
    write(path, rush())
    described.write_text(fleet)
    found_code, found = replayed(capsys, "--replay", str(path), str(described))
    assert found_code == code
    assert len(missed(found, "simulated")) == late
    assert found["within"] == (code == 0)


def test_what_did_not_reach_the_scheduler_is_left_out(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "day.mcap"
    beat = evolve(OBSERVATION, kind=Kind.HEARTBEAT, model_id="")
    write(
        path,
        [
            ended("one", 1, at_ms=0, took_ms=1),  # asked before the recording began
            *rush(),
            observation(9, at_ns=START_NS, of=beat),
            asked("one", 2, at_ms=50),
            ended("one", 2, at_ms=50, took_ms=0, code=Outcome.RATE_LIMITED),
            asked("one", 3, at_ms=60),
            ended("one", 3, at_ms=61, took_ms=1, code=Outcome.SUPERSEDED),
            asked("one", 4, at_ms=90),  # still waiting at the end
            batch(1, 900 * MS, at_ns=START_NS, failed=1),  # says nothing about times
        ],
    )
    _, found = replayed(capsys, "--replay", str(path))
    assert found["total"]["observations"] == 4
    assert found["left_out"] == {"unknown": 2, "RATE_LIMITED": 1}
    assert missed(found, "recorded") == ["one", "three"]
    assert found["models"][0]["times_ms"] == {"1": 10}
    assert main(["plan", "--replay", str(path)]) == 0
    assert "left out: 1 observations that ended in RATE_LIMITED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "fleet", "said"),
    [
        ([], None, "there are no observations in it that reached the scheduler"),
        ([asked("one", 1, at_ms=0)], None, "there are no observations in it that reached"),
        (
            [asked("one", 1, at_ms=0), ended("one", 1, at_ms=5, took_ms=5)],
            None,
            "no batch of model 'policy' is in it, so nobody knows how long one takes; describe it",
        ),
        (rush(), '[[workers]]\nmodels = ["other"]\n', "worker 'gpu-0' hosts the model 'other', wh"),
        (rush(), "[[workers]]\nmodels = []\n", "the model 'policy' was asked, and no worker hosts"),
    ],
)
def test_what_cannot_be_served_anew(
    tmp_path: Path, capsys: Capture, records: list[Record], fleet: str | None, said: str
) -> None:
    path, described = tmp_path / "day.mcap", tmp_path / "fleet.toml"
    write(path, records)
    words = ["plan", "--replay", str(path)]
    if fleet is not None:
        described.write_text(fleet)
        words.append(str(described))
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_real_recording(tmp_path: Path, capsys: Capture) -> None:
    models, path = tmp_path / "models", tmp_path / "day.mcap"
    models.mkdir()
    add_sleeper(models, "sleeper", ms=5)
    with box(models) as running, recording(running, path) as stop:
        with running.connect("arm") as arm:
            model = arm.model("sleeper", latency_budget_ms=4000)
            for number in range(10):
                model.observe(state=np.full(4, number, np.float32))
                assert model.wait(10_000) is not None
        assert stop()[0] == 0
    code, found = replayed(capsys, "--replay", str(path))
    assert code == 0
    (row,) = found["clients"]
    assert (row["client"], row["model"], row["observations"]) == ("arm", "sleeper", 10)
    assert row["recorded_miss_percent"] == row["simulated_miss_percent"] == 0
    assert found["models"][0]["times_ms"]["1"] >= 5
    assert row["recorded_p99_ms"] >= row["simulated_p99_ms"] >= 5
    assert found["deadlines_differ"] == found["unanswered"] == 0
    slow = tmp_path / "fleet.toml"
    slow.write_text("[models.sleeper]\nbase_ms = 4100\nrow_ms = 0\nmax_batch = 1\n")
    code, found = replayed(capsys, "--replay", str(path), str(slow))
    assert (code, found["total"]["simulated_miss_percent"]) == (1, 100)
