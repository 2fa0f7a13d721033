"""A kernel that never ends: the appliance kills the worker, tells who asked, and serves on."""

from __future__ import annotations

import time

import numpy as np

from appliance import Connection, Result
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.models import place
from tools.gpu_check.served import config_of, serving
from tools.gpu_check.setting import Setting

HANG_MS = 1000
MOST_S = 20.0
PATIENCE_MS = 25_000
MANIFEST = """
engine = "python"
callable = "stuck:Stuck"
max_batch = 1

[[inputs]]
name = "x"
dtype = "float32"
shape = [1]
"""
PTX = """
.version 6.3
.target sm_75
.address_size 64
.visible .entry wait_for_ever(.param .u64 flag)
{
    .reg .u64 %address;
    .reg .u32 %value;
    .reg .pred %again;
    ld.param.u64 %address, [flag];
    cvta.to.global.u64 %address, %address;
AGAIN:
    ld.volatile.global.u32 %value, [%address];
    setp.eq.u32 %again, %value, 0;
    @%again bra AGAIN;
    ret;
}
"""
ON_GPU = '''
import pycuda.driver as cuda

PTX = """{ptx}"""


class Stuck:
    """Waits for the GPU, which waits for ever, if it is given a large number."""

    def __init__(self):
        self._module = cuda.module_from_buffer(PTX.encode())
        self._kernel = self._module.get_function("wait_for_ever")
        self._flag = cuda.mem_alloc(4)
        cuda.memset_d32(self._flag, 0, 1)

    def __call__(self, inputs):
        if inputs["x"].max() > 1000:
            self._kernel(self._flag, block=(1, 1, 1))
            cuda.Context.synchronize()
        return {{"y": inputs["x"]}}
'''
ON_CPU = """
class Stuck:
    def __call__(self, inputs):
        while inputs["x"].max() > 1000:
            pass
        return {"y": inputs["x"]}
"""


def check(setting: Setting, finding: Finding) -> None:
    """Ask for it."""
    root = setting.with_models(["policy"])
    source = ON_GPU.format(ptx=PTX) if setting.on_gpu else ON_CPU
    place(root, "stuck", MANIFEST).with_name("stuck.py").write_text(source)
    with (
        serving(root, config_of(setting, hang_floor_ms=HANG_MS)) as box,
        Connection(box.address, client_id="robot") as connection,
    ):
        stuck = connection.model("stuck", latency_budget_ms=PATIENCE_MS, lateness="soft")
        policy = connection.model("policy", latency_budget_ms=PATIENCE_MS, lateness="soft")
        [before] = box.status()["workers"]
        asked = time.monotonic()
        stuck.observe(x=np.array([2000], np.float32))
        refusal = stuck.wait(PATIENCE_MS)
        finding.add(
            "whoever asked heard of it after", time.monotonic() - asked, "s", Limit("<=", MOST_S)
        )
        said = _said(refusal)
        finding.details["said"] = said
        finding.expect(refusal is not None and not refusal.ok, f"it heard {said}")
        answer = None
        while not _is_good(answer) and time.monotonic() - asked < MOST_S:
            policy.observe(state=np.zeros(14, np.float32))
            answer = policy.wait(PATIENCE_MS)
        finding.expect(_is_good(answer), f"the other model answered last: {_said(answer)}")
        finding.add(
            "the other model answered again after",
            time.monotonic() - asked,
            "s",
            Limit("<=", MOST_S),
        )
        [after] = box.status()["workers"]
        finding.expect(after["restarts"] > before["restarts"], "the worker was not started anew")
        finding.details["worker"] = {"before": before["pid"], "after": after["pid"]}


def _is_good(result: Result | None) -> bool:
    return result is not None and result.ok


def _said(result: Result | None) -> str:
    return "nothing" if result is None else f"{result.status.name}: {result.message}"
