"""What goes wrong is said, with what to do, and ends what it should."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from appliance.models.engine_cache import (
    ABOUT,
    CACHE_VARIABLE,
    ENGINE,
    EngineCache,
    default_cache,
)
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Failed, Setting
from tools.worker_client import WorkerClient, WorkerGone

READY_S = 30.0
QUEUED = 20
REMEDY = "appliance models build"


def check(setting: Setting, finding: Finding) -> None:
    """Try each fault."""
    _hidden(finding)
    _killed(setting, finding)
    if setting.on_gpu:
        for name, (harm, words) in HARMS.items():
            _harmed(setting, finding, name, harm, words)
    else:
        _cut_short(setting, finding)


def _hidden(finding: Finding) -> None:
    """No GPU may be seen: that is said."""
    probe = subprocess.run(
        [sys.executable, "-m", "appliance.engines", "--probe", "cuda:0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=20,
    )
    said = probe.stderr.strip()[-300:]
    finding.details["hidden GPU"] = said
    good = probe.returncode == 1 and "GPU" in said
    finding.expect(good, f"with the GPU hidden, a probe ended with {probe.returncode}: {said}")


def _killed(setting: Setting, finding: Finding) -> None:
    """A worker is killed while batches run: the next one works."""
    root = setting.with_models(["policy"])
    with setting.worker(root) as worker:
        rows = worker.rows("policy", {"state": np.zeros((16, 14), np.float32)})
        output = worker.output_block("policy", 16)
        for _ in range(QUEUED):
            worker.stage("policy", rows, output=output)
        worker.process.kill()
        worker.process.wait()
    started = time.monotonic()
    with setting.worker(root) as worker:
        _runs(worker)
        finding.add(
            "after a kill, the next worker has answered after",
            time.monotonic() - started,
            "s",
            Limit("<=", READY_S),
        )


def _runs(worker: WorkerClient) -> None:
    worker.stage("policy", worker.rows("policy", {"state": np.zeros((1, 14), np.float32)}))
    worker.output(worker.done(), "action", 1)


# ------------------------------------------------------------------------- damaged engines


def _cut(entry: Path) -> None:
    """Only half of it is there."""
    whole = (entry / ENGINE).read_bytes()
    (entry / ENGINE).write_bytes(whole[: len(whole) // 2])


def _nonsense(entry: Path) -> None:
    """It is something else, and the checksum is right."""
    plan = b"\xa5" * 4096
    (entry / ENGINE).write_bytes(plan)
    about = json.loads((entry / ABOUT).read_text())
    about["engine_sha256"] = hashlib.sha256(plan).hexdigest()
    (entry / ABOUT).write_text(json.dumps(about))


def _of_another(key: str, value: str) -> Callable[[Path], None]:
    def harm(entry: Path) -> None:
        about = json.loads((entry / ABOUT).read_text())
        about["recipe"][key] = value
        (entry / ABOUT).write_text(json.dumps(about))

    return harm


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an engine cut short": (_cut, "damaged"),
    "an engine that is none": (_nonsense, "(does not run|cannot load) this engine"),
    "an engine of another TensorRT": (_of_another("builder", "tensorrt 0.1"), r"tensorrt 0\.1"),
    "an engine for another GPU": (_of_another("target", "0.1"), r"built for 0\.1"),
}
"""What is done to an entry of the cache, and what has to be said of it besides the remedy; a
regular expression."""


def _harmed(
    setting: Setting, finding: Finding, name: str, harm: Callable[[Path], None], words: str
) -> None:
    """Load an engine that was harmed, out of a cache of its own."""
    cache = EngineCache(default_cache())
    keys = [
        key
        for key, about in cache.labels()
        if about.get("model") == "policy" and about["recipe"]["precision"] == "fp32"
    ]
    if not keys:
        raise Failed("no engine of policy was built")
    harmed = setting.folder("harmed")
    shutil.copytree(cache.directory / keys[0], harmed / keys[0])
    harm(harmed / keys[0])
    root = setting.with_models(["policy"])
    expect_refusal(setting, finding, name, root, harmed, (words, REMEDY))


def _cut_short(setting: Setting, finding: Finding) -> None:
    """On the CPU it is the ONNX file of which only half is there."""
    root = setting.folder("harmed")
    shutil.copytree(setting.root / "policy", root / "policy")
    path = root / "policy" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    expect_refusal(setting, finding, "a model cut short", root, root, ("no usable ONNX model",))


def expect_refusal(
    setting: Setting, finding: Finding, name: str, root: Path, cache: Path, words: tuple[str, ...]
) -> None:
    """Load what cannot be loaded: the worker lives on, and all the words are in what it says."""
    is_refused = False
    try:
        with setting.worker(root, environment={CACHE_VARIABLE: str(cache)}):
            said = "it was loaded"
    except Failed as error:
        said, is_refused = str(error), True
    except WorkerGone as error:
        said = str(error)
    finding.details[name] = said
    is_told = is_refused and all(re.search(word, said) for word in words)
    finding.expect(is_told, f"{name}: {said}")
