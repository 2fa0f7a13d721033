"""Another version is activated under load: no request is lost, and the GPU hardly stands still."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from appliance.models.active import Active, write_active
from benchmarks.scheduling import idle
from tools.gpu_check.busy import busy_model
from tools.gpu_check.engines import build_all
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.served import STATE, config_of, graphless, robot, serving
from tools.gpu_check.setting import Setting

SECONDS = 2.0
"""Of load before it and after it."""
WINDOW = 16
LAYERS = 8
LEAST_GAPS = Limit(">=", 10)
"""Without any, nothing is known of the longest."""
MOST_BATCHES = Limit("<=", 2.0, of_gpu=True)
MOST_S = 60.0


def write_models(setting: Setting, root: Path) -> None:
    """Write both versions."""
    for version in ("1", "2"):
        busy_model(
            setting,
            root,
            "arm",
            layers=LAYERS,
            manifest="max_batch = 8\n",
            seed=int(version),
            version=version,
        )


def check(setting: Setting, finding: Finding) -> None:
    """Activate version 2 while two robots always ask."""
    root, stop = setting.folder("swap"), setting.folder("stop") / "now"
    write_models(setting, root)
    write_active(root / "arm", Active(version="1"))
    if setting.on_gpu:
        finding.details["built"] = [built.version for built in build_all(root)]
    seconds = setting.seconds(SECONDS)
    with (
        serving(root, config_of(setting)) as box,
        robot(box, "arm", STATE, client_id="robot-0", window=WINDOW) as first,
        robot(box, "arm", STATE, client_id="robot-1", window=WINDOW) as second,
    ):
        recording = box.record("swap.mcap")
        for each in (first, second):
            each.tell(seconds=MOST_S, until=str(stop))
        time.sleep(seconds)
        activated = _activate(setting, root, box.directory / "admin.sock")
        time.sleep(seconds)
        stop.touch()
        found = [first.hear(), second.hear()]
        box.end_recording(recording)
        batches = sorted(idle.recorded_batches(box.directory / "swap.mcap"))
        finding.problems += graphless(box)
    finding.details |= {"robots": found, "activate said": activated.stdout.splitlines()}
    finding.expect(activated.returncode == 0, f"activate: {activated.stderr.strip()[-500:]}")
    versions = {version for each in found for version in each["versions"]}
    finding.expect(versions == {"1", "2"}, f"versions that answered: {sorted(versions)}")
    missing = sum(each["asked"] - each["ended"].get("OK", 0) for each in found)
    finding.add("asked and not answered", missing, "", Limit("<=", 0))
    finding.add(
        "longest wait for the next answer", max(each["longest_gap_ms"] for each in found), "ms"
    )
    judge(finding, batches)


def judge(finding: Finding, batches: Sequence[idle.Executed]) -> None:
    """Judge how long the GPU stood still, and how long robots got no answer, at the worst.

    A batch that is stretched by what is loaded beside it leaves no gap, but robots wait for it all
    the same: nothing may hold answers up by more than two batches, besides the one they come from.
    """
    gaps_us = idle.gaps_us(batches, 0, 1 << 63)
    finding.add("gaps between batches while somebody waits", len(gaps_us), "", LEAST_GAPS)
    if gaps_us:
        usual_ns = sorted(each.finished_ns - each.began_ns for each in batches)[len(batches) // 2]
        finding.add("a batch, median", usual_ns / 1e6, "ms")
        finding.add("the longest of them", gaps_us[-1] / 1e3, "ms")
        finding.add("of that, batches", gaps_us[-1] * 1e3 / usual_ns, "", MOST_BATCHES)
        held_ns = _longest_ns(batches) - usual_ns
        finding.add("answers held up at the longest, batches", held_ns / usual_ns, "", MOST_BATCHES)


def _longest_ns(batches: Sequence[idle.Executed]) -> int:
    """Return the longest from a batch's end to the next one's, while somebody waits."""
    ended = sorted(batches, key=lambda each: each.finished_ns)
    return max(
        later.finished_ns - earlier.finished_ns
        for earlier, later in pairwise(ended)
        if later.first_ns <= earlier.finished_ns
    )


def _activate(setting: Setting, root: Path, socket: Path) -> subprocess.CompletedProcess[str]:
    order = ["models", "activate", "arm", "2", "--models", str(root), "--socket", str(socket)]
    return subprocess.run(
        [sys.executable, "-m", "appliance", *order, "--device", setting.device],
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST_S,
    )
