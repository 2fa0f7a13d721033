"""Runs the sections, one after the other, each a process of its own, within the budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from appliance.engines.cuda.driver import CPU, find_device, ordinal_of
from appliance.engines.tensorrt.flavour import Flavour, find_flavour
from appliance.errors import ApplianceError, DeviceMissing
from appliance.models.engine_cache import CACHE_VARIABLE
from tools.gpu_check.finding import Finding
from tools.gpu_check.models import make
from tools.gpu_check.setting import Failed, Setting
from tools.gpu_check.table import table
from tools.worker_client import WorkerGone

BUDGET_S = 470.0
"""For everything: less than the eight minutes that such a box may be had."""
MODELS_S = 6.0
"""Of that, to write the models."""
PATIENCE_ON_CPU = 6.0
"""There this program is only tried: it may take so many times as long."""
LOG_LINES = 100
Line = dict[str, Any]


@frozen
class Section:
    """A section.

    Attributes:
        most_s: The time it has.
        module: In `sections`; its `check` gets `options`, too.
        models: It runs only if all of them are among those chosen.
        needs: What has to be there for it to mean anything.
    """

    most_s: float
    module: str
    options: Mapping[str, Any] = field(factory=dict[str, Any])
    models: tuple[str, ...] = ()
    needs: Literal["", "gpu", "tensorrt", "bf16"] = ""


def _speed(most_s: float, model: str, size: int, runs: int) -> Section:
    return Section(most_s, "speed", {"model": model, "size": size, "runs": runs}, (model,))


SECTIONS: Mapping[str, Section] = {
    "device": Section(8, "device"),
    "health": Section(10, "health", needs="gpu"),
    "build": Section(45, "build", {"precision": "fp32"}, needs="tensorrt"),
    "outputs, graphs on": Section(38, "outputs", {"graphs": True}),
    "outputs, graphs off": Section(28, "outputs", {"graphs": False}, needs="gpu"),
    "preprocessing": Section(12, "preprocessing", needs="gpu"),
    "in flight": Section(10, "in_flight", models=("policy",)),
    "faults": Section(28, "faults", models=("policy",)),
    "out of memory": Section(14, "memory", models=("policy", "resnet")),
    "a kernel that never ends": Section(26, "endless", models=("policy",)),
    "speed of policy, 1": _speed(8, "policy", 1, 3000),
    "speed of policy, 16": _speed(8, "policy", 16, 3000),
    "speed of camera, 4": _speed(10, "camera", 4, 500),
    "speed of resnet, 16": _speed(14, "resnet", 16, 200),
    "priorities": Section(28, "priorities"),
    "swap under load": Section(22, "swap"),
    "the robots' door": Section(20, "door"),
    "W1 on real engines": Section(43, "fleet"),
    "build in fp16": Section(22, "build", {"precision": "fp16"}, needs="tensorrt"),
    "outputs in fp16": Section(24, "outputs", {"precision": "fp16"}, needs="gpu"),
    "build in bf16": Section(22, "build", {"precision": "bf16"}, needs="bf16"),
    "outputs in bf16": Section(24, "outputs", {"precision": "bf16"}, needs="bf16"),
}
"""By name. Their times are not more than there is, so that none takes another's; what matters most
comes first all the same."""


# ------------------------------------------------------------------------- one section


def run_section(name: str, setting: Setting) -> Line:
    """Run a section in this process; return its line of the results.

    What it has found until then is printed after each figure.
    """
    section = SECTIONS[name]
    try:
        ordinal = ordinal_of(setting.device)
        if ordinal is not None:
            find_device(ordinal)
        check = import_module(f"tools.gpu_check.sections.{section.module}").check
        finding = Finding(on_gpu=setting.on_gpu, on_figure=_say)
        check(setting, finding, **section.options)
    except DeviceMissing as error:
        return {"state": f"no GPU: {error}"}
    except (ApplianceError, Failed, WorkerGone, RuntimeError) as error:
        return {"state": f"failed: {error}"}
    return finding.document()


def _say(finding: Finding) -> None:
    print(json.dumps(finding.document(), default=str), flush=True)


# --------------------------------------------------------------------------------- all


@frozen(kw_only=True)
class Order:
    """What to do.

    Attributes:
        device: Of the workers.
        models: By name.
        words: Only sections whose name holds one of them; none: all.
        share: Of runs and seconds.
    """

    results: Path
    device: str
    models: Sequence[str]
    words: Sequence[str]
    share: float

    @property
    def on_gpu(self) -> bool:
        """Whether engines are TensorRT's."""
        return self.device != CPU

    def chosen(self, flavour: Flavour | None) -> dict[str, Section]:
        """Return the sections to run.

        Args:
            flavour: The TensorRT that is there; None: there is none, and a GPU's sections say so.
        """
        there = {""}
        if self.on_gpu:
            there |= {"gpu", "tensorrt", "bf16"}
        elif flavour is not None and flavour.builds_for_others:
            there.add("tensorrt")
        if flavour is not None and not flavour.builds_in("bf16"):
            there.discard("bf16")
        found = {
            name: section
            for name, section in SECTIONS.items()
            if (not self.words or any(word in name for word in self.words))
            and set(section.models) <= set(self.models)
            and section.needs in there
        }
        if "build" in found and self.on_gpu and "bf16" not in there:
            # Before 10 it measures every way to compute each layer.
            free_s = sum(each.most_s for each in SECTIONS.values() if each.needs == "bf16")
            found["build"] = evolve(found["build"], most_s=found["build"].most_s + free_s)
        return found


def _flavour() -> Flavour | None:
    try:
        return find_flavour()
    except ApplianceError:
        return None


def run(order: Order) -> bool:
    """Run the sections that are asked for, and write and print what came; return if all is good."""
    begun = time.monotonic()
    sections: dict[str, Line] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        work = Path(name)
        log = work / "log.txt"
        os.environ[CACHE_VARIABLE] = str(work / "engines")
        setting = Setting(work, order.device, order.share)
        missing = make(setting.root, order.models, picture_side=setting.picture_side)
        results: Line = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "device": order.device,
            "share": order.share,
            "missing_models": missing,
            "sections": sections,
        }
        arguments = ["--work", name, "--device", order.device, "--share", str(order.share)]
        patience = 1.0 if order.on_gpu else PATIENCE_ON_CPU
        for title, section in order.chosen(_flavour()).items():
            left_s = patience * BUDGET_S - (time.monotonic() - begun)
            sections[title] = (
                _by_itself(title, arguments, min(patience * section.most_s, left_s), log)
                if left_s >= 5
                else {"state": "not run: no time was left"}
            )
            good = _all_good(sections) and not missing
            results |= {
                "good": good,
                "seconds": round(time.monotonic() - begun, 1),
                "log": _tail(log),
            }
            order.results.write_text(json.dumps(results, indent=2, default=str) + "\n")
            line = sections[title]
            print(f"{title}: {line['state']} ({line.get('seconds', 0)} s)", flush=True)
    print(f"\n{table(sections)}\n")
    for each in missing:
        print(f"not there: {each}")
    return bool(sections) and _all_good(sections) and not missing


def _all_good(sections: Mapping[str, Line]) -> bool:
    return all(line["state"] == "good" for line in sections.values())


def _by_itself(title: str, arguments: Sequence[str], most_s: float, log: Path) -> Line:
    """Run a section as a process; return its line of the results."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tools.gpu_check", "--section", title, *arguments]
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        try:
            answer, _ = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            # With all that it has started: a box, robots. Workers end with who started them.
            os.killpg(process.pid, signal.SIGKILL)
            answer, _ = process.communicate()
            stopped = f"stopped: its {most_s:.0f} s were over"
        else:
            stopped = f"ended with status {process.returncode}" if process.returncode else ""
    line = _last_said(answer)
    if stopped:
        last = _tail(log)[-1:] if process.returncode > 0 else []
        line["state"] = ": ".join([stopped, *last])
    line["seconds"] = round(time.monotonic() - started, 1)
    return line


def _last_said(answer: bytes) -> Line:
    """Return the last line that is whole; nothing, if there is none."""
    for said in reversed(answer.splitlines()):
        with suppress(ValueError):
            line: Line = json.loads(said)
            return line
    return {}


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
