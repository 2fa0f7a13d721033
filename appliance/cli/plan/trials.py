"""Simulates fleets of several sizes, each with several seeds, and says how far it is."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import fmean
from types import TracebackType

from attrs import define, evolve, field, frozen
from rich.console import Console
from rich.progress import Progress

from appliance.cli.plan.description import Description, Target
from appliance.errors import ConfigError
from appliance.scheduling import Scheduler
from appliance.simulation import Fleet, Score, Span, of_size, score, simulate
from appliance.simulation.fleet import SECOND_NS

INTERRUPTED = 130


@frozen
class Trial:
    """One simulation."""

    fleet: Fleet
    seed: int
    seconds: float

    def run(self) -> Score:
        """Simulate it."""
        horizon_ns = round(self.seconds * SECOND_NS)
        record = simulate(self.fleet, Scheduler(), seed=self.seed, horizon_ns=horizon_ns)
        return score(record, Span.settled(horizon_ns))


@frozen
class Found:
    """How a fleet of one size was served, over all seeds."""

    fleet: Fleet
    scores: tuple[Score, ...]
    target: Target

    def mean(self, figure: str) -> float:
        """Return the mean of one figure of the scores; nan: there is none."""
        return mean(getattr(each, figure) for each in self.scores)

    def miss_of(self, name: str) -> float:
        """Return the share of a class's observations that were not answered in time."""
        return mean(each.miss_of.get(name, math.nan) for each in self.scores)

    @property
    def within(self) -> bool:
        """Whether it is served well enough."""
        critical = self.mean("critical_miss")
        return 100 * self.mean("miss") <= self.target.miss_percent and (
            math.isnan(critical) or 100 * critical <= self.target.tier_0_miss_percent
        )


def mean(figures: Iterable[float]) -> float:
    """Return the mean of those that are there; nan of none."""
    return fmean([each for each in figures if not math.isnan(each)] or [math.nan])


def _new_progress() -> Progress:
    """Return a bar without a thread: it is drawn anew whenever a simulation is over."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    return Progress(
        console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    )


@define(eq=False)
class Trials:
    """Owns the processes. A context manager.

    Args:
        processes: 1: this one.
        obeys: Whether robots follow phase advice, where their class does.

    Attributes:
        found: What was simulated so far, by the number of robots.
    """

    description: Description
    _processes: int
    obeys: bool = field(kw_only=True)
    found: dict[int, Found] = field(factory=dict[int, Found], init=False)
    _fleet: Fleet = field(init=False)
    _pool: ProcessPoolExecutor | None = field(default=None, init=False)
    _progress: Progress = field(factory=_new_progress, init=False)

    def __attrs_post_init__(self) -> None:
        fleet = self.description.fleet()
        if not self.obeys:
            robots = tuple(evolve(kind, obedience=0.0) for kind in fleet.robots)
            fleet = evolve(fleet, robots=robots)
        self._fleet = fleet

    def __enter__(self) -> Trials:  # noqa: PYI034  # Self needs Python 3.11
        if self._processes > 1:
            self._pool = ProcessPoolExecutor(
                self._processes, multiprocessing.get_context("spawn"), _end_at_interrupts
            )
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def judge(self, sizes: Sequence[int]) -> dict[int, Found]:
        """Simulate fleets of so many robots.

        Raises:
            ConfigError: Nobody observes in the time that is looked at.
        """
        seeds, seconds = self.description.seeds, self.description.seconds
        trials = {
            (size, seed): Trial(of_size(self._fleet, size), seed, seconds)
            for size in sizes
            for seed in seeds
        }
        scores: dict[tuple[int, int], Score] = {}
        self._progress.start()
        task = self._progress.add_task("simulating", total=len(trials))
        try:
            for key, found in self._run(trials):
                scores[key] = found
                self._progress.advance(task)
                self._progress.refresh()
                size = key[0]
                if all((size, seed) in scores for seed in seeds):
                    self._note(size, tuple(scores[size, seed] for seed in seeds))
        finally:
            self._progress.remove_task(task)
            self._progress.stop()
        return {size: self.found[size] for size in sizes}

    def _run(self, trials: dict[tuple[int, int], Trial]) -> Iterator[tuple[tuple[int, int], Score]]:
        if self._pool is None:
            for key, trial in trials.items():
                yield key, trial.run()
            return
        running = {self._pool.submit(trial.run): key for key, trial in trials.items()}
        for done in as_completed(running):
            yield running[done], done.result()

    def _note(self, size: int, scores: tuple[Score, ...]) -> None:
        found = Found(of_size(self._fleet, size), scores, self.description.target)
        if not any(each.requests for each in scores):
            raise ConfigError(
                f"seconds: found {self.description.seconds:g}; {size} robots make no observation "
                "in the part of it that is looked at; simulate longer"
            )
        self.found[size] = found
        verdict = "within the target" if found.within else "beyond the target"
        miss = f"{100 * found.mean('miss'):.2f} % missed"
        self._progress.console.print(f"{size:>6} robots: {miss}, {verdict}")


def _end_at_interrupts() -> None:
    """Let Ctrl-C, which reaches every process, end this one without a traceback."""

    def leave(*_: object) -> None:
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
