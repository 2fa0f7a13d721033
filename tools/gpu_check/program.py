"""Runs the sections, one after the other, each a process of its own, within the budget."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
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
from tools.gpu_check.process import Line, by_itself, tail
from tools.gpu_check.setting import Failed, Setting
from tools.gpu_check.table import table
from tools.worker_client import WorkerGone

BUDGET_S = 470.0
"""For everything: less than the eight minutes that such a box may be had."""
MODELS_S = 4.0
"""Of that, to write the models."""
PATIENCE_ON_CPU = 6.0
"""There this program is only tried: it may take so many times as long."""


@frozen
class Section:
    """A section.

    Attributes:
        most_s: The time it has.
        module: In `sections`; its `check` gets `options`, too.
        models: It runs only if all of them are among those chosen.
        needs: What has to be there for it to mean anything.
        built: The section that builds the engines that it takes out of the cache, on a GPU.
    """

    most_s: float
    module: str
    options: Mapping[str, Any] = field(factory=dict[str, Any])
    models: tuple[str, ...] = ()
    needs: Literal["", "gpu", "tensorrt", "bf16", "gpu, bf16", "no bf16"] = ""
    built: str = ""


def _speed(most_s: float, model: str, size: int, runs: int) -> Section:
    options = {"model": model, "size": size, "runs": runs}
    return Section(most_s, "speed", options, (model,), built="build")


SECTIONS: Mapping[str, Section] = {
    "device": Section(8, "device"),
    "health": Section(8, "health", needs="gpu"),
    "build": Section(45, "build", {"precision": "fp32"}, needs="tensorrt"),
    "outputs, graphs on": Section(38, "outputs", {"graphs": True}, built="build"),
    "outputs, graphs off": Section(28, "outputs", {"graphs": False}, needs="gpu", built="build"),
    "preprocessing": Section(12, "preprocessing", needs="gpu"),
    "in flight": Section(14, "in_flight", models=("policy", "resnet"), built="build"),
    "faults": Section(28, "faults", models=("policy",), built="build"),
    "out of memory": Section(14, "memory", models=("policy", "resnet"), built="build"),
    "a kernel that never ends": Section(26, "endless", models=("policy",), built="build"),
    "speed of policy, 1": _speed(8, "policy", 1, 3000),
    "speed of policy, 16": _speed(8, "policy", 16, 3000),
    "speed of camera, 4": _speed(10, "camera", 4, 500),
    "speed of resnet, 16": _speed(14, "resnet", 16, 200),
    "build for load": Section(22, "build_for_load", needs="no bf16"),
    "priorities": Section(28, "priorities", built="build for load"),
    "swap under load": Section(22, "swap", built="build for load"),
    "the robots' door": Section(20, "door", models=("policy", "resnet"), built="build"),
    "W1 on real engines": Section(43, "fleet", built="build for load"),
    "build in fp16": Section(22, "build", {"precision": "fp16"}, needs="tensorrt"),
    "outputs in fp16": Section(
        24, "outputs", {"precision": "fp16"}, needs="gpu", built="build in fp16"
    ),
    "build in bf16": Section(22, "build", {"precision": "bf16"}, needs="bf16"),
    "outputs in bf16": Section(
        24, "outputs", {"precision": "bf16"}, needs="gpu, bf16", built="build in bf16"
    ),
}
"""By name. The times of those that can run together are not more than there is, so that none takes
another's; what matters most comes first all the same."""


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
            there |= {"gpu", "tensorrt", "bf16", "gpu, bf16"}
        elif flavour is not None and flavour.builds_for_others:
            there |= {"tensorrt", "bf16"}
        if self.on_gpu and flavour is not None and not flavour.builds_in("bf16"):
            there = there - {"bf16", "gpu, bf16"} | {"no bf16"}
        possible = {
            name: section
            for name, section in SECTIONS.items()
            if set(section.models) <= set(self.models) and section.needs in there
        }
        wanted = {
            name for name in possible if not self.words or any(word in name for word in self.words)
        }
        if self.on_gpu:
            wanted |= {possible[name].built for name in wanted}
        found = {name: section for name, section in possible.items() if name in wanted}
        if "build" in found and "no bf16" in there:
            # Before 10 it measures every way to compute each layer.
            found["build"] = evolve(found["build"], most_s=found["build"].most_s + _freed_s())
        return found


def _freed_s() -> float:
    """Return the time of what is left out before 10, less that of what is not."""

    def most_s(*needs: str) -> float:
        return sum(each.most_s for each in SECTIONS.values() if each.needs in needs)

    return most_s("bf16", "gpu, bf16") - most_s("no bf16")


def _flavour() -> Flavour | None:
    try:
        return find_flavour()
    except ApplianceError:
        return None


def run(order: Order) -> bool:
    """Run the sections that are asked for, and write and print what came; return if all is good."""
    begun = time.monotonic()
    sections: dict[str, Line] = {}
    chosen = order.chosen(_flavour())
    with (
        tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as name,
        held() if order.on_gpu else nullcontext(),
    ):
        work = Path(name)
        log = work / "log.txt"
        os.environ[CACHE_VARIABLE] = str(work / "engines")
        setting = Setting(work, order.device, order.share)
        missing = make(setting.root, order.models, picture_side=setting.picture_side)
        results: Line = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "device": order.device,
            "share": order.share,
            "models": list(order.models),
            "only": list(order.words),
            "left_out": [title for title in SECTIONS if title not in chosen],
            "missing_models": missing,
            "good": False,
            "sections": sections,
        }
        _write(order.results, results)
        command = [sys.executable, "-m", "tools.gpu_check", "--work", name]
        command += ["--device", order.device, "--share", str(order.share), "--section"]
        patience = 1.0 if order.on_gpu else PATIENCE_ON_CPU
        for title, section in chosen.items():
            left_s = patience * BUDGET_S - (time.monotonic() - begun)
            sections[title] = (
                by_itself([*command, title], work, log, min(patience * section.most_s, left_s))
                if left_s >= 5
                else {"state": "not run: no time was left"}
            )
            results |= {
                "good": sections.keys() == chosen.keys() and not missing and _all_good(sections),
                "seconds": round(time.monotonic() - begun, 1),
                "log": tail(log),
            }
            _write(order.results, results)
            line = sections[title]
            print(f"{title}: {line['state']} ({line.get('seconds', 0)} s)", flush=True)
    print(f"\n{table(sections)}\n")
    for each in missing:
        print(f"not there: {each}")
    if not chosen:
        print(f"no section was chosen; there are: {', '.join(SECTIONS)}")
    good: bool = results["good"]
    return good


@contextmanager
def held(devices: Path = Path("/dev")) -> Generator[None, None, None]:
    """Hold NVIDIA's GPUs open, if that may be done.

    Without persistence mode the driver shuts a GPU down when nobody has it open any more, which is
    so between two sections; and to start it takes seconds, out of the next one's time.
    """
    with ExitStack() as stack:
        for path in devices.glob("nvidia[0-9]*"):
            with suppress(OSError):
                stack.enter_context(path.open("r+b", buffering=0))
        yield


def _all_good(sections: Mapping[str, Line]) -> bool:
    return all(line["state"] == "good" for line in sections.values())


def _write(path: Path, results: Line) -> None:
    path.write_text(json.dumps(results, indent=2, default=str, allow_nan=False) + "\n")
