"""What a replay came to: the document, and the table for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appliance.cli.replay.comparison import DIFFERENCES, Comparison, Verdict
from appliance.cli.replay.sending import Replay
from appliance.cli.replay.survey import Survey
from appliance.cli.text import plain

COLUMNS = (
    Verdict.SAME,
    Verdict.OUTPUTS,
    Verdict.OUTCOME,
    Verdict.UNANSWERED,
    Verdict.MOMENT,
    Verdict.UNKNOWN,
    Verdict.LEFT_OUT,
)


def document(path: Path, survey: Survey, replay: Replay, comparison: Comparison) -> dict[str, Any]:
    """Return everything there is to be told."""
    return {
        "file": str(path),
        "server": replay.server,
        "agrees": comparison.agrees,
        "connections": len(survey.sessions),
        "observations": survey.observations,
        "sent": replay.sent,
        "seconds": round((survey.last_ns - survey.first_ns) / 1e9, 3),
        "speed": replay.speed,
        "sent_late_us": replay.late_us,
        "held_up_us": replay.held_up_ns // 1000,
        "ok_when_recorded": comparison.were_ok,
        "ok_compared": comparison.compared,
        "dropped_when_recorded": survey.dropped,
        "cut_off_at": survey.cut_off_at,
        "tolerance": comparison.tolerance,
        "models": [
            {
                "name": model,
                **{verdict.value.replace(" ", "_"): counted[verdict] for verdict in COLUMNS},
                "largest_deviation": comparison.deviation.get(model),
                "versions": [sorted(each) for each in comparison.versions.get(model, ((), ()))],
            }
            for model, counted in sorted(comparison.verdicts.items())
        ],
        "of_the_moment": [
            {"recorded": was, "replayed": now, "count": count}
            for (was, now), count in comparison.moments.most_common()
        ],
        "differences": comparison.examples,
    }


def show(result: dict[str, Any]) -> None:
    """Print it for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    print(
        f"{plain(result['file'])}: {result['sent']} of {result['observations']} observations sent, "
        f"{result['connections']} connections, {result['seconds']:.1f} s at {result['speed']:g}x, "
        f"at most {result['sent_late_us'] / 1000:.1f} ms late"
    )
    if result["held_up_us"]:
        print(
            f"held up by {result['held_up_us'] / 1000:.1f} ms in all, waiting for answers that had "
            "come sooner when it was recorded"
        )
    if result["cut_off_at"] is not None:
        print(f"the file was cut off at byte {result['cut_off_at']}")
    if result["dropped_when_recorded"]:
        print(f"{result['dropped_when_recorded']} messages are missing in the recording")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model")
    for verdict in COLUMNS:
        table.add_column(verdict.value, justify="right")
    table.add_column("deviation", justify="right")
    for model in result["models"]:
        cells = [str(model[verdict.value.replace(" ", "_")]) for verdict in COLUMNS]
        deviation = model["largest_deviation"]
        table.add_row(
            plain(model["name"]), *cells, "-" if deviation is None else f"{deviation:.2g}"
        )
    console.print(table)
    for model in result["models"]:
        before, after = model["versions"]
        if before != after:
            name = plain(model["name"])
            print(f"{name}: version {', '.join(before)} then, {', '.join(after)} now")
    for pair in result["of_the_moment"]:
        print(f"{pair['count']} were {pair['recorded']}, are {pair['replayed']}")
    for difference in result["differences"]:
        print(plain(difference))
    print(_conclusion(result))


def _conclusion(result: dict[str, Any]) -> str:
    differing = sum(
        model[verdict.value.replace(" ", "_")]
        for model in result["models"]
        for verdict in DIFFERENCES
    )
    if differing:
        return f"{differing} differ"
    if result["agrees"]:
        return "all that could be compared agree"
    if not any(model["same"] for model in result["models"]):
        return "nothing could be compared"
    return (
        f"too few could be compared: {result['ok_compared']} of {result['ok_when_recorded']} that "
        "were OK when recorded"
    )
