"""Tables of models, workers and clients. They fit narrow terminals by leaving columns out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from appliance.cli.text import NONE, duration, latency, optional, plain, size

if TYPE_CHECKING:
    from appliance.metrics.status import Client, Latencies, Model, Worker

NORMAL, WIDE = 75, 110
"""Terminal widths from which on more columns are shown."""

STATE_STYLES = {
    "ready": "green",
    "starting": "cyan",
    "loading": "cyan",
    "draining": "yellow",
    "degraded": "yellow",
    "failed": "red",
    "unreachable": "red",
}

Cell = str | Text


class Column(NamedTuple):
    """One column; it is left out of a terminal narrower than `from_width`."""

    header: str
    from_width: int = 0
    number: bool = True


MODEL_COLUMNS = (
    Column("model", number=False),
    Column("version", number=False, from_width=WIDE),
    Column("state", number=False),
    Column("queued"),
    Column("rows", from_width=WIDE),
    Column("rows/batch", from_width=WIDE),
    Column("age", from_width=WIDE),
    Column("queue", from_width=NORMAL),
    Column("batch", from_width=NORMAL),
    Column("execute", from_width=NORMAL),
    Column("reply", from_width=WIDE),
    Column("total"),
    Column("slack", from_width=WIDE),
)
SERVED_COLUMNS = (
    Column("model", number=False),
    Column("version", from_width=NORMAL, number=False),
    Column("state", number=False),
    Column("workers", number=False),
    Column("queued", from_width=NORMAL),
    Column("rows", from_width=NORMAL),
    Column("total"),
)
WORKER_COLUMNS = (
    Column("worker", number=False),
    Column("state", number=False),
    Column("busy", from_width=NORMAL, number=False),
    Column("pid", from_width=NORMAL),
    Column("rows"),
    Column("failed", from_width=NORMAL),
    Column("restarts"),
    Column("memory", from_width=NORMAL),
    Column("models", number=False, from_width=WIDE),
)
CLIENT_COLUMNS = (
    Column("client", number=False),
    Column("type", number=False, from_width=WIDE),
    Column("address", number=False, from_width=WIDE),
    Column("", from_width=NORMAL, number=False),
    Column("tier", from_width=NORMAL),
    Column("Hz"),
    Column("jitter ms", from_width=WIDE),
    Column("observed", from_width=NORMAL),
    Column("answered"),
    Column("late", from_width=NORMAL),
    Column("misses", from_width=NORMAL),
    Column("queued", from_width=WIDE),
    Column("dry in ms", from_width=WIDE),
    Column("last", number=False),
)


def styled_state(state: str) -> Text:
    """Write a state in its colour."""
    return Text(plain(state), style=STATE_STYLES.get(state, "yellow"))


def models_table(models: Sequence[Model], overall: Latencies, width: int) -> RenderableType:
    """Show models with p50/p99 of each stage; below several, the figures over all of them."""
    rows = [
        (
            plain(model["name"]),
            plain(model["version"]),
            styled_state(model["state"]),
            str(model["queued"]),
            str(model["rows"]),
            f"{model['batch_size_mean']:.1f}",
            *_stages(model["latency_us"]),
        )
        for model in models
    ]
    if len(models) > 1:
        queued, executed = (sum(model[key] for model in models) for key in ("queued", "rows"))
        rows.append(("all", "", Text(), str(queued), str(executed), "", *_stages(overall)))
    return _table(MODEL_COLUMNS, rows, width, caption="latencies are p50/p99 in ms")


def models_view(models: Sequence[Model], width: int) -> RenderableType:
    """Show what is served, by whom, and what is wrong with it."""
    if not models:
        return Text("no models")
    rows = (
        (
            plain(model["name"]),
            plain(model["version"]),
            styled_state(model["state"]),
            plain(", ".join(model["workers"])) or NONE,
            str(model["queued"]),
            str(model["rows"]),
            latency(model["latency_us"]["total"]),
        )
        for model in models
    )
    table = _table(SERVED_COLUMNS, rows, width, caption="latencies are p50/p99 in ms")
    return Group(table, *model_errors(models))


def model_errors(models: Iterable[Model]) -> list[Text]:
    """Say what is wrong with models, in full."""
    return [
        Text(f"{plain(model['name'])}: {plain(model['error'])}", style="red")
        for model in models
        if model["error"]
    ]


def workers_table(workers: Iterable[Worker], width: int) -> RenderableType:
    """Show worker slots with their processes."""
    rows = (
        (
            plain(worker["slot"]),
            styled_state(worker["state"]),
            "yes" if worker["busy"] else "no",
            NONE if worker["pid"] is None else str(worker["pid"]),
            str(worker["rows_finished"]),
            str(worker["rows_failed"]),
            str(worker["restarts"]),
            size(worker["rss_bytes"]),
            plain(", ".join(worker["models"])),
        )
        for worker in workers
    )
    return _table(WORKER_COLUMNS, rows, width)


def worker_notes(workers: Iterable[Worker]) -> list[Text]:
    """Say how workers' last processes ended."""
    return [
        Text(f"{plain(worker['slot'])} ended: {plain(worker['last_cause'])}", style="yellow")
        for worker in workers
        if worker["last_cause"]
    ]


def clients_view(clients: Sequence[Client], width: int) -> RenderableType:
    """Show the clients, by id."""
    if not clients:
        return Text("no clients")
    rows = (
        (
            plain(client["id"]) or NONE,
            plain(client["type"]),
            plain(client["address"]),
            _presence(client),
            str(client["tier"]),
            optional(client["cadence_hz"]),
            optional(client["jitter_ms"]),
            str(client["observations"]),
            str(client["answered"]),
            str(client["late"]),
            str(client["misses"]),
            str(client["queued"]),
            optional(client["runs_dry_in_ms"], 0),
            plain(client["last_outcome"] or NONE),
        )
        for client in sorted(clients, key=lambda client: client["id"])
    )
    return _table(CLIENT_COLUMNS, rows, width)


def _presence(client: Client) -> Text:
    if client["connected"]:
        return Text("here", style="green")
    return Text(f"gone {duration(client['silent_s'])}", style="dim")


def _stages(found: Latencies) -> tuple[str, ...]:
    stages = ("age", "queue", "batch", "execute", "reply", "total", "slack")
    return tuple(latency(found[stage]) for stage in stages)


def _table(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int, caption: str = ""
) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        caption=caption or None,
        caption_justify="left",
    )
    shown = [index for index, column in enumerate(columns) if width >= column.from_width]
    for index in shown:
        column = columns[index]
        table.add_column(
            column.header,
            justify="right" if column.number else "left",
            overflow="fold",  # a name takes the lines it needs, whole
            no_wrap=column.number,
        )
    for row in rows:
        table.add_row(*(_text(row[index]) for index in shown))
    return table


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
