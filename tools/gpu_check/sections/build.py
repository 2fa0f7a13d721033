"""Engines are built of every model in one precision, for the GPU that is there.

TensorRT says whether it takes that GPU and runs them; where it does not, that is a result.
"""

from __future__ import annotations

from appliance.engines.tensorrt.flavour import DOUBTFUL, find_flavour
from appliance.models.manifest import Precision
from tools.gpu_check.engines import attempts
from tools.gpu_check.finding import Finding
from tools.gpu_check.setting import Setting


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
        if setting.on_gpu:
            with setting.opened():
                runtime = flavour.api.Runtime(flavour.api.Logger())
                problem = flavour.problem_of(runtime, built.plan)
            finding.details[built.name]["problem"] = problem
            # Where TensorRT may be wrong, `outputs` tells.
            is_taken = not problem or problem in DOUBTFUL
            finding.expect(is_taken, f"TensorRT would not run {built.name}: {problem}")
        else:
            finding.expect(bool(built.plan), f"the engine of {built.name} is empty")
