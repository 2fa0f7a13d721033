"""`appliance status --watch`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.cli import ERROR
from appliance.cli.documents import exit_code
from appliance.cli.status_view import status_view, unreachable_view
from appliance.errors import AdminUnreachable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from appliance.metrics.status import Status

PERIOD_S = 1.0

Fetch = Callable[[], "Status"]
Sleep = Callable[[float], None]


def watch_json(fetch: Fetch, sleep: Sleep) -> int:
    """Print one document a line, each second, until interrupted or nobody answers."""
    code = ERROR
    try:
        while True:
            document = fetch()
            print(json.dumps(document), flush=True)
            code = exit_code(document)
            sleep(PERIOD_S)
    except KeyboardInterrupt:
        return code


def watch_view(fetch: Fetch, sleep: Sleep, console: Console) -> int:
    """Show the status in place, each second, until interrupted; return the last one's exit code.

    While nobody answers it says so, and goes on trying.
    """
    from rich.live import Live

    code = ERROR
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                code, view = _look(fetch, console.width)
                live.update(view, refresh=True)
                sleep(PERIOD_S)
        except KeyboardInterrupt:
            return code


def _look(fetch: Fetch, width: int) -> tuple[int, RenderableType]:
    try:
        document = fetch()
    except AdminUnreachable as error:
        return ERROR, unreachable_view(str(error))
    return exit_code(document), status_view(document, width)
