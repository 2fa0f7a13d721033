"""Many cases: run by two processes, and a table of their means over seeds."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import fmean
from typing import Any

from attrs import frozen
from rich.console import Console
from rich.table import Table

from appliance.simulation import Score
from benchmarks.scheduling.cases import Case, document, run
from benchmarks.scheduling.workloads import Variation

PROCESSES = 2
WIDTH = 150
"""Columns where there is no terminal to ask."""


@frozen
class Row:
    """Who schedules, and for what fleet."""

    policy: str
    variation: Variation

    @property
    def name(self) -> str:
        """How it is called in tables and plots."""
        return f"{self.policy} + advice" if self.variation.obedience else self.policy


@frozen
class Found:
    """The scores of one row at one load, by seed."""

    row: Row
    load: float
    scores: tuple[Score, ...]

    def mean(self, figure: str) -> float:
        """Return the mean of one figure of the scores."""
        return fmean(getattr(score, figure) for score in self.scores)

    def document(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        scores = [document(score) for score in self.scores]
        return {"policy": self.row.name, "load": self.load, "scores": scores}


def rows(
    workload: str,
    wanted: Sequence[Row],
    loads: Sequence[float],
    seeds: Sequence[int],
    seconds: float,
) -> list[Found]:
    """Run every row at every load with every seed, and say on standard error how far it is."""
    scores: dict[tuple[Row, float], dict[int, Score]] = defaultdict(dict)
    with ProcessPoolExecutor(PROCESSES) as pool:
        running = {
            pool.submit(
                run,
                Case(
                    workload=workload,
                    load=load,
                    seed=seed,
                    policy=row.policy,
                    variation=row.variation,
                    seconds=seconds,
                ),
            ): (row, load, seed)
            for load in loads
            for row in wanted
            for seed in seeds
        }
        for number, done in enumerate(as_completed(running), 1):
            row, load, seed = running[done]
            scores[row, load][seed] = done.result()
            progress = f"{number}/{len(running)}  {workload} at {load:.0%}, {row.name}, seed {seed}"
            print(progress, file=sys.stderr, flush=True)
    return [
        Found(row, load, tuple(scores[row, load][seed] for seed in seeds))
        for load in loads
        for row in wanted
    ]


def show(found: Sequence[Found]) -> None:
    """Print the table."""
    dry = any(score.dryness for each in found for score in each.scores)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("load")
    table.add_column("scheduler")
    headers = (
        "miss %",
        "critical %",
        "goodput",
        "bound",
        "work",
        "worst",
        "streak",
        "p99 ms",
        "µs",
    )
    for header in (*headers, *(("dry ticks/h", "start ms") if dry else ())):
        table.add_column(header, justify="right")
    load = None
    for each in found:
        if load is not None and each.load != load:
            table.add_section()
        shown = "" if each.load == load else f"{each.load:.0%}"
        load = each.load
        table.add_row(shown, each.row.name, *_cells(each, dry=dry))
    (Console() if sys.stdout.isatty() else Console(width=WIDTH)).print(table)


def _cells(found: Found, *, dry: bool) -> list[str]:
    cells = [
        f"{100 * found.mean('miss'):.2f}",
        f"{100 * found.mean('critical_miss'):.2f}",
        f"{found.mean('goodput_hz'):.0f}",
        f"{found.mean('bound_hz'):.0f}",
        f"{found.mean('useful_work'):.3f}",
        f"{found.mean('worst_client'):.2f}",
        f"{found.mean('longest_streak'):.0f}",
        f"{found.mean('hit_p99_ns') / 1e6:.1f}",
        f"{found.mean('decision_p50_ns') / 1e3:.0f}/{found.mean('decision_p99_ns') / 1e3:.0f}",
    ]
    dryness = [score.dryness for score in found.scores if score.dryness]
    if dry:
        starts_ms = (fmean(each.start_wait_ns(q) for each in dryness) / 1e6 for q in (0.5, 0.99))
        cells.append(f"{fmean(each.ticks_per_robot_hour for each in dryness):.0f}")
        cells.append("/".join(f"{each:.0f}" for each in starts_ms))
    return cells
