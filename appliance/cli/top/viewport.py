"""Which rows of a list are on the screen, and which one is selected. Pure.

The selection is a row's key and not its place: it stays with its row when others come, go or
change places. As long as nothing is selected, the first rows are shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field


@define(eq=False)
class Viewport:
    """Rows on the screen.

    Attributes:
        top: The first of them.
        selected: Key of the selected row, which need not be there at the moment.
    """

    top: int = 0
    selected: str | None = None
    _keys: Sequence[str] = field(default=(), init=False)
    _height: int = field(default=0, init=False)
    _index: int = field(default=0, init=False)

    def take(self, keys: Sequence[str], height: int) -> range:
        """Take in the rows that there are, and how many have room; return which are shown.

        The selected row stays in sight if it was.
        """
        was_seen = self._is_seen()
        self._keys, self._height = keys, max(0, height)
        if self.selected is None:
            self.top = 0
        elif self.selected in keys:
            self._index = keys.index(self.selected)
            if was_seen:
                self._reveal()
        self._clamp()
        return range(self.top, min(self.top + self._height, len(keys)))

    def move(self, rows: int) -> None:
        """Select the row so many further down; the first one shown, if none was."""
        if not self._keys:
            return
        if self.selected is None:
            self._select(self.top)
        else:
            self._select(self._index + rows)

    def page(self, pages: int) -> None:
        """Select the row so many screens further down."""
        self.move(pages * max(1, self._height - 1))

    def end(self, *, last: bool) -> None:
        """Select the first or the last row."""
        if self._keys:
            self._select(len(self._keys) - 1 if last else 0)

    def release(self) -> None:
        """Select nothing, and show the first rows."""
        self.selected = None
        self.top = self._index = 0

    def _select(self, index: int) -> None:
        self._index = min(max(index, 0), len(self._keys) - 1)
        self.selected = self._keys[self._index]
        self._reveal()

    def _is_seen(self) -> bool:
        return self.top <= self._index < self.top + self._height

    def _reveal(self) -> None:
        """Scroll as little as brings the selected row into sight."""
        self.top = max(min(self.top, self._index), self._index - self._height + 1, 0)

    def _clamp(self) -> None:
        self.top = max(0, min(self.top, len(self._keys) - self._height))
        self._index = max(0, min(self._index, len(self._keys) - 1))
