"""Two models on one GPU: how much slower is tier 0 while others keep the GPU busy?

Three times. First the critical robot says by when it needs its answer, and the others' batches are
no longer than its own. Then they may be sixteen rows long, and its own runs beside them: the limit
is the same. Then it gives itself plenty of time, too, and the scheduler lets it wait: that is only
to be known.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.box import Box
from benchmarks.children import Child
from tools.gpu_check.busy import busy_model
from tools.gpu_check.engines import build_all
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.served import CRITICAL, STATE, config_of, graphless, robot, serving
from tools.gpu_check.setting import Setting

SECONDS = 2.5
WINDOW = 16
LAYERS = 4
PLENTY_MS = 2000.0
TIMES = Limit("<=", 2.0, of_gpu=True)


@frozen
class Case:
    """How tier 0 meets the others.

    Attributes:
        others: The model that they ask.
        budget_ms: That the critical robot gives itself.
        limit: Of its p99 over that alone.
    """

    name: str
    others: str
    budget_ms: float
    limit: Limit | None


def write_models(setting: Setting, root: Path) -> None:
    """Write the critical robot's model, and those of the others."""
    busy_model(setting, root, "critical", layers=LAYERS, manifest="max_batch = 1\nurgent = true\n")
    busy_model(setting, root, "short", layers=LAYERS, manifest="max_batch = 2\n", seed=2)
    busy_model(setting, root, "long", layers=LAYERS, manifest="max_batch = 16\n", seed=3)


def check(setting: Setting, finding: Finding) -> None:
    """Measure a critical robot alone, and beside two that always ask."""
    root = setting.folder("priorities")
    write_models(setting, root)
    if setting.on_gpu:
        finding.details["built"] = [built.name for built in build_all(root)]
    with serving(root, config_of(setting) + CRITICAL) as box:
        with _asking(box, "critical", "critical", window=1) as critical:
            alone = critical.ask(seconds=setting.seconds(SECONDS))
        finding.details["alone"] = alone
        finding.add("tier 0 alone, p99", alone["round_trip_us"]["p99"], "us")
        told_ms = TIMES.value * alone["round_trip_us"]["p50"] / 1000
        for case in (
            Case("limited", "short", told_ms, TIMES),
            Case("long batches", "long", told_ms, TIMES),
            Case("unlimited", "long", PLENTY_MS, None),
        ):
            _beside(setting, finding, box, case, alone)
        models = {each["name"]: each for each in box.status()["models"]}
        finding.problems += graphless(box)
    finding.details["models"] = {
        name: {"execute_us": each["latency_us"]["execute"], "rows": each["batch_size_mean"]}
        for name, each in models.items()
    }


def _beside(
    setting: Setting, finding: Finding, box: Box, case: Case, alone: dict[str, Any]
) -> None:
    seconds = setting.seconds(SECONDS)
    with ExitStack() as stack:
        critical = stack.enter_context(
            _asking(box, "critical", "critical", window=1, budget_ms=case.budget_ms)
        )
        others = [
            stack.enter_context(_asking(box, case.others, f"{case.name}-{number}", window=WINDOW))
            for number in range(2)
        ]
        for each in others:
            each.tell(seconds=seconds + 1)
        beside = critical.ask(seconds=seconds)
        heard = [each.hear() for each in others]
    name = case.name
    finding.details[name] = {"budget_ms": case.budget_ms, "beside": beside, "others": heard}
    p99_us = beside["round_trip_us"]["p99"]
    finding.add(f"{name}: tier 0 beside the others, p99", p99_us, "us")
    finding.add(
        f"{name}: of that over alone", p99_us / alone["round_trip_us"]["p99"], "times", case.limit
    )
    finding.add(f"{name}: the others' answers", sum(each["per_second"] for each in heard), "/s")
    missing = sum(each["asked"] - each["ended"].get("OK", 0) for each in (beside, *heard))
    finding.add(f"{name}: asked and not answered", missing, "", Limit("<=", 0))


def _asking(
    box: Box, model: str, client_id: str, *, window: int, budget_ms: float = PLENTY_MS
) -> Child:
    return robot(box, model, STATE, client_id=client_id, window=window, budget_ms=budget_ms)
