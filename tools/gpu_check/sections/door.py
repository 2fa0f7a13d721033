"""The robots' door: through the SDK, ZeroMQ and the core. One robot alone, then many."""

from __future__ import annotations

from contextlib import ExitStack

from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.served import config_of, graphless, robot, serving
from tools.gpu_check.setting import Setting

SECONDS = 4.0
ROBOTS, WINDOW = 2, 32
NOTHING = Limit("<=", 0)


def check(setting: Setting, finding: Finding) -> None:
    """Ask each model."""
    side = setting.picture_side
    all_inputs = {
        "policy": {"state": ("float32", (14,))},
        "resnet": {"image": ("float32", (3, side, side))},
    }
    names = [entry.name for entry in setting.entries() if entry.name in all_inputs]
    with serving(setting.with_models(names), config_of(setting)) as box, ExitStack() as stack:
        for name in names:
            inputs = all_inputs[name]
            alone = stack.enter_context(robot(box, name, inputs, client_id="alone", window=1))
            found = alone.ask(seconds=setting.seconds(SECONDS))
            finding.add(f"{name}: one robot, p50", found["round_trip_us"]["p50"], "us")
            finding.add(f"{name}: one robot, p99", found["round_trip_us"]["p99"], "us")
            many = [
                stack.enter_context(
                    robot(box, name, inputs, client_id=f"{name}-{number}", window=WINDOW)
                )
                for number in range(ROBOTS)
            ]
            for each in many:
                each.tell(seconds=setting.seconds(SECONDS))
            all_found = [each.hear() for each in many]
            rate = sum(each["per_second"] for each in all_found)
            finding.add(f"{name}: {ROBOTS * WINDOW} asked at any time, answers", rate, "/s")
            missing = sum(each["asked"] - each["ended"].get("OK", 0) for each in all_found)
            finding.add(f"{name}: asked and not answered", missing, "", NOTHING)
            model = next(each for each in box.status()["models"] if each["name"] == name)
            finding.details[name] = {
                "alone": found,
                "many": all_found,
                "rows in a batch": model["batch_size_mean"],
            }
        finding.problems += graphless(box)
