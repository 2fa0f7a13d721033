"""`python -m benchmarks.scheduling`: one case with `--policy`, else a table and a plot.

With `--real`, the appliance itself, beside what is simulated of the same observations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from attrs import evolve
from rich.console import Console

from benchmarks import machine, report
from benchmarks.scheduling import real
from benchmarks.scheduling.cases import OURS, POLICIES, SECONDS, TUNINGS, Case, document, run
from benchmarks.scheduling.table import WIDTH, Row, rows, show
from benchmarks.scheduling.workloads import WORKLOADS, Variation

LOADS = (0.5, 0.8, 0.95, 1.2, 1.5)
DEFAULT_LOAD = 0.95
LEAST_SECONDS = 2
SEEDS = (11, 12, 13)
Number = TypeVar("Number", int, float)
PLOT = Path(".build/scheduling.png")
SIMULATED_ONLY = ("policy", "seeds", "advice", "flood", "sync", "jitter", "sigma", "spikes", "plot")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0; with `--real`, 1 if a limit is missed."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.seconds is None:
        asked.seconds = real.SECONDS if asked.real else SECONDS
    if asked.load is not None:
        asked.loads = [asked.load]
    elif asked.loads is None:
        asked.loads = real.LOADS if asked.real else LOADS
    if asked.seconds < LEAST_SECONDS:
        parser.error(f"--seconds {asked.seconds:g}: at least {LEAST_SECONDS}")
    if asked.real:
        return _real(parser, asked)
    variation = Variation(
        obedience=asked.advice,
        flood=asked.flood,
        in_phase=asked.sync,
        jitter=asked.jitter,
        sigma=asked.sigma,
        spike_share=asked.spikes,
    )
    if asked.policy is None:
        return _table(asked, variation)
    case = Case(
        workload=asked.workload,
        load=asked.load or DEFAULT_LOAD,
        seed=asked.seed,
        policy=asked.policy,
        variation=variation,
        seconds=asked.seconds,
    )
    found = document(run(case))
    if asked.json:
        print(json.dumps(found))
    else:
        for name, figure in found.items():
            print(f"{name:<26}{figure}")
    return 0


def _table(asked: argparse.Namespace, variation: Variation) -> int:
    policies = [Row(policy, variation) for policy in POLICIES if policy not in TUNINGS]
    if not asked.advice:
        policies.insert(1, Row(OURS, evolve(variation, obedience=1.0)))
    loads = asked.loads
    found = rows(asked.workload, policies, loads, asked.seeds, asked.seconds)
    if asked.json:
        print(json.dumps([each.document() for each in found]))
    else:
        show(found)
    if len(loads) > 1:
        from benchmarks.scheduling.plot import write_plot  # noqa: PLC0415  only a table needs it

        asked.plot.parent.mkdir(parents=True, exist_ok=True)
        write_plot(asked.plot, found, asked.workload)
        print(f"plot: {asked.plot}", file=sys.stderr)
    return 0


def _real(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> int:
    if any(kind.kind.chunks for kind in WORKLOADS[asked.workload].shares):
        parser.error(f"--real: {asked.workload} has robots that execute chunks; only simulated")
    if asked.scale <= 0:
        parser.error(f"--scale {asked.scale:g}: more than 0")
    for name in SIMULATED_ONLY:
        if getattr(asked, name) != parser.get_default(name):
            parser.error(f"--{name}: goes without --real")
    described = machine.describe()
    slow = f"everything takes {asked.scale:g} times as long" if asked.scale != 1 else "as it is"
    described["workload"] = f"{asked.workload}, {slow}; seed {asked.seed}, {asked.seconds:g} s"
    lines: list[report.Line] = []
    for load in asked.loads:
        case = real.Case(
            workload=asked.workload,
            load=load,
            seed=asked.seed,
            seconds=asked.seconds,
            scale=asked.scale,
        )
        for said in real.measure(case):
            if isinstance(said, report.Line):
                lines.append(said)
            else:
                print(said, file=sys.stderr, flush=True)
    found = report.document(described, lines)
    if asked.json:
        print(json.dumps(found))
    else:
        report.show(described, lines, Console() if sys.stdout.isatty() else Console(width=WIDTH))
    return 0 if found["passed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="w1")
    parser.add_argument("--load", type=float, help="1.0: all busy at the batch that is usual")
    parser.add_argument("--loads", type=_numbers(float), metavar="X,X,...")
    parser.add_argument("--policy", choices=POLICIES, help="this one alone")
    parser.add_argument("--seed", type=int, default=SEEDS[0], help="with --policy or --real")
    parser.add_argument("--real", action="store_true", help="run the appliance; see README.md")
    parser.add_argument("--scale", type=float, default=real.SCALE, help="slow motion, with --real")
    parser.add_argument("--seeds", type=_numbers(int), default=list(SEEDS), metavar="N,N,...")
    parser.add_argument(
        "--advice",
        type=float,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="SHARE",
        help="robots follow phase advice; without a share: all of them",
    )
    parser.add_argument("--flood", action="store_true", help="one robot more, which floods")
    parser.add_argument("--sync", action="store_true", help="all robots begin in phase")
    parser.add_argument("--jitter", type=float, default=1.0, help="factor of all jitter")
    parser.add_argument("--sigma", type=float, default=0.03, help="noise of execution times")
    parser.add_argument("--spikes", type=float, default=0.003, help="share of slow batches")
    parser.add_argument("--seconds", type=float, help="of virtual time; of real time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, default=PLOT, help="PNG; with more than one load")
    return parser


def _numbers(kind: type[Number]) -> Callable[[str], list[Number]]:
    return lambda text: [kind(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
