"""`appliance status` for people: a header in the state's colour, a few lines, two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from appliance.cli.tables import (
    STATE_STYLES,
    device_notes,
    devices_table,
    model_errors,
    models_table,
    worker_notes,
    workers_table,
)
from appliance.cli.text import dryness, duration, latency, plain, size

if TYPE_CHECKING:
    from appliance.metrics.status import FirstDry, Status


def status_view(status: Status, width: int) -> RenderableType:
    """Lay the status document out for a terminal of `width` columns."""
    parts: list[RenderableType] = [
        headline(status),
        *(Text(f"  {plain(reason)}", style="yellow") for reason in notes(status)),
        Text(),
        *_facts(status),
        Text(),
    ]
    models, workers = status["models"], status["workers"]
    if models:
        parts += [models_table(models, status["latency_us"], width), *model_errors(models)]
    else:
        parts.append(Text("no models", style="yellow"))
    parts.append(Text())
    if workers:
        parts += [workers_table(workers, width), *worker_notes(workers)]
    else:
        parts.append(Text("no workers", style="yellow"))
    devices = status.get("devices", [])  # an older appliance does not say
    if devices:
        parts += [Text(), devices_table(devices, width), *device_notes(devices)]
    return Group(*parts)


def notes(status: Status) -> list[str]:
    """Say why it is not ready, or not as its configuration says."""
    error = status.get("config_error")  # an older appliance does not say
    notes = [*status["reasons"], *([f"configuration not applied: {error}"] if error else [])]
    return notes + [f"not served yet: {change}" for change in status.get("pending", [])]


def unreachable_view(message: str) -> RenderableType:
    """Say that nobody answers."""
    return Text.assemble(
        ("● unreachable", f"bold {STATE_STYLES['unreachable']}"), f"  {plain(message)}"
    )


def headline(status: Status) -> Text:
    """Say in a line how it is, what it is and where."""
    style = STATE_STYLES.get(status["state"], "yellow")
    name = " ".join(["appliance", *filter(None, [plain(status["appliance_id"])])])
    rest = [
        f"{name} {plain(status['version'])}",
        f"up {duration(status['uptime_s'])}",
        f"pid {status['pid']}",
        *(plain(bind) for bind in status["binds"]),
    ]
    return Text.assemble((f"● {plain(status['state'])}", f"bold {style}"), "  ", " · ".join(rest))


def _facts(status: Status) -> list[Text]:
    requests, clients, arena = status["requests"], status["clients"], status["arena"]
    lines = [
        _line(
            "requests",
            f"{requests['per_second']:.1f}/s",
            f"{requests['asked']} asked",
            f"{requests['answered']} answered ({requests['late']} late)",
            f"{requests['in_flight']} in flight",
            f"{requests['queued']} queued",
        ),
        _line("outcomes", *_counts(status["outcomes"])),
        _line(
            "clients",
            f"{clients['connected']} connected",
            f"{clients['known']} known",
            *_dryness(clients.get("first_dry")),  # an older appliance does not say
        ),
        _line(
            "box",
            f"arena {size(arena['used'])} of {size(arena['bytes'])}, peak {size(arena['peak'])}",
            f"timer late {latency(status['timer_lateness_us'])} ms",
        ),
    ]
    if status["connections_refused"]:
        lines.append(_line("refused", *_counts(status["connections_refused"]), style="yellow"))
    if status["replies_lost"]:
        lines.append(_line("replies lost", *_counts(status["replies_lost"]), style="yellow"))
    if not status["ledger"]["balanced"]:
        ledger = status["ledger"]
        lines.append(
            _line(
                "ledger",
                f"does not balance: {ledger['rows_finished']} rows finished, {ledger['ok']} OK, "
                f"{sum(ledger['wasted'].values())} wasted, {ledger['in_flight']} in flight",
                style="red",
            )
        )
    return lines


def _dryness(first: FirstDry | None) -> list[str]:
    return [] if first is None else [f"{plain(first['id'])} {dryness(first['runs_dry_in_ms'])}"]


def _counts(counts: Mapping[str, int]) -> list[str]:
    """Write counts by name, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [f"{plain(name)} {number}" for name, number in ordered] or ["none yet"]


def _line(label: str, *parts: str, style: str = "") -> Text:
    return Text.assemble((f"{label:<13}", "bold"), ("  ".join(parts), style))
