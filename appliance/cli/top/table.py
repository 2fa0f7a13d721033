"""One of the tables on the screen: its columns, its rows, and which of them are in sight. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen
from rich.text import Text

from appliance.cli.tables import Cell, Column
from appliance.cli.top.grid import Grid
from appliance.cli.top.viewport import Viewport

SELECTED = "reverse"


@frozen
class Row:
    """A row.

    Attributes:
        key: Tells it from the others.
        mark: One character before it, where something is the matter.
        style: Of all of it.
    """

    key: str
    cells: Sequence[Cell]
    mark: str = " "
    style: str = ""


@define(eq=False)
class Table:
    """A table.

    Attributes:
        caption: What its figures are.
        rows: Those of the last document, filtered and in order.
        seen: Which of them are in sight.
    """

    columns: tuple[Column, ...]
    caption: str = ""
    rows: Sequence[Row] = ()
    seen: range = field(default=range(0), init=False)
    viewport: Viewport = field(factory=Viewport, init=False)
    _grid: Grid = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._grid = Grid(self.columns)

    def measure(self, rows: Sequence[Row]) -> None:
        """Let columns be wide enough for these rows from now on."""
        self._grid.measure([row.cells for row in rows])

    def resized(self) -> None:
        """Begin anew with the columns' widths."""
        self._grid.forget()
        self.measure(self.rows)

    def scroll(self, room: int) -> None:
        """Find out which rows are in sight, if there is room for so many lines."""
        self.seen = self.viewport.take([row.key for row in self.rows], room - 1)

    def lines(
        self, room: int, width: int, *, dim: bool = False, order: str = "", arrow: str = ""
    ) -> list[Text]:
        """Return at most `room` lines: the headers, and the rows in sight.

        Args:
            order: Header of the column that it is sorted by; `arrow` goes beside it.
        """
        lines = [self._grid.header(width, order, arrow)]
        self.scroll(room)
        for row in self.rows[self.seen.start : self.seen.stop]:
            style = "dim" if dim else row.style
            if row.key == self.viewport.selected:
                style = f"{style} {SELECTED}"
            lines.append(self._grid.line(row.cells, width, mark=row.mark, style=style))
        return lines[: max(0, room)]

    def extract(self, room: int, width: int, *, dim: bool = False) -> list[Text]:
        """Return at most `room` lines: the caption, the headers, the first rows, how many more."""
        hidden = len(self.rows) + 2 - room
        shown = self.rows if hidden <= 0 else self.rows[: max(0, room - 3)]
        lines = [Text(f"  {self.caption}", "dim"), self._grid.header(width)]
        lines += [
            self._grid.line(row.cells, width, mark=row.mark, style="dim" if dim else row.style)
            for row in shown
        ]
        if hidden > 0:
            lines.append(Text(f"  {len(self.rows) - len(shown)} more", "dim"))
        return lines[: max(0, room)]
