"""What the demo hands over at the end: one document, and a summary for people. PURE, but rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from appliance.cli.demo.ledgers import Ledgers, reconcile
from appliance.cli.demo.reports import RobotReport
from appliance.cli.demo.roster import MODELS
from appliance.cli.text import plain
from appliance.errors import Outcome
from appliance.metrics.status import Status

OK = Outcome.OK.name


class RobotDocument(TypedDict):
    """One robot; `outcomes` are by name, latencies from the moment of capture."""

    name: str
    role: str
    model: str
    rate_hz: float
    requests: int
    outcomes: dict[str, int]
    p50_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    misses: int
    dry_steps: int
    held_back: int
    wrong: int


class Document(TypedDict):
    """The whole demo. `models` are OK outcomes by model; `plot` is None if it was not written."""

    ok: bool
    problems: list[str]
    seconds: float
    requests: int
    outcomes: dict[str, int]
    models: dict[str, int]
    robots: list[RobotDocument]
    ledgers: Ledgers
    plot: str | None


def make_document(*, seconds: float, reports: Sequence[RobotReport], status: Status) -> Document:
    """Put together what robots and server say; `plot` is still None.

    Args:
        status: Taken after the robots' last answers.
    """
    ledgers = reconcile([report["sdk"] for report in reports], status)
    models = dict.fromkeys(MODELS, 0)
    for model in status["models"]:
        models[model["name"]] = model["outcomes"].get(OK, 0)
    problems = [
        *(f"{name}: no observation was answered" for name, count in models.items() if not count),
        *(
            f"{report['name']}: {report['wrong']} of {report['answered']} answers are wrong"
            for report in reports
            if report["wrong"]
        ),
        *(f"the ledgers differ: {difference}" for difference in ledgers["differences"]),
    ]
    return Document(
        ok=not problems,
        problems=problems,
        seconds=seconds,
        requests=status["requests"]["asked"],
        outcomes=dict(status["outcomes"]),
        models=models,
        robots=[_robot(report) for report in reports],
        ledgers=ledgers,
        plot=None,
    )


def add_problem(document: Document, problem: str) -> None:
    """Write down something else that went wrong."""
    document["problems"].append(problem)
    document["ok"] = False


def _robot(report: RobotReport) -> RobotDocument:
    return RobotDocument(
        name=report["name"],
        role=report["role"],
        model=report["model"],
        rate_hz=report["rate_hz"],
        requests=report["sdk"]["asked"],
        outcomes=report["sdk"]["outcomes"],
        p50_ms=report["p50_ms"],
        p99_ms=report["p99_ms"],
        p99_9_ms=report["p99_9_ms"],
        max_ms=report["max_ms"],
        misses=report["misses"],
        dry_steps=report["dry_steps"],
        held_back=report["held_back"],
        wrong=report["wrong"],
    )


def summary(document: Document) -> RenderableType:
    """Lay the document out for people."""
    parts: list[RenderableType] = [Text(), _table(document["robots"]), Text()]
    parts += [
        _line("requests", f"{document['requests']}"),
        _line("outcomes", counts(document["outcomes"])),
        _line("answered", counts(document["models"])),
        *_ledgers(document["ledgers"]),
    ]
    if document["plot"]:
        parts.append(_line("plot", plain(document["plot"])))
    return Group(*parts)


def counts(numbers: dict[str, int]) -> str:
    """Write counts by name, the largest first."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return "  ".join(f"{plain(name)} {count}" for name, count in ordered) or "none"


def _table(robots: Sequence[RobotDocument]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        caption="latencies in ms, from capture to answer; a miss is no answer in time",
        caption_justify="left",
    )
    table.add_column("robot", no_wrap=True)
    for header in ("Hz", "asked", "OK", "misses", "p50", "p99", "p99.9", "max"):
        table.add_column(header, justify="right")
    for robot in robots:
        latencies = (robot["p50_ms"], robot["p99_ms"], robot["p99_9_ms"], robot["max_ms"])
        table.add_row(
            robot["name"],
            f"{robot['rate_hz']:.1f}",
            str(robot["requests"]),
            str(robot["outcomes"].get(OK, 0)),
            str(robot["misses"]),
            *(f"{each:.1f}" for each in latencies),
        )
    return table


def _ledgers(ledgers: Ledgers) -> list[Text]:
    sdks, server, engines = ledgers["sdks"], ledgers["server"], ledgers["engines"]
    wasted = sum(engines["wasted"].values())
    verdict = ("equal", "green") if ledgers["equal"] else ("not equal", "red")
    return [
        Text.assemble((f"{'ledgers':<10}", "bold"), verdict),
        _line("  robots", f"sent {sdks['sent']}, heard {counts(sdks['outcomes'])}"),
        _line("  server", f"counts {server['asked']}, {counts(server['outcomes'])}"),
        _line("  engines", f"finished {engines['rows_finished']} rows, {wasted} for nothing"),
    ]


def _line(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<10}", "bold"), text)
