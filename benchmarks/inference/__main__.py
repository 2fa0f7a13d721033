"""`python -m benchmarks.inference [--rounds N] [--json PATH]`: measure, print the table, judge."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.inference.analyzer import Reading, analyze
from benchmarks.inference.servers import (
    BASE_MS,
    BATCH,
    IMAGE,
    ROW_MS,
    SLEEPER,
    SMALL,
    Server,
    appliance,
    floor,
    triton_server,
)
from benchmarks.inference.tools import ToolMissing
from benchmarks.report import Limit, Line, document, show

EIGHT = ("--concurrency-range", "8")
ONE = ("--concurrency-range", "1")
STREAMING = (*EIGHT, "--streaming")
REGION = ("--shared-memory", "system", "--output-shared-memory-size", str(480 * 640 * 3))
MODES = (
    ("--async", ("--async", *EIGHT)),
    ("--request-rate-range", ("--request-rate-range", "200")),
    ("--streaming --request-rate-range", ("--streaming", "--request-rate-range", "200")),
    ("--shared-memory system", ("--shared-memory", "system", "--output-shared-memory-size", "64")),
)
WIDTH = 150
WITHIN_MS = 0.25
"""How much more an image through shared memory may take than a call that carries little."""


def main() -> int:
    """Return 0 if every limit is kept, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(3)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    lines = measure(arguments.rounds)
    described = machine.describe()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    show(described, lines, console)
    found = document(described, lines)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 0 if found["passed"] else 1


def measure(rounds: int) -> list[Line]:
    """Let the servers take turns, round by round."""
    with ExitStack() as stack:
        ours, bare = stack.enter_context(appliance()), stack.enter_context(floor())
        try:
            triton: Server | None = stack.enter_context(triton_server())
        except ToolMissing as missing:
            _say(str(missing))
            triton = None
        servers = [each for each in (bare, ours, triton) if each is not None]
        unary = _in_turns(rounds, servers, SMALL, EIGHT)
        streaming = _in_turns(rounds, servers, SMALL, STREAMING)
        alone = _in_turns(rounds, [bare], SMALL, ONE)
        images = _in_turns(rounds, servers, IMAGE, ONE)
        regions = _in_turns(
            rounds, [each for each in servers if each is not bare], IMAGE, ONE, REGION
        )
        lines = [
            *_throughput("unary", unary, 0.6),
            *_throughput("streaming", streaming, 0.6),
            _p50("image, unary", images, "Triton"),
            _through_memory(regions, alone),
        ]
        for name, flags in MODES:
            lines.append(_mode(ours, name, flags))
        lines += _breakdown(ours)
    return lines


def _in_turns(
    rounds: int, servers: Sequence[Server], model: str, *flags: tuple[str, ...]
) -> dict[str, list[Reading]]:
    """Return each server's readings, taken in turns so that slow drift cancels."""
    said = [flag for group in flags for flag in group]
    readings: dict[str, list[Reading]] = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers:
            reading = analyze(server, model, *said)
            readings[server.name].append(reading)
            _say(
                f"{model} {' '.join(said)}, round {number + 1}: {server.name} "
                f"{reading.per_second:,.0f}/s, p50 {reading.p50_us:,.0f} us, "
                f"processor {reading.cpu_us:.0f} us"
            )
    return readings


def _throughput(name: str, found: dict[str, list[Reading]], least: float) -> list[Line]:
    """Return the lines of throughput and processor time, beside the floor and beside Triton."""
    lines: list[Line] = []
    for other in [each for each in found if each != "appliance"]:
        is_floor = other == "bare grpc.aio"
        lines += [
            Line(
                name=name,
                measured="answers a second, 8 at a time",
                unit="/s",
                ours=[each.per_second for each in found["appliance"]],
                beside=[each.per_second for each in found[other]],
                beside_name=other,
                limit=Limit("ratio", ">=", least) if is_floor else None,
            ),
            Line(
                name=name,
                measured="processor time of all its processes, an answer",
                unit="µs",
                ours=[each.cpu_us for each in found["appliance"]],
                beside=[each.cpu_us for each in found[other]],
                beside_name=other,
                limit=Limit("ratio", "<=", 1.8) if is_floor else None,
            ),
        ]
    return lines


def _p50(name: str, found: dict[str, list[Reading]], other: str) -> Line:
    return Line(
        name=name,
        measured="p50 of a 640x480x3 image there and back, one at a time",
        unit="µs",
        ours=[each.p50_us for each in found["appliance"]],
        beside=[each.p50_us for each in found.get(other, [])],
        beside_name=other,
        limit=Limit("ratio", "<=", 1.0) if other in found else None,
        note=f"bare grpc.aio {min(each.p50_us for each in found['bare grpc.aio']):,.0f} µs",
    )


def _through_memory(found: dict[str, list[Reading]], alone: dict[str, list[Reading]]) -> Line:
    bare = [each.p50_us for each in alone["bare grpc.aio"]]
    more = [each.p50_us - other for each, other in zip(found["appliance"], bare, strict=True)]
    triton = min((each.p50_us for each in found.get("Triton", [])), default=None)
    return Line(
        name="image, shared memory",
        measured="p50 beyond that of a bare small call, one at a time",
        unit="µs",
        ours=more,
        beside=bare,
        beside_name="bare grpc.aio, small",
        limit=Limit("figure", "<=", WITHIN_MS * 1000),
        note="" if triton is None else f"Triton takes {triton:,.0f} µs in all",
    )


def _mode(server: Server, name: str, flags: tuple[str, ...]) -> Line:
    reading = analyze(server, SMALL, *flags)
    _say(f"{name}: {reading.per_second:,.0f}/s")
    return Line(
        name="modes",
        measured=f"{name}: completes",
        unit="/s",
        ours=[reading.per_second],
        limit=Limit("figure", ">=", 1.0),
    )


def _breakdown(server: Server) -> list[Line]:
    """Return what the server says of where time goes, with an engine that sleeps a known time.

    One at a time waits for nobody and sleeps alone. Of two batches' worth at a time, one batch
    sleeps while the next one waits for it.
    """
    lines: list[Line] = []
    for rows, flags in ((1, ONE), (BATCH, ("--concurrency-range", str(2 * BATCH)))):
        reading = analyze(server, SLEEPER, *flags)
        slept_us = (BASE_MS + ROW_MS * rows) * 1000
        expected = {"compute": (reading.compute_us, slept_us)}
        if rows > 1:
            expected["queue"] = (reading.queue_us, slept_us)
        for part, (found_us, expected_us) in expected.items():
            lines.append(
                Line(
                    name="breakdown",
                    measured=f"{part}, batches of {rows}: off what an engine's sleep makes it",
                    unit="%",
                    ours=[abs(found_us / expected_us - 1) * 100],
                    limit=Limit("figure", "<=", 5.0),
                    note=f"found {found_us:,.0f} µs, expected {expected_us:,.0f} µs",
                )
            )
    return lines


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
