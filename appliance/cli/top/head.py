"""The lines above the tables, and the keys below them. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from appliance.cli.status_view import headline, notes
from appliance.cli.tables import GAP, STATE_STYLES
from appliance.cli.text import duration, latency, plain
from appliance.cli.top.robots import Attention, Robot
from appliance.cli.top.trend import WINDOW_S
from appliance.errors import MISSES

if TYPE_CHECKING:
    from appliance.metrics.status import Status

MOST_NOTES = 3
"""Lines that say why it is not ready; the last of them says how many more there are."""

_LABEL = 10


def head(status: Status, robots: Sequence[Robot], width: int) -> list[Text]:
    """Say how the box does: its state and why, requests, latency and robots."""
    requests, clients, total = status["requests"], status["clients"], status["latency_us"]["total"]
    missed = sum(status["outcomes"].get(outcome.name, 0) for outcome in MISSES)
    risen = sum(robot.risen for robot in robots)
    urgent = sum(robot.attention is not Attention.HERE for robot in robots)
    return [
        headline(status),
        *_notes(notes(status), width),
        _line(
            "requests",
            [
                Text(f"{requests['per_second']:.1f}/s"),
                Text(f"{requests['answered']} answered ({requests['late']} late)"),
                Text(f"{missed} missed (+{risen} in {WINDOW_S} s)", "bold red" if risen else ""),
                Text(f"{requests['queued']} queued"),
                Text(f"{requests['in_flight']} in flight"),
            ],
            width,
        ),
        _line(
            "latency",
            [
                Text(f"{latency(total)} ms p50/p99" if total["count"] else "none yet"),
                Text(f"{clients['connected']} robots connected"),
                Text(f"{urgent} to look at", "bold yellow" if urgent else ""),
            ],
            width,
        ),
    ]


def away(message: str, since_s: float | None, width: int) -> list[Text]:
    """Say that nobody answers.

    Args:
        since_s: How old what is shown below is; None: there is nothing to show.
    """
    lines = _folded(plain(message), width)
    style = STATE_STYLES["unreachable"]
    old = "" if since_s is None else f"; what is below is {duration(since_s)} old"
    return [
        Text.assemble(("● unreachable", f"bold {style}"), f"  still trying{old}"),
        *(Text(f"  {line}", style) for line in lines),
    ]


def _notes(found: Sequence[str], width: int) -> list[Text]:
    lines = [line for note in found for line in _folded(plain(note), width)]
    if len(lines) > MOST_NOTES:
        more = len(lines) - MOST_NOTES + 1
        lines[MOST_NOTES - 1 :] = [f"and {more} lines more: see `appliance status`"]
    return [Text(f"  {line}", "yellow") for line in lines]


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(10, width - 2))


def _line(label: str, parts: Sequence[Text], width: int) -> Text:
    """Join as many parts as there is room for."""
    text = Text().append(label.ljust(_LABEL), "bold")
    for part in parts:
        if text.cell_len + GAP + part.cell_len > width:
            break
        text.append(" " * GAP).append_text(part)
    return text


KEYS = (
    ("q", "quit"),
    ("s", "sort"),
    ("r", "reverse"),
    ("/", "filter"),
    ("p", "pause"),
    ("enter", "details"),
    ("tab", "view"),
    ("↑↓", "select"),
)
DETAIL_KEYS = (("q", "quit"), ("esc", "back"), ("↑↓", "other robots"), ("p", "pause"))


def foot(keys: Sequence[tuple[str, str]], width: int) -> Text:
    """Say which keys do what, as far as there is room."""
    text = Text()
    for key, what in keys:
        if text.cell_len + cell_len(f" {key} {what} ") > width:
            break
        text.append(f" {key} ", "reverse").append(f" {what} ")
    return text
