"""Two models on one GPU: who is in tier 0 is hardly slower while others keep the GPU busy."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.children import Child
from tools.gpu_check.busy import busy_model
from tools.gpu_check.engines import build_all
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.served import CRITICAL, STATE, config_of, robot, serving
from tools.gpu_check.setting import Setting

SECONDS = 4.0
WINDOW = 16
LAYERS = 4
PLENTY_MS = 2000.0
TIMES = Limit("<=", 2.0, of_gpu=True)


def check(setting: Setting, finding: Finding) -> None:
    """Measure a critical robot alone, and beside two that always ask."""
    root = setting.folder("priorities")
    # The other's batches are no longer than the critical one's: nothing stops a batch that runs.
    busy_model(setting, root, "critical", layers=LAYERS, manifest="max_batch = 1\nurgent = true\n")
    busy_model(setting, root, "other", layers=LAYERS, manifest="max_batch = 2\n", seed=2)
    if setting.on_gpu:
        finding.details["built"] = [built.name for built in build_all(root)]
    seconds = setting.seconds(SECONDS)
    with serving(root, config_of(setting) + CRITICAL) as box, ExitStack() as stack:

        def start(model: str, client_id: str, window: int, budget_ms: float) -> Child:
            return stack.enter_context(
                robot(box, model, STATE, client_id=client_id, window=window, budget_ms=budget_ms)
            )

        alone = start("critical", "critical", 1, PLENTY_MS).ask(seconds=seconds)
        # The scheduler lets who has time wait: it has as long as the limit says.
        budget_ms = TIMES.value * alone["round_trip_us"]["p50"] / 1000
        critical = start("critical", "critical", 1, budget_ms)
        others = [start("other", f"other-{number}", WINDOW, PLENTY_MS) for number in range(2)]
        for each in others:
            each.tell(seconds=seconds + 1)
        beside = critical.ask(seconds=seconds)
        heard = [each.hear() for each in others]
        models = {each["name"]: each for each in box.status()["models"]}
    finding.details |= {
        "alone": alone,
        "beside": beside,
        "others": heard,
        "budget_ms": budget_ms,
        "execute_us": {name: each["latency_us"]["execute"] for name, each in models.items()},
    }
    finding.add("tier 0 alone, p99", alone["round_trip_us"]["p99"], "us")
    finding.add("tier 0 beside the others, p99", beside["round_trip_us"]["p99"], "us")
    finding.add(
        "of that over alone",
        beside["round_trip_us"]["p99"] / alone["round_trip_us"]["p99"],
        "times",
        TIMES,
    )
    finding.add("the others' answers", sum(each["per_second"] for each in heard), "/s")
    missing = sum(each["asked"] - each["ended"].get("OK", 0) for each in (alone, beside, *heard))
    finding.add("asked and not answered", missing, "", Limit("<=", 0))
