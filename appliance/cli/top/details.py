"""All that is known of one robot, each with its unit and what it means. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from appliance.cli.text import NONE, duration, optional, plain
from appliance.cli.top.robots import STYLES, Robot
from appliance.cli.top.trend import WINDOW_S

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABEL, _VALUE = 14, 22


def details(robot: Robot) -> Sequence[Text]:
    """Return a line for each field."""
    client = robot.client
    return [
        _line("client", plain(client["id"]) or NONE, "who it says it is, or its key does"),
        _line("state", Text(robot.words, STYLES[robot.attention]), "what is the matter with it"),
        _line("type", plain(client["type"]) or NONE, "as it says"),
        _line("door", plain(client.get("door") or NONE), "which one it comes by"),
        _line("address", plain(client["address"]) or NONE, "where it comes from"),
        _line("session", plain(client["session"]), "tells it from the others"),
        _line("protocol", str(client["protocol"]), "version of the wire; 0: an old client"),
        _line("tier", str(client["tier"]), "from the configuration; 0 is served first"),
        _line("cadence", _with(client["cadence_hz"], "Hz"), "how often it sends, on average"),
        _line("jitter", _with(client["jitter_ms"], "ms"), "mean deviation from that"),
        _line(
            "overdue", _with(client.get("overdue_ms"), "ms"), "its next one, by its rhythm so far"
        ),
        _line("observations", str(client["observations"]), "came in"),
        _line("answered", str(client["answered"]), "ended in OK"),
        _line("late", str(client["late"]), "of them after their deadline"),
        _line(
            "misses",
            f"{client['misses']} (+{robot.risen} in {WINDOW_S} s)",
            "left without an action, not by its fault",
        ),
        _line("queued", str(client["queued"]), "have no outcome yet"),
        _line("slack", _with(client.get("slack_ms"), "ms"), "left to the deadline, last answer"),
        _line(
            "runs dry in",
            _with(client["runs_dry_in_ms"], "ms"),
            "when its actions end; negative: dry for so long",
        ),
        _line("last outcome", plain(client["last_outcome"] or NONE), "how the last one ended"),
        _line("silent for", duration(client["silent_s"]), "nothing came from it"),
    ]


def _with(value: float | None, unit: str) -> str:
    return NONE if value is None else f"{optional(value)} {unit}"


def _line(label: str, value: str | Text, meaning: str) -> Text:
    text = Text("  ").append(label.ljust(_LABEL), "bold")
    text.append_text(Text(value) if isinstance(value, str) else value)
    room = max(2, 2 + _LABEL + _VALUE - text.cell_len)
    return text.append(" " * room).append(meaning, "dim")
