"""What people see while it runs, on standard error: in place on a terminal, else plain lines."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from attrs import define, field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from appliance.cli.demo.report import counts
from appliance.cli.demo.robots import RobotProcess
from appliance.cli.tables import models_table, styled_state
from appliance.metrics.status import Status

MODELS_WIDTH = 80
"""Of the models' table at most: room for what a first look needs."""
PLAIN_LINES = 10
"""About how many lines a run says of itself where there is no terminal."""


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


@define(eq=False)
class Screen:
    """Standard error."""

    console: Console = field(factory=_console)
    _live: Live | None = field(default=None, init=False)
    _said_s: float = field(default=0.0, init=False)

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    @contextmanager
    def live(self) -> Generator[None, None, None]:
        """Where there is a terminal, `show` draws in place meanwhile."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def show(
        self, status: Status, robots: Sequence[RobotProcess], elapsed_s: float, total_s: float
    ) -> None:
        """Show how it goes."""
        if self._live is not None:
            view = running_view(status, robots, elapsed_s, total_s, self.console.width)
            self._live.update(view, refresh=True)
        elif elapsed_s >= self._said_s:
            self._said_s = elapsed_s + max(1.0, total_s / PLAIN_LINES)
            self.say(running_line(status, robots, elapsed_s, total_s))


def running_line(
    status: Status, robots: Sequence[RobotProcess], elapsed_s: float, total_s: float
) -> str:
    """Say in one line how it goes."""
    worst = max((each.progress["p99_ms"] for each in robots if each.progress), default=0.0)
    return (
        f"{elapsed_s:3.0f} of {total_s:g} s  {status['state']}  "
        f"{status['requests']['per_second']:.0f} requests/s  "
        f"worst p99 {worst:.1f} ms  {counts(status['outcomes'])}"
    )


def running_view(
    status: Status,
    robots: Sequence[RobotProcess],
    elapsed_s: float,
    total_s: float,
    width: int,
) -> RenderableType:
    """Lay it out for a terminal: the appliance in two lines, its models, the robots."""
    requests = status["requests"]
    head = Text.assemble(
        "● ",
        styled_state(status["state"]),
        f"  {elapsed_s:.0f} of {total_s:g} s  {requests['per_second']:.0f} requests/s  "
        f"{requests['asked']} asked  {requests['queued']} queued",
    )
    return Group(
        head,
        Text(counts(status["outcomes"])),
        Text(),
        models_table(status["models"], status["latency_us"], min(width, MODELS_WIDTH)),
        Text(),
        _robots_table(robots),
    )


def _robots_table(robots: Sequence[RobotProcess]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        caption="as each robot sees it: latencies in ms, from capture to answer",
        caption_justify="left",
    )
    table.add_column("robot")
    table.add_column("asks")
    for header in ("Hz", "answered", "misses", "p50", "p99"):
        table.add_column(header, justify="right")
    for robot in robots:
        progress = robot.progress
        if progress is None:
            table.add_row(robot.plan.name, robot.plan.kind.model)
            continue
        table.add_row(
            robot.plan.name,
            robot.plan.kind.model,
            f"{progress['rate_hz']:.1f}",
            str(progress["answered"]),
            Text(str(progress["misses"]), style=_miss_style(robot, progress["misses"])),
            f"{progress['p50_ms']:.1f}",
            f"{progress['p99_ms']:.1f}",
        )
    return table


def _miss_style(robot: RobotProcess, misses: int) -> str:
    """The noisy neighbour misses on purpose."""
    return "yellow" if misses and robot.plan.role != "noisy" else ""
