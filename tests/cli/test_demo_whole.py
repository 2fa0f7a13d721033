"""The demo as users run it: real models, real processes."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

MISSING = [name for name in ("rapidocr", "silero_vad") if find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason="make demo installs the models' wheels")
def test_every_model_answers_and_the_ledgers_are_equal(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    words = ["demo", "--seconds", "2", "--robots", "4", "--json", "--plot", str(plot)]
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *words],
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["problems"] == []
    assert min(document["models"].values()) > 0
    assert sum(document["outcomes"].values()) == document["requests"]
    ledgers = document["ledgers"]
    assert ledgers["equal"]
    assert ledgers["sdks"]["outcomes"] == ledgers["server"]["outcomes"] == document["outcomes"]
    assert ledgers["engines"]["rows_finished"] == document["outcomes"]["OK"]
    robots = {robot["name"]: robot for robot in document["robots"]}
    assert set(robots) == {"arm-1", "camera-1", "microphone-1", "noisy"}
    assert robots["noisy"]["outcomes"]["RATE_LIMITED"] > 0
    assert all(0 < robot["p50_ms"] <= robot["p99_9_ms"] for robot in robots.values())
    assert document["plot"] == str(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [plot]
