"""A worker beside a bare loop of the same engine, in turns; the medians of the rounds count.

Limits hold beside the loop that makes the same copies; the figures beside the run alone say what
copying costs. Of rows so small that copying them is next to nothing, the overhead is held to its
limit beside the run alone, too.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

from appliance.wire.types import NUMPY_DTYPES
from tools.gpu_check.bare import Bare, bare, noises, timed
from tools.gpu_check.finding import Finding, Limit, summary_us
from tools.gpu_check.setting import Setting
from tools.worker_client import WorkerClient

ROUNDS = 5
ROUNDS_ON_CPU = 2
SETS = 4
MOST_NS = 400_000_000
"""Of one kind in one round."""
OVERHEAD_US = Limit("<=", 60, of_gpu=True)
TAIL_TIMES = Limit("<=", 1.3, of_gpu=True)
THROUGHPUT = Limit(">=", 0.95, of_gpu=True)
COPIES_TIMES = Limit("<=", 1.15, of_gpu=True)
IS_LARGE = ("resnet",)
"""Models whose throughput has a limit."""
IS_SMALL = ("policy",)
"""Models of small rows."""
IS_PICTURES = ("camera",)
"""Models whose time from the arena to the result has a limit: it is mostly copies."""


def check(setting: Setting, finding: Finding, *, model: str, size: int, runs: int) -> None:
    """Measure batches of one size of a model."""
    found: dict[str, list[float]] = defaultdict(list)
    with (
        bare(setting, model, size) as alone,
        setting.worker(setting.with_models([model])) as worker,
    ):
        loop = _Loop(worker, model, size)
        loop.one_by_one(SETS)
        one_ns = min(timed(alone.run_and_wait, SETS))
        each_round = max(1, min(setting.runs(runs // ROUNDS), MOST_NS // one_ns))
        for _ in range(ROUNDS if setting.on_gpu else ROUNDS_ON_CPU):
            _round(alone, loop, each_round, found)
        finding.expect_graphs(f"{model} in the bare loop", alone.without_graphs)
        ready = worker.ready[model]
        finding.expect_graphs(model, ready.without_graphs)
        finding.expect_quick_way(model, ready.images_on_cpu, unpinned=worker.unpinned)
    median = {name: statistics.median(values) for name, values in found.items()}
    finding.details |= {"runs in each round": each_round, "rounds": dict(found)}
    finding.add("bare loop, p50", median["bare p50"], "us")
    finding.add("without copies", median["bare without copies p50"], "us")
    finding.add("worker's overhead, p50", median["overhead"], "us", OVERHEAD_US)
    finding.add(
        "over the run without copies",
        median["overhead and copies"],
        "us",
        OVERHEAD_US if model in IS_SMALL else None,
    )
    finding.add("worker's p99 over bare p99", median["tail"], "times", TAIL_TIMES)
    finding.add("over p99 without copies", median["tail without copies"], "times")
    finding.add("from stage to done, p50", median["round trip p50"], "us")
    finding.add(
        "of that over bare copies and run",
        median["copies"],
        "times",
        COPIES_TIMES if model in IS_PICTURES else None,
    )
    finding.add(
        "throughput, two in flight, of bare",
        median["throughput"],
        "",
        THROUGHPUT if model in IS_LARGE else None,
    )
    finding.add("of bare without copies", median["throughput without copies"], "")
    finding.add("rows a second, two in flight", median["rows"], "/s")


def _round(alone: Bare, loop: _Loop, runs: int, found: dict[str, list[float]]) -> None:
    run = summary_us(timed(alone.run_and_wait, runs))
    copied = summary_us(timed(alone.copy_run_and_wait, runs))
    busy_ns = alone.kept_busy_ns(runs, copies=False)
    busy_copying_ns = alone.kept_busy_ns(runs, copies=True)
    trips_ns, inside_ns = loop.one_by_one(runs)
    trips, inside = summary_us(trips_ns), summary_us(inside_ns)
    flying_ns = loop.two_in_flight(runs)
    found["bare p50"].append(copied["p50"])
    found["bare without copies p50"].append(run["p50"])
    found["overhead"].append(inside["p50"] - copied["p50"])
    found["overhead and copies"].append(inside["p50"] - run["p50"])
    found["tail"].append(inside["p99"] / copied["p99"])
    found["tail without copies"].append(inside["p99"] / run["p99"])
    found["round trip p50"].append(trips["p50"])
    found["copies"].append(trips["p50"] / copied["p50"])
    found["throughput"].append(busy_copying_ns / flying_ns)
    found["throughput without copies"].append(busy_ns / flying_ns)
    found["rows"].append(runs * loop.size * 1e9 / flying_ns)


class _Loop:
    """A worker that gets batches of one size, of rows that take turns."""

    def __init__(self, worker: WorkerClient, model: str, size: int) -> None:
        self.size = size
        self._worker, self._model = worker, model
        shapes = {
            item.name: ((size, *item.shape), NUMPY_DTYPES[item.dtype])
            for item in worker.specs[model].inputs
        }
        self._sets = [worker.rows(model, noises(shapes)) for _ in range(SETS)]
        self._outputs = [worker.output_block(model, size) for _ in range(3)]

    def _stage(self, number: int) -> None:
        rows, output = self._sets[number % SETS], self._outputs[number % 3]
        self._worker.stage(self._model, rows, output=output)

    def one_by_one(self, runs: int) -> tuple[list[int], list[int]]:
        """Return of each from stage to done, and what the worker took to execute it."""
        trips_ns: list[int] = []
        inside_ns: list[int] = []
        for number in range(runs):
            sent = time.monotonic_ns()
            self._stage(number)
            done = self._worker.done()
            trips_ns.append(time.monotonic_ns() - sent)
            assert not done.error, done.error
            inside_ns.append(done.finished_ns - done.execute_started_ns)
        return trips_ns, inside_ns

    def two_in_flight(self, runs: int) -> int:
        """Return how long so many take, the next one staged while one runs."""
        started = time.monotonic_ns()
        for number in range(runs):
            self._stage(number)
            if number:
                self._worker.done()
        self._worker.done()
        return time.monotonic_ns() - started
