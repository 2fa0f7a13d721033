"""`appliance top`: every robot, model and worker on a full screen, again and again.

What is shown, in which order, and what of it needs attention are plain functions of the documents
and the time (`robots`, `trend`, `grid`, `details`, `page`); `look` asks for the documents, `screen`
takes keys and paints. Only `screen` knows Textual.
"""

from __future__ import annotations

import argparse
import os
import sys

from appliance.cli import ERROR
from appliance.cli.socket_path import default_socket_path

SCREENLESS = frozenset({"", "dumb", "unknown"})
"""Values of TERM that promise nothing but lines."""


def run(arguments: argparse.Namespace) -> int:
    """Show it until the operator leaves; return the exit code."""
    unable = _unable()
    if unable:
        print(
            f"appliance: error: {unable}: use `appliance status --watch`, or --json for programs",
            file=sys.stderr,
        )
        return ERROR
    from appliance.cli.top.screen import Top

    def find() -> str:
        return arguments.socket or default_socket_path(existing=True)

    top = Top(find, period_s=arguments.period)
    top.run(mouse=False)  # so that text can be selected and copied as ever
    return top.return_code or 0


def _unable() -> str:
    """Say why there can be no full screen; empty if there can."""
    streams = (("input", sys.stdin), ("output", sys.stdout), ("error", sys.stderr))
    for name, stream in streams:
        if not stream.isatty():
            return f"`appliance top` needs a terminal, and standard {name} is none"
    term = os.environ.get("TERM", "")
    if term in SCREENLESS:
        return f"`appliance top` needs a terminal that can address its screen, and TERM is {term!r}"
    return ""
