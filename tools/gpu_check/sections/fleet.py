"""W1 of the scheduling benchmark on real engines: what robots miss, beside the simulation.

Engines are made as large as those that W1 describes, as near as whole layers come. How long they
really take is measured, and decides how many robots there are; what the simulation has of them is
what the run recorded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from appliance.simulation import LinearEngine, Span
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
FIRST = {each.name: FIRST_LAYERS for each in WORKLOADS[WORKLOAD].engines}
MOST_LAYERS = 64
NANOSECONDS_A_MS = 1e6
SECOND_NS = 1_000_000_000
MOST_SIMULATED = Limit("<=", 1.0, of_gpu=True)
"""Percent; of stand-ins it misses 0.01. If more, engines do not take what was measured."""
MOST_COUNT = Limit(">=", 0.9, of_gpu=True)
"""What is left out, refused or still on its way, was not served either."""


def write_models(setting: Setting, root: Path) -> None:
    """Write those that are measured first; the others have more layers of the same kind."""
    _write(setting, root, FIRST)


def check(setting: Setting, finding: Finding, *, loads: tuple[float, ...] = real.LOADS) -> None:
    """Run the workload at each load."""
    workload = WORKLOADS[WORKLOAD]
    usual = workload.full_batch
    first = _measured(setting, finding, FIRST)
    layers = {
        each.name: _layers(each.mean_ns(usual) * real.SCALE, first[each.name].mean_ns(usual))
        for each in workload.engines
    }
    measured = _measured(setting, finding, layers)
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
        judge(finding, case, ran)
        finding.details[f"{load:.0%}"] = {
            "served": str(ran.served),
            "simulated": str(ran.simulated),
            "by the robots' clock": str(ran.heard),
            "processor": ran.busy,
            "sent_late_us": ran.sent_late_us,
            "remarks": ran.remarks,
        }


def judge(finding: Finding, case: real.Case, ran: real.Ran) -> None:
    """Judge what robots missed: beside the simulation, which may not miss much either."""
    load, robots = f"{case.load:.0%}", case.fleet.robots
    span = Span.settled(round(case.seconds * SECOND_NS))
    due = sum(kind.count * kind.rate_hz for kind in robots) * span.length_s
    counted = sum(ran.served.asked.values())
    finding.add(f"{load}: observations that count", counted, "")
    finding.add(f"{load}: of those that were due", counted / due, "", MOST_COUNT)
    simulated = ran.simulated.miss()
    finding.add(f"{load}: simulated", simulated, "%", MOST_SIMULATED)
    limit = real.MOST_TIMES * min(simulated, MOST_SIMULATED.value) + real.MOST_POINTS
    named = f"{load}: {sum(kind.count for kind in robots)} robots miss"
    finding.add(named, ran.served.miss(), "%", Limit("<=", round(limit, 3), of_gpu=True))
    finding.expect(not ran.remarks, f"{load}: {'; '.join(ran.remarks)}")


def _manifest(name: str) -> str:
    [engine] = [each for each in WORKLOADS[WORKLOAD].engines if each.name == name]
    return f"max_batch = {engine.max_batch}\n"


def _layers(wanted_ns: float, had_ns: int) -> int:
    return max(1, min(MOST_LAYERS, round(FIRST_LAYERS * wanted_ns / had_ns)))


def _write(setting: Setting, root: Path, layers: dict[str, int]) -> None:
    for name, count in layers.items():
        busy_model(setting, root, name, layers=count, manifest=_manifest(name))


def _measured(
    setting: Setting, finding: Finding, layers: dict[str, int]
) -> dict[str, LinearEngine]:
    """Return what engines take, as the worker has measured it."""
    root = setting.folder("w1")
    _write(setting, root, layers)
    if setting.on_gpu:
        build_all(root)
    with setting.worker(root) as worker:
        for name, ready in worker.ready.items():
            finding.expect_graphs(f"{name} of {layers[name]} layers", ready.without_graphs)
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
