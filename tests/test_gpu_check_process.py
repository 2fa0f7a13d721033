"""`python -m tools.gpu_check` and its processes: how they end, and what is known then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tools.gpu_check import process, program
from tools.gpu_check.process import Line, by_itself

ROOT = Path(__file__).parent.parent
SAYS = "import json, os, subprocess, sys, time\ndef say(x): print(json.dumps(x), flush=True)\n"


def ran(tmp_path: Path, code: str, *, most_s: float = 30.0) -> Line:
    return by_itself([sys.executable, "-c", SAYS + code], tmp_path, tmp_path / "log", most_s)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    """Whether it runs; what was killed and not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("say({'state': 'good'})", "good"),
        ("pass", "ended without a word"),
        ("say({'state': 'bad: x'}); print(12); print([]); print('{}')", "bad: x"),
        ("say({'state': 'good'}); sys.exit(3)", "ended with status 3"),
        ("say({'state': 'good'}); sys.exit('no room')", "ended with status 1: no room"),
        (
            "say({'state': 'failed: the context is lost'}); os.abort()",
            "ended with status -6; before that failed: the context is lost",
        ),
    ],
)
def test_how_a_section_ended_and_what_it_said_are_known(
    tmp_path: Path, code: str, state: str
) -> None:
    assert ran(tmp_path, code)["state"] == state


def test_a_section_that_left_its_output_to_another_process_ends_in_time(tmp_path: Path) -> None:
    code = """
say({"state": "bad: slow", "figures": [1]})
child = subprocess.Popen(["sleep", "30"], start_new_session=True)
open("%s/pid", "w").write(str(child.pid))
time.sleep(30)
"""
    started = time.monotonic()
    line = ran(tmp_path, code % tmp_path, most_s=3.0)
    assert time.monotonic() - started < 15
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert line["state"] == "stopped: its 3 s were over; before that bad: slow"
    assert line["figures"] == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it runs still
def test_a_section_that_cannot_be_killed_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in a driver that hangs."""
    started: list[int] = []
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    with monkeypatch.context() as while_it_runs:
        while_it_runs.setattr(os, "killpg", lambda pid, _: started.append(pid))
        line = ran(tmp_path, "say({'state': 'good'}); time.sleep(30)", most_s=3.0)
    assert line["state"] == "stopped: its 3 s were over, and it cannot be killed"
    os.kill(started[0], signal.SIGKILL)
    with suppress(ChildProcessError):  # the garbage collector may have been first
        os.waitpid(started[0], 0)


def test_what_a_section_left_running_is_ended(tmp_path: Path) -> None:
    line = ran(tmp_path, "say({'state': 'good', 'pid': subprocess.Popen(['sleep', '30']).pid})")
    assert line["state"] == "good"
    wait_until(lambda: not is_there(line["pid"]))


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_who_is_told_to_end_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = ["--engine", "onnxruntime", "--only", "priorities", "--models", "policy"]
    with subprocess.Popen(
        [sys.executable, "-m", "tools.gpu_check", str(tmp_path / "results.json"), *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as program:
        wait_until(lambda: any(children(child) for child in children(program.pid)))
        [section] = children(program.pid)
        below = children(section)
        program.send_signal(number)
        assert program.wait(30) == 128 + number
    wait_until(lambda: not any(map(is_there, [section, *below])))
    assert list(temporary.iterdir()) == []


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.gpu_check", *words, "--engine", "onnxruntime"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )


@pytest.mark.parametrize("share", ["0", "-1", "1.1", "nan", "inf", "much"])
def test_a_share_is_a_part(tmp_path: Path, share: str) -> None:
    ended = check(str(tmp_path / "results.json"), f"--share={share}")
    assert ended.returncode == 2
    assert "argument --share" in ended.stderr


def test_results_that_cannot_be_written_are_told_first(tmp_path: Path) -> None:
    ended = check(str(tmp_path / "nowhere" / "results.json"))
    assert ended.returncode == 2
    assert "the results cannot be written: " in ended.stderr


@pytest.mark.parametrize("words", [("--only", "tpyo"), ("--only", "door", "--models", "camera")])
def test_nothing_chosen_is_not_good(tmp_path: Path, words: tuple[str, ...]) -> None:
    results = tmp_path / "results.json"
    ended = check(str(results), *words)
    assert ended.returncode == 1
    assert "no section was chosen; there are: device, " in ended.stdout
    found = json.loads(results.read_text())
    assert (found["good"], found["sections"], found["only"]) == (False, {}, [words[1]])
    assert "the robots' door" in found["left_out"]


def opened_below(directory: Path) -> set[str]:
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
    paths = [each.readlink() for each in links if each.exists()]
    return {each.name for each in paths if each.parent == directory}


def test_gpus_are_held_open_from_the_first_section_to_the_last(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia2").mkdir()  # as one that may not be opened
    with program.held(tmp_path):
        assert opened_below(tmp_path) == {"nvidia0", "nvidia1"}
    assert opened_below(tmp_path) == set()


# ------------------------------------------------------------------------- from a checkout


def make(*words: str) -> str:
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    ).stdout


def test_a_checkout_has_what_the_gpu_extra_brings_before_it_is_checked() -> None:
    known = make("--print-data-base", "--eval", "nothing: ;", "nothing").splitlines()
    assert "gpu-check: beside-dev" in known
    assert "test-kernels: beside-dev" in known


def test_an_environment_that_is_there_is_checked_without_a_network(tmp_path: Path) -> None:
    build, environment = tmp_path / "build", tmp_path / "none"
    words = "--engine onnxruntime --only device --models policy"
    said = make(
        "gpu-check",
        f"BUILD={build}",
        f"VENV={environment}",
        f"GPU_CHECK_PYTHON={sys.executable}",
        f"GPU_CHECK_ARGS={words}",
    )
    assert "device: good" in said
    assert json.loads((build / "gpu-check.json").read_text())["good"]
    assert [each.name for each in build.iterdir()] == ["gpu-check.json"]
    assert not environment.exists()
