"""A table of one line a row: which columns fit, and its lines as text. Pure.

Unlike those of `tables`, which are printed once, it is drawn again and again: columns never get
narrower, so that they do not move as figures change, and what has no room is cut, not folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field
from rich.text import Text

from appliance.cli.tables import GAP, Cell, Column, chosen, needed_width

LEAST_NAME, MOST_NAME = 8, 24
"""A column of names gets so much, so that one long name does not push figures out, and what room is
left then. The first keeps the lesser width, if need be at the cost of the last column."""

_GUTTER = 2
"""Before each row: its mark, and a blank."""


@define(eq=False)
class Grid:
    """The columns of a table."""

    columns: tuple[Column, ...]
    _widths: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew with the columns' widths."""
        self._widths = [needed_width(column, ()) for column in self.columns]

    def measure(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Make the columns wide enough for these rows."""
        for index, column in enumerate(self.columns):
            one_line = column._replace(lists=False)
            needed = needed_width(one_line, (row[index] for row in rows))
            self._widths[index] = max(self._widths[index], needed)

    def header(self, width: int, order: str = "", arrow: str = "") -> Text:
        """Return the line of headers, with an arrow beside that of the column `order`."""
        text = Text(" " * _GUTTER, "bold")
        for column, room in self._layout(width):
            words = f"{arrow}{column.header}" if column.number else f"{column.header}{arrow}"
            if column.header != order:
                text.append_text(_cell(column.header, room, column)).append(" " * GAP)
            elif column.number:  # the arrow is in the gap, which is there on either side
                text.right_crop(1)
                text.append(words.rjust(room + 1)).append(" " * GAP)
            else:
                text.append(words.ljust(room + 1)).append(" " * (GAP - 1))
        return _fitted(text, width)

    def line(self, cells: Sequence[Cell], width: int, *, mark: str = " ", style: str = "") -> Text:
        """Return one row.

        Args:
            mark: One character that stands before it.
        """
        shown = dict(zip(self.columns, cells, strict=True))
        text = Text(mark.ljust(_GUTTER), style)
        for column, room in self._layout(width):
            text.append_text(_cell(shown[column], room, column)).append(" " * GAP)
        return _fitted(text, width)

    def _layout(self, width: int) -> Iterator[tuple[Column, int]]:
        """Say which columns are shown, and how wide."""
        room = width - _GUTTER
        wanted = [
            needed if column.number else min(needed, MOST_NAME)
            for column, needed in zip(self.columns, self._widths, strict=True)
        ]
        shown, _ = chosen(self.columns, wanted, room)
        widths = [wanted[index] for index in shown]
        spare = room - sum(widths) - GAP * (len(widths) - 1)
        if spare < 0:
            widths[0] = max(LEAST_NAME, widths[0] + spare)
        for place, index in enumerate(shown):
            more = min(max(0, spare), self._widths[index] - wanted[index])
            widths[place] += more
            spare -= more
        return ((self.columns[index], each) for index, each in zip(shown, widths, strict=True))


def _cell(cell: Cell, width: int, column: Column) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell.copy()
    text.truncate(width, overflow="ellipsis")
    text.align("right" if column.number else "left", width)
    return text


def _fitted(text: Text, width: int) -> Text:
    text.truncate(width, pad=True)
    return text
