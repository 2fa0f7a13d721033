"""What is on the screen: the state that keys change, and the lines that come of it. Pure.

Owned by `screen`, which brings documents, keys and the time, and paints the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attrs import define, field
from rich.text import Text

from appliance.cli.tables import (
    DEVICE_COLUMNS,
    MODEL_COLUMNS,
    WORKER_COLUMNS,
    device_rows,
    model_rows,
    worker_rows,
)
from appliance.cli.text import plain
from appliance.cli.top.details import details
from appliance.cli.top.head import DETAIL_KEYS, KEYS, away, foot, head
from appliance.cli.top.robots import COLUMNS, ORDERS, Order, Robot, filtered, ordered, robots, row
from appliance.cli.top.table import Row, Table
from appliance.cli.top.trend import Trend
from appliance.cli.top.viewport import Viewport

if TYPE_CHECKING:
    from appliance.metrics.status import Client, Status

View = Literal["all", "robots", "models", "workers", "GPUs"]
VIEWS: tuple[View, ...] = ("all", "robots", "models", "workers", "GPUs")
STAGES = "latencies are p50/p99 in ms, since the start"
LEAST_ROBOTS = 4
"""Lines that robots keep, where there are so many, before the other tables get any."""
LEAST_EXTRACT = 3
"""With fewer lines there is no row in it."""


def shares(room: int, robots: int, *others: int) -> tuple[int, ...]:
    """Divide lines among the tables; the arguments are how many each would like.

    The others get what they need, in their order, as long as robots keep half of the room, or need
    less; what has no room for a single row is left out.
    """
    spare = room - min(robots, max(LEAST_ROBOTS, room // 2))
    given: list[int] = []
    for wanted in others:
        share = min(wanted, spare)
        given.append(share if share >= LEAST_EXTRACT else 0)
        spare -= given[-1]
    return max(0, min(robots, room - sum(given))), *given


@define(eq=False)
class Page:
    """Everything the screen shows.

    Attributes:
        view: Which tables.
        turned: The order is the other way round.
        paused: Documents are not asked for.
        detailed: All of the selected robot is shown, in place of the tables.
        sought: What robots are filtered by; empty: all are shown.
    """

    view: View = "all"
    turned: bool = False
    paused: bool = False
    detailed: bool = False
    sought: str = ""
    _order: int = field(default=0, init=False)
    _status: Status | None = field(default=None, init=False)
    _taken_ns: int = field(default=0, init=False)
    _away: str = field(default="", init=False)
    _robots: list[Robot] = field(factory=list[Robot], init=False)
    _rows: dict[str, Row] = field(factory=dict[str, Row], init=False)
    _trend: Trend = field(factory=Trend, init=False)
    _robot_table: Table = field(factory=lambda: Table(COLUMNS), init=False)
    _models: Table = field(factory=lambda: Table(MODEL_COLUMNS, STAGES), init=False)
    _workers: Table = field(factory=lambda: Table(WORKER_COLUMNS), init=False)
    _devices: Table = field(factory=lambda: Table(DEVICE_COLUMNS), init=False)

    # --------------------------------------------------------------------------------- what is

    def take(self, status: Status, clients: Sequence[Client], now_ns: int) -> None:
        """Take in new documents.

        Raises:
            KeyError, TypeError: They are of another form; what was shown before still is.
        """
        if self._status is not None and self._status["instance"] != status["instance"]:
            self._trend.clear()
        self._trend.take(clients, now_ns)
        found = robots(clients, self._trend.risen)
        rows = {robot.key: row(robot) for robot in found}
        models, workers, devices = _model_rows(status), _worker_rows(status), _device_rows(status)
        head(status, found, 80)  # so that what is shown later is there
        for robot in found[:1]:
            details(robot)
        self._status, self._taken_ns, self._away = status, now_ns, ""
        self._robots, self._rows = found, rows
        self._robot_table.measure(list(rows.values()))
        tables = ((self._models, models), (self._workers, workers), (self._devices, devices))
        for table, found_rows in tables:
            table.rows = found_rows
            table.measure(found_rows)
        self._arrange()

    def lost(self, message: str) -> None:
        """Note that there are no documents, and why."""
        self._away = message

    # ------------------------------------------------------------------------------------ keys

    def sort(self) -> None:
        """Sort by the next column."""
        self._order = (self._order + 1) % len(ORDERS)
        self.turned = False
        self._arrange()

    def turn(self) -> None:
        """Sort the other way round."""
        self.turned = not self.turned
        self._arrange()

    def seek(self, text: str) -> None:
        """Show the robots that it is found in; all, if it is empty."""
        self.sought = text
        self._arrange()

    def next_view(self) -> None:
        """Show another table, or all."""
        views = self._views
        self.view = (
            views[(views.index(self.view) + 1) % len(views)] if self.view in views else "all"
        )
        self.detailed = False

    def open(self) -> None:
        """Show all of the selected robot; of the first, if none is."""
        if self.view in ("all", "robots") and self._robot_table.rows:
            if self.viewport.selected is None:
                self.viewport.move(0)
            self.detailed = True

    def close(self) -> None:
        """Go back: from the details, then to all robots, then to the first ones."""
        if self.detailed:
            self.detailed = False
        elif self.sought:
            self.seek("")
        else:
            self.viewport.release()

    def resized(self) -> None:
        """Begin anew with the columns' widths."""
        for table in (self._robot_table, *self._others):
            table.resized()

    @property
    def viewport(self) -> Viewport:
        """That of the table in which a row can be selected."""
        return self._selectable.viewport

    # ----------------------------------------------------------------------------------- lines

    def lines(self, width: int, height: int, now_ns: int) -> list[Text]:
        """Return the lines above the keys, as many as there is room for."""
        lines: list[Text] = []
        if self._away:
            since_s = (now_ns - self._taken_ns) / 1e9 if self._status is not None else None
            lines += away(self._away, since_s, width)
        elif self._status is not None:
            lines += head(self._status, self._robots, width)
        else:
            lines.append(Text("asking"))
        if self._status is not None:
            room = height - len(lines) - 1
            body = self._body(room, width)
            lines += [self._title(), *body]
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return lines[:height]

    def keys(self, width: int) -> Text:
        """Return the line of keys."""
        return foot(DETAIL_KEYS if self.detailed else KEYS, width)

    def _body(self, room: int, width: int) -> list[Text]:
        dim = bool(self._away)
        if self.detailed:
            return self._details(room)
        if self.view != "all":
            return self._table_lines(room, width)
        wanted = (len(table.rows) + 2 for table in self._others)
        robots_share, *given = shares(room, len(self._robot_table.rows) + 1, *wanted)
        lines = self._table_lines(robots_share, width)
        for table, share in zip(self._others, given, strict=True):
            lines += table.extract(share, width, dim=dim)
        return lines

    def _table_lines(self, room: int, width: int) -> list[Text]:
        table, is_sorted = self._selectable, self._selectable is self._robot_table
        if not table.rows:
            hidden = is_sorted and self._robots
            return [Text("  the filter fits none" if hidden else "  none", "dim")][:room]
        return table.lines(
            room,
            width,
            dim=bool(self._away),
            order=self._by.header if is_sorted else "",
            arrow=self._arrow,
        )

    def _details(self, room: int) -> list[Text]:
        self._robot_table.scroll(room)
        selected = self.viewport.selected
        for robot in self._robots:
            if robot.key == selected:
                return list(details(robot))
        return [Text("  this robot is not known any more", "yellow")]

    def _title(self) -> Text:
        """Say which tables are shown, and what of them."""
        text = Text(end="")
        for view in self._views:
            text.append(f" {view} ", "bold reverse" if view == self.view else "")
        if self._selectable is self._robot_table:
            fitting, known = len(self._robot_table.rows), len(self._robots)
            robots_ = "robot" if known == 1 else "robots"
            text.append(f"  {f'{fitting} of ' if self.sought else ''}{known} {robots_}")
            seen = self._robot_table.seen
            if 0 < len(seen) < fitting:
                text.append(f", rows {seen.start + 1}-{seen.stop}")
            text.append(f" · by {self._by.header} {self._arrow}")
            if self.sought:
                text.append(f" · filter: {plain(self.sought)}", "bold yellow")
        elif self._selectable.caption:
            text.append(f"  {self._selectable.caption}", "dim")
        if self.paused:
            text.append(" · paused", "bold yellow")
        return text

    # -------------------------------------------------------------------------------- in order

    @property
    def _views(self) -> tuple[View, ...]:
        """The tables that there are; most boxes have no GPU."""
        return VIEWS if self._devices.rows else VIEWS[:-1]

    @property
    def _others(self) -> tuple[Table, ...]:
        """The tables below that of robots."""
        tables = (self._models, self._workers)
        return (*tables, self._devices) if self._devices.rows else tables

    @property
    def _selectable(self) -> Table:
        tables = {"models": self._models, "workers": self._workers, "GPUs": self._devices}
        return tables.get(self.view, self._robot_table)

    @property
    def _by(self) -> Order:
        return ORDERS[self._order]

    @property
    def _arrow(self) -> str:
        return "▼" if self._by.descending is not self.turned else "▲"

    def _arrange(self) -> None:
        """Filter and sort the robots that there are."""
        shown = ordered(filtered(self._robots, self.sought), self._by, turned=self.turned)
        self._robot_table.rows = [self._rows[robot.key] for robot in shown]


def _model_rows(status: Status) -> list[Row]:
    models = status["models"]
    cells = model_rows(models, status["latency_us"])
    rows = [
        Row(model["name"], each, "!" if model["error"] else " ")
        for model, each in zip(models, cells, strict=False)
    ]
    return rows + [Row("", each) for each in cells[len(models) :]]  # the one over all of them


def _worker_rows(status: Status) -> list[Row]:
    workers = status["workers"]
    return [
        Row(worker["slot"], cells, " " if worker["state"] == "ready" else "!")
        for worker, cells in zip(workers, worker_rows(workers), strict=True)
    ]


def _device_rows(status: Status) -> list[Row]:
    devices = status.get("devices", [])  # an older appliance does not say
    return [
        Row(device["device"], cells, "!" if device["concerns"] else " ")
        for device, cells in zip(devices, device_rows(devices), strict=True)
    ]
