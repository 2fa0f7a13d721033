"""Tables of models, workers and clients. They fit narrow terminals by leaving columns out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from appliance.cli.text import NONE, duration, latency, optional, plain, size

if TYPE_CHECKING:
    from appliance.metrics.status import Client, Device, Latencies, Model, Worker

GAP = 2
"""Between two columns."""

STATE_STYLES = {
    "ready": "green",
    "starting": "cyan",
    "loading": "cyan",
    "draining": "yellow",
    "standby": "yellow",
    "degraded": "yellow",
    "failed": "red",
    "unreachable": "red",
}

Cell = str | Text


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        rank: Where there is no room, the column of the highest rank is left out first; 0 stays.
        least: Its width at least, so that it does not come and go as its figures change.
        lists: Its cells are lists, and take the lines they need; all others are of one line.
    """

    header: str
    rank: int = 0
    number: bool = True
    least: int = 0
    lists: bool = False


_PAIR = 9
"""Width of a p50 and a p99: 12.3/45.6."""

MODEL_COLUMNS = (
    Column("model", number=False),
    Column("version", 9, number=False),
    Column("state", number=False),
    Column("queued"),
    Column("rows", 4),
    Column("rows/batch", 7),
    Column("age", 8, least=_PAIR),
    Column("queue", 1, least=_PAIR),
    Column("batch", 3, least=_PAIR),
    Column("execute", 2, least=_PAIR),
    Column("reply", 6, least=_PAIR),
    Column("total", least=_PAIR),
    Column("slack", 5, least=_PAIR),
)
SERVED_COLUMNS = (
    Column("model", number=False),
    Column("version", 1, number=False),
    Column("state", number=False),
    Column("workers", number=False, lists=True),
    Column("queued", 2),
    Column("rows", 3),
    Column("total", least=_PAIR),
)
WORKER_COLUMNS = (
    Column("worker", number=False),
    Column("state", number=False),
    Column("busy", 4, number=False),
    Column("pid", 1),
    Column("rows"),
    Column("failed", 3),
    Column("restarts"),
    Column("memory", 2),
    Column("models", 5, number=False, least=30, lists=True),
)
DEVICE_COLUMNS = (
    Column("GPU", number=False),
    Column("name", 6, number=False),
    Column("workers", 5, number=False, lists=True),
    Column("busy %"),
    Column("memory", least=12),
    Column("°C"),
    Column("MHz", 2),
    Column("W", 3),
    Column("throttled", number=False),
    Column("ECC", 4),
    Column("XID", 1),
)
CLIENT_COLUMNS = (
    Column("client", number=False),
    Column("type", 11, number=False),
    Column("address", 10, number=False),
    Column("", 1, number=False),
    Column("tier", 8),
    Column("Hz"),
    Column("jitter ms", 7),
    Column("observed", 5),
    Column("answered"),
    Column("late", 3),
    Column("misses", 2),
    Column("queued", 6),
    Column("slack ms", 9),
    Column("dry in ms", 4),
    Column("last", number=False),
)


def styled_state(state: str) -> Text:
    """Write a state in its colour."""
    return Text(plain(state), style=STATE_STYLES.get(state, "yellow"))


def models_table(models: Sequence[Model], overall: Latencies, width: int) -> RenderableType:
    """Show models with p50/p99 of each stage; below several, the figures over all of them."""
    rows = model_rows(models, overall)
    return _table(MODEL_COLUMNS, rows, width, caption="latencies are p50/p99 in ms")


def model_rows(models: Sequence[Model], overall: Latencies) -> list[Sequence[Cell]]:
    """Return a row of `MODEL_COLUMNS` for each model; below several, one over all of them."""
    rows: list[Sequence[Cell]] = [
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
    return rows


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
    return Group(table, *model_notes(models), *model_errors(models))


def model_notes(models: Iterable[Model]) -> list[Text]:
    """Say of models that leave the memory for others how often they did, and where they are not."""
    return [
        Text(
            f"{plain(model['name'])} ({size(model['memory_bytes'])}) is "
            + (
                f"in the memory of {plain(', '.join(model['resident']))}"
                if model["resident"]
                else "in no worker's memory"
            )
            + f"; loaded again {model['loads']} times, left {model['evictions']} times"
        )
        for model in models
        if model["loads"] or model["evictions"] or set(model["workers"]) - {*model["resident"]}
    ]


def model_errors(models: Iterable[Model]) -> list[Text]:
    """Say what is wrong with models, in full."""
    return [
        Text(f"{plain(model['name'])}: {plain(model['error'])}", style="red")
        for model in models
        if model["error"]
    ]


def workers_table(workers: Iterable[Worker], width: int) -> RenderableType:
    """Show worker slots with their processes."""
    return _table(WORKER_COLUMNS, worker_rows(workers), width)


def worker_rows(workers: Iterable[Worker]) -> list[Sequence[Cell]]:
    """Return a row of `WORKER_COLUMNS` for each worker slot."""
    return [
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
    ]


def worker_notes(workers: Sequence[Worker]) -> list[Text]:
    """Say what workers with a budget hold, what slows them, and how their last processes ended."""
    held = [
        Text(
            f"{plain(worker['slot'])} has {plain(', '.join(worker['resident'])) or 'nothing'} in "
            f"memory: {size(worker['resident_bytes'])} of {size(worker['budget_bytes'])}"
        )
        for worker in workers
        if worker["budget_bytes"]
    ]
    slowed = [
        Text(f"{plain(worker['slot'])}: {plain(remark)}", style="yellow")
        for worker in workers
        for remark in worker["remarks"]
    ]
    return [*held, *slowed] + [
        Text(f"{plain(worker['slot'])} ended: {plain(worker['last_cause'])}", style="yellow")
        for worker in workers
        if worker["last_cause"]
    ]


def devices_table(devices: Iterable[Device], width: int) -> RenderableType:
    """Show the GPUs that workers compute on."""
    return _table(DEVICE_COLUMNS, device_rows(devices), width)


def device_rows(devices: Iterable[Device]) -> list[Sequence[Cell]]:
    """Return a row of `DEVICE_COLUMNS` for each GPU."""
    return [
        (
            plain(device["device"]),
            plain(device["name"]) or NONE,
            plain(", ".join(device["workers"])),
            optional(device["utilisation_percent"], 0),
            _part(device["memory_used_bytes"], device["memory_total_bytes"]),
            optional(device["temperature_c"], 0),
            optional(device["clock_mhz"], 0),
            optional(device["power_w"], 0),
            _holds(device),
            optional(device["ecc_uncorrected"], 0),
            NONE if device["last_xid"] is None else str(device["last_xid"]),
        )
        for device in devices
    ]


def _part(used: int | None, total: int | None) -> str:
    return NONE if used is None or total is None else f"{size(used)} of {size(total)}"


def _holds(device: Device) -> Cell:
    if device["error"]:
        return NONE
    if not device["holds"]:
        return "no"
    slower = f" {device['slowdown']:.1f}x" if device["slowdown"] > 1 else ""
    return Text(plain(", ".join(device["holds"])) + slower, style="yellow")


def device_notes(devices: Iterable[Device]) -> list[Text]:
    """Say what is wrong with GPUs."""
    return [
        Text(f"{plain(device['device'])}: {plain(concern)}", style="yellow")
        for device in devices
        for concern in device["concerns"]
    ]


def clients_view(clients: Sequence[Client], width: int) -> RenderableType:
    """Show the clients, by id."""
    if not clients:
        return Text("no clients")
    rows = [
        client_row(client, _presence(client))
        for client in sorted(clients, key=lambda client: client["id"])
    ]
    return _table(CLIENT_COLUMNS, rows, width)


def client_row(client: Client, state: Cell) -> Sequence[Cell]:
    """Return a row of `CLIENT_COLUMNS`; `state` says whether it is here."""
    return (
        plain(client["id"]) or NONE,
        plain(client["type"]),
        plain(client["address"]),
        state,
        str(client["tier"]),
        optional(client["cadence_hz"]),
        optional(client["jitter_ms"]),
        str(client["observations"]),
        str(client["answered"]),
        str(client["late"]),
        str(client["misses"]),
        str(client["queued"]),
        optional(client.get("slack_ms")),  # an older appliance does not say
        optional(client["runs_dry_in_ms"], 0),
        plain(client["last_outcome"] or NONE),
    )


def _presence(client: Client) -> Text:
    overdue_ms = client.get("overdue_ms")  # an older appliance does not say
    if overdue_ms is not None:
        return Text(f"overdue {overdue_ms:.0f} ms", style="yellow")
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
        padding=(0, GAP, 0, 0),
        header_style="bold",
        caption=caption or None,
        caption_justify="left",
    )
    cells = [[_text(cell) for cell in row] for row in rows]
    needed = [
        needed_width(column, [row[index] for row in cells]) for index, column in enumerate(columns)
    ]
    shown, fits = chosen(columns, needed, width)
    for index in shown:
        column = columns[index]
        table.add_column(
            column.header,
            justify="right" if column.number else "left",
            overflow="fold",  # where nothing else helps, a name takes the lines it needs, whole
            no_wrap=column.number or (fits and not column.lists),
        )
    for row in cells:
        table.add_row(*(row[index] for index in shown))
    return table


def chosen(columns: Sequence[Column], needed: Sequence[int], width: int) -> tuple[list[int], bool]:
    """Return which columns are shown, and whether there is room for them as they are.

    Args:
        needed: The width of each column.
    """
    shown = list(range(len(columns)))
    for index in sorted(shown, key=lambda index: columns[index].rank, reverse=True):
        if columns[index].rank == 0 or _total(needed, shown) <= width:
            break
        shown.remove(index)
    return shown, _total(needed, shown) <= width


def _total(needed: Sequence[int], shown: Sequence[int]) -> int:
    return sum(needed[each] + GAP for each in shown) - GAP


def needed_width(column: Column, cells: Iterable[Cell]) -> int:
    """Return the width below which a column would fold a name."""
    texts = [column.header, *(cell if isinstance(cell, str) else cell.plain for cell in cells)]
    pieces = [piece for text in texts for piece in (text.split() if column.lists else [text])]
    return max(column.least, *map(cell_len, pieces))


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
