"""Strategies in a real appliance: chosen, switched under load, replaced when they fail."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.box import Box, box
from support.fleet_models import add_sleeper

from appliance import Outcome
from appliance.admin import client as admin
from appliance.cli import main
from appliance.client.connection import Model

PAGE = Path(__file__).parents[2] / "docs" / "scheduling.md"
FAULTY = """
def fails(request):
    if request.urgency == 1.0:
        raise ValueError("too urgent")
    return -request.age_ms
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the modules lie that an appliance of this page's tests finds."""
    directory = tmp_path_factory.mktemp("modules")
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (directory / "cell_policies.py").write_text(code)
    (directory / "faulty.py").write_text(FAULTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)
        patch.syspath_prepend(directory)
        yield directory


@pytest.fixture
def running(modules: Path, tmp_path: Path) -> Iterator[Box]:
    add_sleeper(tmp_path / "models", "slow", ms=2)
    with box(tmp_path / "models", config="") as running:
        yield running


def configure(running: Box, text: str) -> int:
    """Replace the configuration at once, as editors do, and let it be read."""
    config = running.directory / "config.toml"
    config.with_suffix(".new").write_text(text)
    config.with_suffix(".new").replace(config)
    return main(["reload", "--socket", running.socket])


def ask(model: Model, **said: Any) -> None:
    model.observe(state=np.zeros(4, np.float32), **said)


def faults(running: Box) -> dict[str, str]:
    text = admin.get(running.socket, "/metrics", 5.0)
    assert isinstance(text, str)
    return dict(re.findall(r'strategy_faults_total\{cause="(\w+)"\} (\d+)', text))


def tables() -> list[str]:
    """The configurations that docs/scheduling.md shows."""
    found = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [text for text in found if "[scheduling]" in text]


def test_strategies_change_under_load_and_nothing_is_lost(running: Box) -> None:
    texts = [
        *tables(),
        *(f'[scheduling]\nstrategy = "{name}"\n' for name in ("round_robin", "priority_tiered")),
        "",
    ]
    assert len(texts) == 5
    with running.connect("arm") as robot:
        model = robot.model("slow", keep="all", latency_budget_ms=5000)
        for text in texts * 2:
            ask(model)
            assert configure(running, text) == 0
            for _ in range(5):
                ask(model, urgency=0.5, steps_remaining=3)
            assert [each.status for each in model.results(10_000)] == [Outcome.OK] * 6
    status = running.wait_settled()
    assert status["outcomes"] == {"OK": 60}
    assert status["ledger"]["balanced"]
    assert (status["state"], status["reasons"], faults(running)) == ("ready", [], {})


def test_a_policy_that_fails_is_replaced_and_that_is_said(
    running: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = '[scheduling]\nstrategy = "faulty:fails"\n'
    assert configure(running, broken) == 0
    with running.connect("arm") as robot:
        model = robot.model("slow", keep="all", latency_budget_ms=5000)
        for urgency in (0.5, 1.0, 0.5):
            ask(model, urgency=urgency)
            assert [each.status for each in model.results(10_000)] == [Outcome.OK]
        (reason,) = running.status()["reasons"]
        assert "faulty:fails is replaced by the default" in reason
        assert "ValueError: too urgent" in reason
        assert running.status()["state"] == "degraded"
        running.wait_until(lambda _: faults(running) == {"raised": "1"})
        assert "line 4, in fails" in running.log()

        assert configure(running, broken + "max_retries = 1\n") == 0
        assert running.status()["state"] == "degraded", "another key is no reason to try it again"
        assert configure(running, '[scheduling]\nstrategy = "round_robin"\n') == 0
        assert running.status()["reasons"] == []
        assert configure(running, broken) == 0
        assert running.status()["reasons"] == []
        ask(model, urgency=1.0)
        assert [each.status for each in model.results(10_000)] == [Outcome.OK]
    assert running.status()["state"] == "degraded"
    running.wait_until(lambda _: faults(running) == {"raised": "2"})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('strategy = "robin"', "scheduling.strategy: found 'robin'; allowed: deadline_aware"),
        ('strategy = "faulty:gone"', "faulty has no attribute 'gone'"),
        (
            'strategy = "batch_optimized"\nparameters = {max_batch_size = "many"}',
            'max_batch_size: found "many"; allowed: an integer',
        ),
        ("strategy = 3", "scheduling.strategy: found 3; allowed: a string"),
        ("parameters = 3", "scheduling.parameters: found 3; allowed: a table"),
        ("parameters = {x = 1}", "deadline_aware takes no parameters"),
    ],
)
def test_what_cannot_be_used_is_refused_everywhere(
    modules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(f"[scheduling]\n{text}\n")
    assert main(["check-config", str(file)]) == 1
    checked = capsys.readouterr().err
    assert str(file) in checked
    assert said in checked


def test_a_reload_that_cannot_be_used_keeps_what_held(
    running: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure(running, '[scheduling]\nstrategy = "robin"\n') == 1
    assert "found 'robin'" in capsys.readouterr().out
    with running.connect("arm") as robot:
        model = robot.model("slow", latency_budget_ms=5000)
        ask(model)
        assert [each.status for each in model.results(10_000)] == [Outcome.OK]
    assert running.status()["state"] == "ready"
