"""`appliance doctor`: what is wrong on this box, and what to do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import attrs
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from appliance.cli import ERROR, NOT_QUITE, OK
from appliance.cli.socket_path import default_socket_path
from appliance.cli.text import plain
from appliance.doctor.gathering.gather import gather
from appliance.doctor.judging.findings import SEVERITY, Finding, Level, worst_level
from appliance.doctor.judging.judge import judge

CODES: dict[Level, int] = {"ok": OK, "skipped": OK, "warning": NOT_QUITE, "error": ERROR}
MARKS: dict[Level, Text] = {
    "ok": Text("+", "green"),
    "skipped": Text("-", "dim"),
    "warning": Text("!", "yellow"),
    "error": Text("x", "bold red"),
}


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 0 if nothing is wrong, 1 for warnings, 2 for errors."""
    facts = gather(arguments.config, arguments.socket, default_socket_path(existing=True))
    findings = judge(facts)
    level = worst_level(findings)
    if arguments.json:
        document = {"level": level, "findings": [attrs.asdict(each) for each in findings]}
        print(json.dumps(document, indent=2))
    else:
        Console(highlight=False, markup=False, emoji=False).print(doctor_view(findings))
    return CODES[level]


def doctor_view(findings: Sequence[Finding]) -> RenderableType:
    """Show what is well, then what is not: the worst last, each with what to do."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    bad = ("warning", "error")
    for finding in sorted(
        findings, key=lambda each: each.level in bad and SEVERITY.index(each.level)
    ):
        found = Text(plain_lines(finding.found))
        if finding.advice:
            found.append(f"\n→ {plain_lines(finding.advice)}", "bold")
        table.add_row(MARKS[finding.level], finding.name, found)
    return Group(table, Text(), _summary(findings))


def plain_lines(text: str) -> str:
    """Make text from outside safe to print, line by line."""
    return "\n".join(map(plain, text.splitlines()))


def _summary(findings: Sequence[Finding]) -> Text:
    errors, warnings = (
        sum(each.level == level for each in findings) for level in ("error", "warning")
    )
    if not errors and not warnings:
        return Text("nothing is wrong", "green")
    return Text(f"errors: {errors}, warnings: {warnings}", "red" if errors else "yellow")
