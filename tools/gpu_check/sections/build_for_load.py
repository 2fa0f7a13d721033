"""The engines that load is made with are built, where that takes long: later sections find them."""

from __future__ import annotations

from tools.gpu_check.engines import attempts
from tools.gpu_check.finding import Finding
from tools.gpu_check.sections import fleet, priorities, swap
from tools.gpu_check.setting import Setting


def check(setting: Setting, finding: Finding) -> None:
    """Build."""
    for section in (priorities, swap, fleet):
        root = setting.folder("load")
        section.write_models(setting, root)
        for built in attempts(root, is_gpu_here=setting.on_gpu):
            name = f"{built.name} {built.version}"
            finding.expect(not built.refusal, f"no engine of {name}: {built.refusal}")
            finding.add(f"engine of {name} there in", built.seconds, "s")
