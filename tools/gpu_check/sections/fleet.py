"""W1 of the scheduling benchmark on real engines: what robots miss, beside the simulation.

Engines are made as large as those that W1 describes, as near as whole layers come. How long they
really take is measured, and decides how many robots there are; what the simulation has of them is
what the run recorded.
"""

from __future__ import annotations

import numpy as np

from appliance.simulation import LinearEngine
from benchmarks.box import Model
from benchmarks.scheduling import real
from benchmarks.scheduling.workloads import WORKLOADS
from tools.gpu_check.busy import busy_model
from tools.gpu_check.engines import build_all
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.served import config_of
from tools.gpu_check.setting import Setting

WORKLOAD = "w1"
SEED = 11
SECONDS = 10.0
FIRST_LAYERS = 4
"""To find out how long a layer takes."""
MOST_LAYERS = 64
NANOSECONDS_A_MS = 1e6


def check(setting: Setting, finding: Finding, *, loads: tuple[float, ...] = real.LOADS) -> None:
    """Run the workload at each load."""
    workload = WORKLOADS[WORKLOAD]
    usual = workload.full_batch
    first = _measured(setting, {each.name: FIRST_LAYERS for each in workload.engines})
    layers = {
        each.name: _layers(each.mean_ns(usual) * real.SCALE, first[each.name].mean_ns(usual))
        for each in workload.engines
    }
    measured = _measured(setting, layers)
    scale = max(
        measured[each.name].mean_ns(usual) / each.mean_ns(usual) for each in workload.engines
    )
    engines = tuple(_faster(measured[each.name], scale) for each in workload.engines)
    root = setting.folder("w1")
    models = [
        Model(
            name,
            _manifest(name),
            onnx=busy_model(
                setting, root, name, layers=count, manifest=_manifest(name)
            ).read_bytes(),
        )
        for name, count in layers.items()
    ]
    finding.details |= {
        "layers": layers,
        "slow motion": scale,
        "batches_ms": {
            name: {rows: round(each.mean_ns(rows) / NANOSECONDS_A_MS, 2) for rows in (1, usual)}
            for name, each in measured.items()
        },
    }
    for load in loads:
        case = real.Case(
            workload=WORKLOAD,
            load=load,
            seed=SEED,
            scale=scale,
            engines=engines,
            seconds=max(2.0, setting.seconds(SECONDS)),
        )
        ran = real.run(case, models, config_of(setting))
        missed, simulated = ran.served.miss(), ran.simulated.miss()
        limit = real.MOST_TIMES * simulated + real.MOST_POINTS
        named = f"{load:.0%}: {sum(kind.count for kind in case.fleet.robots)} robots miss"
        finding.add(named, missed, "%", Limit("<=", round(limit, 3), of_gpu=True))
        finding.add(f"{load:.0%}: simulated", simulated, "%")
        finding.details[f"{load:.0%}"] = {
            "served": str(ran.served),
            "simulated": str(ran.simulated),
            "by the robots' clock": str(ran.heard),
            "processor": ran.busy,
            "sent_late_us": ran.sent_late_us,
            "remarks": ran.remarks,
        }


def _manifest(name: str) -> str:
    [engine] = [each for each in WORKLOADS[WORKLOAD].engines if each.name == name]
    return f"max_batch = {engine.max_batch}\n"


def _layers(wanted_ns: float, had_ns: int) -> int:
    return max(1, min(MOST_LAYERS, round(FIRST_LAYERS * wanted_ns / had_ns)))


def _measured(setting: Setting, layers: dict[str, int]) -> dict[str, LinearEngine]:
    """Return what engines take, as the worker has measured it."""
    root = setting.folder("w1")
    for name, count in layers.items():
        busy_model(setting, root, name, layers=count, manifest=_manifest(name))
    if setting.on_gpu:
        build_all(root)
    with setting.worker(root) as worker:
        return {
            name: _line(name, {each.batch_size: each.ns for each in ready.times})
            for name, ready in worker.ready.items()
        }


def _line(name: str, times_ns: dict[int, int]) -> LinearEngine:
    """Return the engine whose times are nearest."""
    sizes = np.array(sorted(times_ns))
    row_ns, base_ns = np.polyfit(sizes, [times_ns[size] for size in sizes], 1)
    return LinearEngine(
        name=name,
        base_ns=max(0, round(base_ns)),
        row_ns=max(1, round(row_ns)),
        max_batch=int(sizes[-1]),
    )


def _faster(engine: LinearEngine, factor: float) -> LinearEngine:
    return LinearEngine(
        name=engine.name,
        base_ns=round(engine.base_ns / factor),
        row_ns=max(1, round(engine.row_ns / factor)),
        max_batch=engine.max_batch,
    )
