"""One simulated robot, in its own process: `python -m appliance.cli.demo.robot NAME ROLE ...`.

Standard input is the lifeline: a line means go, its end means stop, ask no more, and tell what
came of it. A robot whose parent is gone therefore stops too. Standard output: see `reports.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time

from attrs import define, field

from appliance import Connection, Model, Result, WindowFull
from appliance.cli.demo.behaviours import Ask, Behaviour, behaviour
from appliance.cli.demo.book import Book, Pending
from appliance.cli.demo.reports import Message, Progress, RobotReport, SdkLedger
from appliance.cli.demo.roster import RobotPlan
from appliance.client.statistics import Statistics

STDIN = 0
MS_NS = 1_000_000
SECOND_NS = 1000 * MS_NS
DESCRIBE_MS = 10_000
SETTLE_MS = 8_000
STAGGER_MS = 7
"""Between the first ticks of robots, which would otherwise all ask at once."""


@define(eq=False)
class Lifeline:
    """Standard input, read by a thread of its own."""

    go: threading.Event = field(factory=threading.Event, init=False)
    stop: threading.Event = field(factory=threading.Event, init=False)

    def watch(self) -> None:
        """Start watching."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # Not sys.stdin: its lock, held by a daemon thread, would trip the interpreter's exit.
        while os.read(STDIN, 64):
            self.go.set()
        self.stop.set()
        self.go.set()


@define(eq=False, kw_only=True)
class Robot:
    """Asks as its behaviour wants, collects what comes, writes it down."""

    plan: RobotPlan
    connection: Connection
    model: Model = field(init=False)
    behaviour: Behaviour = field(init=False)
    book: Book = field(init=False)
    _ran_ns: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        kind = self.plan.kind
        self.model = self.connection.model(
            kind.model, latency_budget_ms=kind.budget_ms, keep=kind.keep, window=kind.window
        )
        self.behaviour = behaviour(self.plan)
        self.book = Book(keeps_all=kind.keep == "all")

    def run(self, stop: threading.Event) -> None:
        """Live until told to stop, tick by tick; a tick that was slept through is skipped."""
        period_ns = round(self.behaviour.period_ms * MS_NS)
        began_ns = time.monotonic_ns() + self.plan.seed * STAGGER_MS * MS_NS
        report_ns, tick = began_ns + SECOND_NS, 0
        while not stop.is_set():
            due_ns = began_ns + tick * period_ns
            self._collect(due_ns)
            for ask in self.behaviour.asks(tick):
                self._ask(ask, due_ns, tick)
            now_ns = time.monotonic_ns()
            if now_ns >= report_ns:
                self._ran_ns = now_ns - began_ns
                say({"progress": self.progress()})
                report_ns = now_ns + SECOND_NS
            tick = max(tick + 1, (now_ns - began_ns) // period_ns)
        self._ran_ns = time.monotonic_ns() - began_ns
        self._finish()

    def _ask(self, ask: Ask, due_ns: int, tick: int) -> None:
        age_us = max(0, time.monotonic_ns() - due_ns) // 1000
        try:
            sequence = self.model.observe_at(
                ask.tensors, steps_remaining=ask.steps_remaining, age_us=age_us
            )
        except WindowFull:
            self.book.held_back += 1
            return
        budget_ms = self.plan.kind.budget_ms
        within_ms = budget_ms if ask.within_ms is None else min(budget_ms, ask.within_ms)
        self.book.ask(sequence, Pending(due_ns, due_ns + round(within_ms * MS_NS), tick))

    def _collect(self, until_ns: int) -> None:
        """Take answers as they come, until the next tick is due."""
        while (remaining_ns := until_ns - time.monotonic_ns()) > 0:
            if remaining_ns > MS_NS:  # the SDK waits in whole milliseconds
                for result in self.model.results(remaining_ns // MS_NS):
                    self._take(result)
            remaining_ns = until_ns - time.monotonic_ns()
            if remaining_ns > 0:
                time.sleep(remaining_ns / SECOND_NS)
        for result in self.model.results(0):
            self._take(result)

    def _take(self, result: Result) -> None:
        pending = self.book.end(result.sequence, result.status, time.monotonic_ns())
        if pending is not None:
            self.behaviour.answered(result, pending.tick)

    def _finish(self) -> None:
        """Wait for the answers under way, so that both sides count the same."""
        self.connection.wait_settled(SETTLE_MS)
        for result in self.model.results(0):
            self._take(result)

    def _rate_hz(self) -> float:
        return round(self.book.asked * SECOND_NS / max(1, self._ran_ns), 2)

    def progress(self) -> Progress:
        """Return the robot so far."""
        book = self.book
        return Progress(
            rate_hz=self._rate_hz(),
            answered=book.answered,
            misses=book.misses,
            p50_ms=book.percentile_ms(50),
            p99_ms=book.percentile_ms(99),
        )

    def report(self) -> RobotReport:
        """Return everything, after `run`."""
        book, behaviour = self.book, self.behaviour
        return RobotReport(
            name=self.plan.name,
            role=self.plan.role,
            model=self.plan.kind.model,
            rate_hz=self._rate_hz(),
            p50_ms=book.percentile_ms(50),
            p99_ms=book.percentile_ms(99),
            p99_9_ms=book.percentile_ms(99.9),
            max_ms=book.percentile_ms(100),
            answered=book.answered,
            misses=book.misses,
            dry_steps=behaviour.dry_steps,
            wrong=behaviour.wrong,
            held_back=book.held_back,
            sdk=sdk_ledger(self.connection.statistics()),
            histogram=book.histogram.encode().decode("ascii"),
        )


def sdk_ledger(statistics: Statistics) -> SdkLedger:
    """Return the SDK's count as it is sent to the parent."""
    return SdkLedger(
        asked=statistics.asked,
        sent=statistics.sent,
        outcomes={outcome.name: count for outcome, count in statistics.answers.items()},
        superseded_locally=statistics.superseded_locally,
        cancelled_locally=statistics.cancelled_locally,
        unanswered=statistics.unanswered,
        stale_dropped=statistics.stale_dropped,
        unmatched=statistics.unmatched,
        bad_answers=statistics.bad_answers,
    )


def say(message: Message) -> None:
    """Tell the parent."""
    print(json.dumps(message), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Be a robot; return 0 if the appliance was there."""
    parser = argparse.ArgumentParser(description="One simulated robot of `appliance demo`.")
    parser.add_argument("name")
    parser.add_argument("role", choices=["arm", "camera", "microphone", "noisy"])
    parser.add_argument("--server", required=True)
    parser.add_argument("--period-ms", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    words = parser.parse_args(argv)
    plan = RobotPlan(name=words.name, role=words.role, period_ms=words.period_ms, seed=words.seed)
    lifeline = Lifeline()
    lifeline.watch()
    with Connection(words.server, client_id=plan.name, client_type=plan.role) as connection:
        robot = Robot(plan=plan, connection=connection)
        if robot.model.describe(DESCRIBE_MS) is None:
            say({"error": f"the appliance does not describe {plan.kind.model}"})
            return 1
        say({"ready": True})
        lifeline.go.wait()
        robot.run(lifeline.stop)
    say({"report": robot.report()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
