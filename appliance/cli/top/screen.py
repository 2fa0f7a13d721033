"""The full screen, by Textual: takes keys, asks each period, paints the lines of `Page`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.console import Console
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from appliance.cli.documents import readable
from appliance.cli.top.look import look
from appliance.cli.top.page import Page
from appliance.errors import AdminError, PeerProtocolError

Clock = Callable[[], int]


class Lines(Widget):
    """Lines of text, of which only those that have changed are painted."""

    DEFAULT_CSS = "Lines { height: 1fr; }"

    _strips: tuple[Strip, ...] = ()

    def paint(self, lines: Sequence[Text], console: Console) -> None:
        """Show these lines from now on."""
        width = self.size.width
        before = self._strips
        self._strips = tuple(
            Strip(_whole(line).render(console, end="")).adjust_cell_length(width) for line in lines
        )
        for y in range(max(len(before), len(lines))):
            if before[y : y + 1] != self._strips[y : y + 1]:
                self.refresh(Region(0, y, width, 1))

    def render_line(self, y: int) -> Strip:
        """Return one line, as Textual asks for it."""
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)


def _whole(line: Text) -> Text:
    """Return a line whose own style is that of a span: where there is none, it is not rendered."""
    line = line.copy()
    line.stylize_before(line.style)
    return line


class Top(App[None]):
    """`appliance top`.

    Args:
        find: Says where the admin socket is; asked each time, for it may not be there yet.
        period_s: Between two looks.
        clock: Monotonic nanoseconds.
    """

    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #keys { height: 1; }
    Input { height: 1; border: none; padding: 0; background: ansi_default; display: none; }
    Input:focus { border: none; }
    """
    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit"),
        Binding("s", "sort"),
        Binding("r", "turn"),
        Binding("p,space", "pause"),
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown", "page(1)"),
        Binding("home", "first"),
        Binding("end", "last"),
        Binding("ctrl+z", "suspend_process"),
        # At once, so that keys that are typed fast go where they are meant to.
        Binding("slash", "seek", priority=True),
        Binding("enter", "open", priority=True),
        Binding("escape", "close", priority=True),
        Binding("tab", "view", priority=True),
        Binding("ctrl+c", "quit", priority=True),
    ]

    def __init__(
        self, find: Callable[[], str], *, period_s: float, clock: Clock = time.monotonic_ns
    ) -> None:
        super().__init__(ansi_color=True)  # the terminal's own colours, however few they are
        self.page = Page()
        self._lines = Lines(id="lines")
        self._keys = Lines(id="keys")
        self._sought = Input(placeholder="part of an id, or: dry, misses, missed, late, gone")
        self._find = find
        self._period_s = period_s
        self._clock = clock

    def compose(self) -> ComposeResult:
        """Make the widgets: the lines, and below them the keys, or what to filter by."""
        yield self._lines
        yield self._sought
        yield self._keys

    def on_mount(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):  # leave the terminal as it was
            loop.add_signal_handler(number, self.exit)
        self.run_worker(self._watch(), exclusive=True)

    def on_resize(self) -> None:
        """Lay it out anew."""
        self.page.resized()
        self.call_after_refresh(self._show)

    async def _watch(self) -> None:
        """Ask each period, one request at a time, and show what came."""
        while True:
            began_ns = self._clock()
            if not self.page.paused:
                await self._look()
                self._show()
            elapsed_s = (self._clock() - began_ns) / 1e9
            await asyncio.sleep(max(0.0, self._period_s - elapsed_s))

    async def _look(self) -> None:
        try:
            status, clients = await look(self._find())
            if not self.page.paused:
                with readable():
                    self.page.take(status, clients, self._clock())
        except (AdminError, PeerProtocolError) as error:
            self.page.lost(str(error))

    def _show(self) -> None:
        size = self._lines.size
        lines = self.page.lines(size.width, size.height, self._clock())
        self._lines.paint(lines, self.console)
        self._keys.paint([self.page.keys(size.width)], self.console)

    # ------------------------------------------------------------------------------------ keys

    def action_sort(self) -> None:
        """Sort by the next column."""
        self.page.sort()
        self._show()

    def action_turn(self) -> None:
        """Sort the other way round."""
        self.page.turn()
        self._show()

    def action_pause(self) -> None:
        """Ask no more, or again."""
        self.page.paused = not self.page.paused
        self._show()

    def action_view(self) -> None:
        """Show another table, or all."""
        self.page.next_view()
        self._show()

    def action_open(self) -> None:
        """Keep the filter that was typed; without one, show all of the selected robot."""
        if self._is_typing:
            self._ask_for_filter(asking=False)
        else:
            self.page.open()
        self._show()

    def action_close(self) -> None:
        """Go back."""
        self._ask_for_filter(asking=False)
        self.page.close()
        self._show()

    def action_move(self, rows: int) -> None:
        """Select another row."""
        self.page.viewport.move(rows)
        self._show()

    def action_page(self, pages: int) -> None:
        """Select a row a screen away."""
        self.page.viewport.page(pages)
        self._show()

    def action_first(self) -> None:
        """Select the first row."""
        self.page.viewport.end(last=False)
        self._show()

    def action_last(self) -> None:
        """Select the last row."""
        self.page.viewport.end(last=True)
        self._show()

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002  as Textual calls it
    ) -> bool:
        """Let a slash be typed into the filter."""
        return not (action == "seek" and self._is_typing)

    def action_seek(self) -> None:
        """Ask what to filter by."""
        self._ask_for_filter(asking=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self.page.seek(event.value)
        self._show()

    @property
    def _is_typing(self) -> bool:
        return self.focused is self._sought

    def _ask_for_filter(self, *, asking: bool) -> None:
        self._sought.display = asking
        self._keys.display = not asking
        if asking:
            self._sought.value = self.page.sought
        self.set_focus(self._sought if asking else None)
