"""`python -m benchmarks [--only NAME]... [--json PATH]`: measure, print the table, judge."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from benchmarks import (
    controllers,
    fairness,
    images,
    kills,
    latency,
    machine,
    memory,
    observing,
    page,
    recording,
    throughput,
    timer,
)
from benchmarks.report import Line, document, show, unmeasured

PARTS: dict[str, Callable[[], Iterator[str | Line]]] = {
    "latency": latency.measure,
    "throughput": throughput.measure,
    "images": images.measure,
    "observing": observing.measure,
    "memory": memory.measure,
    "kills": kills.measure,
    "timer": timer.measure,
    "fairness": fairness.measure,
    "controllers": controllers.measure,
    "outages": controllers.outages,
    "recording": recording.measure,
    "page": page.measure,
}
WIDTH = 150
"""Columns where there is no terminal to ask."""


def main() -> int:
    """Return 0 if every limit is kept, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be given again")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    described = machine.describe()
    lines = [line for name in arguments.only or PARTS for line in _run(name)]
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    show(described, lines, console)
    found = document(described, lines)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 0 if found["passed"] else 1


def _run(name: str) -> list[Line]:
    """Run one part, saying on standard error how far it is."""
    lines: list[Line] = []
    start = time.monotonic()
    try:
        for said in PARTS[name]():
            if isinstance(said, Line):
                lines.append(said)
            else:
                elapsed = time.monotonic() - start
                print(f"{name:<11}{elapsed:5.0f} s  {said}", file=sys.stderr, flush=True)
    except Exception as error:  # noqa: BLE001  the other parts are worth having
        traceback.print_exc()
        lines.append(unmeasured(name, error))
    return lines


if __name__ == "__main__":
    sys.exit(main())
