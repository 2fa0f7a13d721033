"""A worker is killed again and again: what others notice of it, and how soon it is back."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from attrs import define, field

from benchmarks.box import Box, box, busy, noop
from benchmarks.children import Child, role
from benchmarks.report import Limit, Line

ROUNDS = 3
KILLS = 10
"""In each round."""
SLICE_S = 0.5
"""One kill and about the recovery; as long without one before it."""
ROBOTS, ROBOT_HZ = 4, 20.0
MODEL_MS = 5.0
RECOVERY_S = 1.0
"""Besides loading the model."""
WORKERS = """
[[workers]]
name = "killed"
models = ["busy"]

[[workers]]
name = "spared"
models = ["noop"]
"""


@define(eq=False)
class _Fleet:
    """Robots on both workers; one of those on the killed one kills it.

    Attributes:
        ended: How their observations ended so far.
    """

    killed: Sequence[Child]
    spared: Sequence[Child]
    ended: Counter[str] = field(factory=Counter[str], init=False)

    def ask(self, pid: int = 0) -> tuple[list[float], float]:
        """Let all ask at the same time; let process `pid` be killed at once, unless it is 0.

        Returns:
            The round trips of the robots of the spared worker, microseconds, and when the first
            answer of the other one came, seconds.
        """
        killer, *others = (*self.killed, *self.spared)
        killer.tell(seconds=SLICE_S, pid=pid)
        for robot in others:
            robot.tell(seconds=SLICE_S, pid=0)
        hurt = [robot.hear() for robot in self.killed]
        unhurt = [robot.hear() for robot in self.spared]
        for answer in (*hurt, *unhurt):
            self.ended.update(answer["ended"])
        times_us = [time_us for answer in unhurt for time_us in answer["times_us"]]
        return times_us, hurt[0]["answered_s"]


def measure() -> Iterator[str | Line]:
    """Alternate between a kill and as long without one."""
    with ExitStack() as stack:
        appliance = stack.enter_context(box(busy(ms=MODEL_MS), noop(), config=WORKERS))
        fleet = _fleet(stack, appliance.address)
        fleet.ask()
        among: list[float] = []
        alone: list[float] = []
        away: list[float] = []
        loads: list[float] = []
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            with role("bare_load", model=str(appliance.directory / "models" / "busy")) as bare:
                loads.append(bare.ask()["load_s"])
            undisturbed: list[float] = []
            disturbed: list[float] = []
            recoveries: list[float] = []
            for _ in range(KILLS):
                undisturbed += fleet.ask()[0]
                times_us, away_s = fleet.ask(_pid(appliance))
                disturbed += times_us
                recoveries.append(away_s)
            alone.append(_p99(undisturbed))
            among.append(_p99(disturbed))
            away.append(max(recoveries))
        difference, note = _books(appliance, fleet.ended)
    load_s = statistics.median(loads)
    yield Line(
        name="kills",
        measured=f"p99 of a {ROBOT_HZ:.0f} Hz robot while another worker is killed {KILLS} times",
        unit="µs",
        ours=among,
        beside=alone,
        beside_name="without kills",
        limit=Limit("ratio", "<=", 2.0),
    )
    yield Line(
        name="",
        measured="longest time from a kill to the next answer of that worker",
        unit="s",
        ours=away,
        limit=Limit("figure", "<=", round(RECOVERY_S + load_s, 3)),
        note=f"of which its model loads in {load_s * 1000:.0f} ms",
    )
    yield Line(
        name="",
        measured="requests that did not end in exactly one outcome",
        unit="requests",
        ours=(difference,),
        limit=Limit("figure", "<=", 0.0),
        note=note,
    )


def _fleet(stack: ExitStack, address: str) -> _Fleet:
    def robots(first: int, model: str, *, keep_all: bool) -> list[Child]:
        options = {"address": address, "model": model, "hz": ROBOT_HZ, "keep_all": keep_all}
        numbers = range(first, first + ROBOTS)
        return [stack.enter_context(role("beat", number=each, **options)) for each in numbers]

    return _Fleet(robots(0, "busy", keep_all=False), robots(ROBOTS, "noop", keep_all=True))


def _pid(appliance: Box) -> int:
    """Return the process of the worker that is to be killed."""
    return next(w["pid"] for w in appliance.status()["workers"] if w["slot"] == "killed-0")


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]


def _books(appliance: Box, told: Counter[str]) -> tuple[int, str]:
    """Compare what the robots were told, what the server counted, and what rows the engines ran.

    Returns:
        By how many requests and rows they differ, and what they say.
    """
    status = appliance.status()
    ledger = status["ledger"]
    counted: Counter[str] = Counter(status["outcomes"])
    explained = ledger["ok"] + sum(ledger["wasted"].values())
    difference = (
        sum(((told - counted) + (counted - told)).values())
        + abs(ledger["asked"] - told.total())
        + abs(ledger["rows_finished"] - explained)
    )
    outcomes = ", ".join(f"{name} {count:,}" for name, count in told.items())
    restarts = [f"{worker['slot']} {worker['restarts']}" for worker in status["workers"]]
    note = (
        f"{ledger['asked']:,} asked, told {outcomes}, as the server counted; "
        f"{ledger['rows_finished']:,} rows finished; restarts: {', '.join(restarts)}"
    )
    return difference, note if not difference else f"{note}: {status['outcomes']}, {ledger}"
