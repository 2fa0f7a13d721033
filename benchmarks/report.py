"""One line of the table: what was measured in each round, what it is judged by, and how it did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, frozen
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@frozen
class Limit:
    """What a line has to keep to.

    Attributes:
        of: The ratio to what stands beside it, or the figure itself.
        relation: `<=` or `>=`.
    """

    of: Literal["ratio", "figure"]
    relation: Literal["<=", ">="]
    value: float

    def holds(self, value: float) -> bool:
        """Return whether `value` keeps to it."""
        return value <= self.value if self.relation == "<=" else value >= self.value


@frozen(kw_only=True)
class Line:
    """One line; the medians over the rounds count.

    Attributes:
        name: Of the benchmark.
        measured: What the figure is.
        unit: Of the figures.
        ours: One figure for each round.
        beside: The floor's or peer's, round by round; empty if there is none.
        beside_name: What that is.
        limit: None: only to be known.
        note: Why there is no figure, or what else to know.
    """

    name: str
    measured: str
    unit: str
    ours: tuple[float, ...] = field(converter=tuple)
    beside: tuple[float, ...] = field(default=(), converter=tuple)
    beside_name: str = ""
    limit: Limit | None = None
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return ours over the other's, round by round, so that slow drift cancels."""
        return tuple(
            a / b if b else float("inf") for a, b in zip(self.ours, self.beside, strict=False)
        )

    @property
    def judged(self) -> tuple[float, ...]:
        """Return what the limit is about, round by round."""
        return self.ratios if self.limit and self.limit.of == "ratio" else self.ours

    @property
    def passed(self) -> bool | None:
        """Return whether the limit is kept; None: there is none. Not measured is not kept."""
        if self.limit is None:
            return None
        return bool(self.judged) and self.limit.holds(statistics.median(self.judged))

    def document(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "name": self.name,
            "measured": self.measured,
            "unit": self.unit,
            "figure": _median(self.ours),
            "rounds": list(self.ours),
            "beside": self.beside_name,
            "beside_figure": _median(self.beside),
            "beside_rounds": list(self.beside),
            "ratio": _median(self.ratios),
            "ratio_rounds": list(self.ratios),
            "limit": _limit_text(self),
            "passed": self.passed,
            "note": self.note,
        }


def document(machine: dict[str, str], lines: Sequence[Line]) -> dict[str, Any]:
    """Return the whole table for `--json`, and whether every limit is kept."""
    return {
        "machine": machine,
        "lines": [line.document() for line in lines],
        "passed": all(line.passed is not False for line in lines),
    }


def unmeasured(name: str, error: Exception) -> Line:
    """Return the line of a part that broke down; it keeps no limit."""
    return Line(
        name=name,
        measured="could not be measured",
        unit="",
        ours=(),
        limit=Limit("figure", "<=", 0),
        note=f"{type(error).__name__}: {error}",
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(values: Sequence[float], unit: str) -> str:
    """Say median and range."""
    if not values:
        return ""
    text = f"{_number(statistics.median(values))}{unit}"
    if len(values) > 1:
        text += f" ({_number(min(values))}-{_number(max(values))})"
    return text


def _limit_text(line: Line) -> str:
    limit = line.limit
    if limit is None or not line.unit:
        return ""
    unit = "x" if limit.of == "ratio" else " " + line.unit
    return f"{'≤' if limit.relation == '<=' else '≥'} {limit.value:g}{unit}"


def show(machine: dict[str, str], lines: Sequence[Line], console: Console) -> None:
    """Print the header and the table."""
    width = max(map(len, machine))
    for key, value in machine.items():
        console.print(f"{key:<{width}}  {value}", highlight=False, markup=False)
    table = Table(title="median over the rounds (min-max)", title_justify="left")
    for heading in ("benchmark", "measured", "figure", "beside it", "ratio", "limit", ""):
        table.add_column(heading, overflow="fold")
    for line in lines:
        beside = _spread(line.beside, " " + line.unit)
        verdict = {None: "", True: "[green]pass[/]", False: "[bold red]FAIL[/]"}[line.passed]
        table.add_row(
            line.name,
            line.measured + (f"\n[dim]{escape(line.note)}[/]" if line.note else ""),
            _spread(line.ours, " " + line.unit),
            f"{beside}\n[dim]{line.beside_name}[/]" if line.beside else "",
            _spread(line.ratios, "x"),
            _limit_text(line),
            verdict,
        )
    console.print(table)
