"""A worker beside a bare loop of the same engine, in turns; the medians of the rounds count.

What a worker does for a batch begins with reading the message and ends with having answered: its
overhead is the way from stage to done, less that of a ping, less the bare loop. Its tail is that of
gathering and executing, which it measures itself: that a process is woken late is in no bare loop.

Limits hold beside the loop that makes the same copies. Where copying should not show, they hold
beside the run alone, too: the overhead and the tail of rows so small that copying them is next to
nothing, and the throughput, as one batch is copied while another runs.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping

from attrs import frozen

from appliance.wire.pb import worker_pb2
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
    finding.details |= {"runs in each round": each_round, "rounds": dict(found)}
    judge(finding, model, {name: statistics.median(values) for name, values in found.items()})


def judge(finding: Finding, model: str, median: Mapping[str, float]) -> None:
    """Take in the figures, each with its limit, if it has one for that model."""
    overhead_us, tail = (OVERHEAD_US, TAIL_TIMES) if model in IS_SMALL else (None, None)
    throughput = THROUGHPUT if model in IS_LARGE else None
    copies = COPIES_TIMES if model in IS_PICTURES else None
    for what, name, unit, limit in (
        ("bare loop, p50", "bare p50", "us", None),
        ("without copies", "bare without copies p50", "us", None),
        ("worker's overhead, p50", "overhead", "us", OVERHEAD_US),
        ("over the run without copies", "overhead and copies", "us", overhead_us),
        ("worker's p99 over bare p99", "tail", "times", TAIL_TIMES),
        ("over p99 without copies", "tail without copies", "times", tail),
        ("a ping, p50", "ping p50", "us", None),
        ("from stage to done, p50", "round trip p50", "us", None),
        ("of that over bare copies and run", "copies", "times", copies),
        ("throughput, two in flight, of bare", "throughput", "", throughput),
        ("of bare without copies", "throughput without copies", "", throughput),
        ("rows a second, two in flight", "rows", "/s", None),
    ):
        finding.add(what, median[name], unit, limit)


def _round(alone: Bare, loop: _Loop, runs: int, found: dict[str, list[float]]) -> None:
    run = summary_us(timed(alone.run_and_wait, runs))
    copied = summary_us(timed(alone.copy_run_and_wait, runs))
    busy_ns = alone.kept_busy_ns(runs, copies=False)
    busy_copying_ns = alone.kept_busy_ns(runs, copies=True)
    ping = summary_us(loop.pings(runs))["p50"]
    trips = loop.one_by_one(runs)
    whole = summary_us([each.whole_ns for each in trips])["p50"]
    worked = summary_us([each.way_ns for each in trips])["p50"] - ping
    inside = summary_us([each.inside_ns for each in trips])
    flying_ns = loop.two_in_flight(runs)
    found["bare p50"].append(copied["p50"])
    found["bare without copies p50"].append(run["p50"])
    found["ping p50"].append(ping)
    found["overhead"].append(worked - copied["p50"])
    found["overhead and copies"].append(worked - run["p50"])
    found["tail"].append(inside["p99"] / copied["p99"])
    found["tail without copies"].append(inside["p99"] / run["p99"])
    found["round trip p50"].append(whole)
    found["copies"].append(whole / copied["p50"])
    found["throughput"].append(busy_copying_ns / flying_ns)
    found["throughput without copies"].append(busy_ns / flying_ns)
    found["rows"].append(runs * loop.size * 1e9 / flying_ns)


@frozen
class _Trip:
    """How long a batch took, nanoseconds.

    Attributes:
        whole_ns: With what this process did for it.
        way_ns: From sending stage to receiving done.
        inside_ns: That the worker gathered and executed.
    """

    whole_ns: int
    way_ns: int
    inside_ns: int


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

    def _stage(self, number: int) -> worker_pb2.ToWorker:
        rows, output = self._sets[number % SETS], self._outputs[number % 3]
        return self._worker.stage_message(self._model, rows, output=output)

    def pings(self, runs: int) -> list[int]:
        """Return how long the worker takes to answer when there is nothing to do, nanoseconds."""
        ping = worker_pb2.ToWorker(ping=worker_pb2.Ping())
        return [self._worker.answer_to(ping)[1] for _ in range(runs)]

    def one_by_one(self, runs: int) -> list[_Trip]:
        """Have so many run, each when the one before is done."""
        trips: list[_Trip] = []
        for number in range(runs):
            started = time.monotonic_ns()
            answer, way_ns = self._worker.answer_to(self._stage(number))
            whole_ns = time.monotonic_ns() - started
            done = answer.done
            assert not done.error, done.error
            inside_ns = done.gather_ns + done.finished_ns - done.execute_started_ns
            trips.append(_Trip(whole_ns, way_ns, inside_ns))
        return trips

    def two_in_flight(self, runs: int) -> int:
        """Return how long so many take, the next one staged while one runs."""
        started = time.monotonic_ns()
        for number in range(runs):
            self._worker.send(self._stage(number))
            if number:
                self._worker.done()
        self._worker.done()
        return time.monotonic_ns() - started
