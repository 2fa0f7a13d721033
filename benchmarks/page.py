"""What the timeline costs the core, and what robots notice of an open page."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.box import Box, box, noop
from benchmarks.children import Child, role, roles
from benchmarks.report import Limit, Line
from benchmarks.stdio import answer

ROUNDS = 5
SLICES = 4
"""In each round, of each kind, in turn."""
SLICE_S = 2.0
ROBOTS, ROBOT_HZ = 6, 50.0
PUMPS = 2
PUMP_S = 0.5
PAIRS = 8
"""In each round, with a timeline and without."""
PERIOD_S = 1.0
CURSOR = re.compile(rb'"cursor": "([^"]*)"')
PAGE = """
[admin]
listen = "127.0.0.1:{port}"
"""


def measure() -> Iterator[str | Line]:
    """Alternate between a timeline and none, and between an open page and none."""
    yield from _cost()
    yield from _open_page()


def _cost() -> Iterator[str | Line]:
    """Flood an appliance that keeps its timeline and does not, in turn."""
    for name, window in (("page", 32), ("", 4)):
        with ExitStack() as stack:
            appliance = stack.enter_context(box(noop(), module="benchmarks.untimed"))
            pumps = roles(stack, PUMPS, "pump", address=appliance.address, window=window)
            _flood_us(appliance, pumps, signal.SIGUSR2)
            ours: list[float] = []
            without: list[float] = []
            for number in range(ROUNDS):
                yield f"cost, window {window}, round {number + 1} of {ROUNDS}"
                kept: list[float] = []
                not_kept: list[float] = []
                for _ in range(PAIRS):
                    kept.append(_flood_us(appliance, pumps, signal.SIGUSR2))
                    not_kept.append(_flood_us(appliance, pumps, signal.SIGUSR1))
                ours.append(statistics.median(kept))
                without.append(statistics.median(not_kept))
            rows = appliance.status()["models"][0]["batch_size_mean"]
        yield Line(
            name=name,
            measured=f"processor time of the core for one observation of a flood, {rows:.0f} rows "
            "a batch",
            unit="µs",
            ours=ours,
            beside=without,
            beside_name="without the timeline",
            limit=Limit("ratio", "<=", 1.03),
        )


def _open_page() -> Iterator[str | Line]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        appliance = stack.enter_context(box(noop(), config=PAGE.format(port=port)))
        robots = _robots(stack, appliance)
        page = stack.enter_context(role("open_page", port=port))
        _ask(robots)
        with_it: list[float] = []
        without: list[float] = []
        for number in range(ROUNDS):
            yield f"open page, round {number + 1} of {ROUNDS}"
            watched: list[float] = []
            plain: list[float] = []
            for _ in range(SLICES):
                plain += _ask(robots)
                page.tell(seconds=SLICE_S)
                watched += _ask(robots)
                page.hear()
            with_it.append(_p99(watched))
            without.append(_p99(plain))
    yield Line(
        name="",
        measured=f"p99 of {ROBOTS} robots of {ROBOT_HZ:.0f} Hz while a page asks as one does",
        unit="µs",
        ours=with_it,
        beside=without,
        beside_name="without",
        limit=Limit("ratio", "<=", 1.1),
    )


def open_page(*, port: int) -> None:
    """Ask what an open page asks, once a second, for `seconds`; look at as little as possible."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    cursor = b""

    def get(path: str) -> bytes:
        connection.request("GET", path)
        return connection.getresponse().read()

    def run(seconds: float) -> dict[str, int]:
        nonlocal cursor
        rounds = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            get("/v1/clients" if rounds % 2 else "/v1/status")  # in turn, as the page does
            more = True
            while more:
                found = get(f"/v1/timeline?since={cursor.decode()}")
                cursor = CURSOR.findall(found)[0]
                more = b'"more": {"batches": 0, "drops": 0}' not in found
            rounds += 1
            time.sleep(min(PERIOD_S, max(0.0, end - time.monotonic())))
        return {"rounds": rounds}

    answer(run)


def _robots(stack: ExitStack, appliance: Box) -> list[Child]:
    return [
        stack.enter_context(role("pace", address=appliance.address, number=100 + n, hz=ROBOT_HZ))
        for n in range(ROBOTS)
    ]


def _ask(robots: Sequence[Child]) -> list[float]:
    for robot in robots:
        robot.tell(seconds=SLICE_S)
    return [time_us for robot in robots for time_us in robot.hear()["times_us"]]


def _flood_us(appliance: Box, pumps: Sequence[Child], switch: signal.Signals) -> float:
    os.kill(appliance.pid, switch)
    before = appliance.cpu_s()
    for pump in pumps:
        pump.tell(seconds=PUMP_S)
    answers = sum(pump.hear()["total"] for pump in pumps)
    return (appliance.cpu_s() - before) / answers * 1e6


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]
