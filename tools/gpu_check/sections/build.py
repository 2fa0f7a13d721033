"""Engines are built of every model in one precision, for the GPU that is there.

TensorRT says whether it takes that GPU and runs them; where it does not, that is a result. Without
a GPU it still reads an engine's header, and an engine is never much smaller than its weights.
"""

from __future__ import annotations

from appliance.engines.tensorrt.flavour import DOUBTFUL, find_flavour
from appliance.engines.tensorrt.log import error_log
from appliance.models.manifest import Precision
from tools.gpu_check.engines import Attempt, attempts
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Setting

IN_HEADER = ("MALFORMED_ENGINE", "VERSION_MISMATCH")
"""What TensorRT for RTX tells of an engine where there is no GPU."""
HOLDS_WEIGHTS = Limit(">=", 0.9)
"""An engine's size over that of the model's file, or over half of it in half precision. It is 1 at
least, by TensorRT for RTX 1.7 without a GPU."""


def check(setting: Setting, finding: Finding, *, precision: Precision) -> None:
    """Build."""
    flavour = find_flavour()
    finding.details["builder"] = flavour.builder
    for built in attempts(setting.root, is_gpu_here=setting.on_gpu, precision=precision):
        if built.refusal:
            finding.details[built.name] = {"target": built.target, "refused": built.refusal}
            finding.problems.append(f"no engine of {built.name}: {built.refusal}")
            continue
        finding.add(f"engine of {built.name} built in", built.seconds, "s")
        finding.details[built.name] = {"target": built.target, "bytes": len(built.plan)}
        whole = len(built.plan) / _least_bytes(setting, built, precision)
        finding.add(f"engine of {built.name}, over its weights", whole, "times", HOLDS_WEIGHTS)
        if setting.on_gpu:
            with setting.opened():
                runtime = flavour.api.Runtime(flavour.api.Logger())
                problem = flavour.problem_of(runtime, built.plan)
            finding.details[built.name]["problem"] = problem
            # Where TensorRT may be wrong, `outputs` tells.
            is_taken = not problem or problem in DOUBTFUL
            finding.expect(is_taken, f"TensorRT would not run {built.name}: {problem}")
        else:
            told = flavour.problem_of(flavour.api.Runtime(error_log(flavour.api)), built.plan)
            is_harmed = any(word in told for word in IN_HEADER)
            finding.expect(not is_harmed, f"the engine of {built.name} is none: {told}")


def _least_bytes(setting: Setting, built: Attempt, precision: Precision) -> float:
    """Return about how much a model's weights take in a precision."""
    path = setting.root / built.name / built.version / "model.onnx"
    return path.stat().st_size * (0.5 if precision in ("fp16", "bf16") else 1.0)
