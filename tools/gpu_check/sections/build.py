"""Engines are built of every model in one precision, and TensorRT says whether it runs them."""

from __future__ import annotations

from appliance.engines.tensorrt.flavour import find_flavour
from appliance.models.manifest import Precision
from tools.gpu_check.engines import build_all
from tools.gpu_check.finding import Finding
from tools.gpu_check.setting import Setting


def check(setting: Setting, finding: Finding, *, precision: Precision) -> None:
    """Build."""
    flavour = find_flavour()
    finding.details["builder"] = flavour.builder
    for built in build_all(setting.root, precision):
        finding.add(f"engine of {built.name} built in", built.seconds, "s")
        told = {"bytes": len(built.plan)}
        if setting.on_gpu:
            with setting.opened():
                runtime = flavour.api.Runtime(flavour.api.Logger())
                problem = flavour.problem_of(runtime, built.plan)
            finding.expect(not problem, f"TensorRT would not run {built.name}: {problem}")
        finding.details[built.name] = told
