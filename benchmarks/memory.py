"""What the core holds, and what a thousand connected clients add to it and take from a robot."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.box import Box, box, mlp, noop
from benchmarks.children import Child, memory_kib, role, roles
from benchmarks.report import Limit, Line

ROUNDS = 3
ROUND_S = 5.0
CLIENTS = 1000
ROBOTS, ROBOT_HZ = 4, 50.0
FILES = 8192
"""Descriptors that a thousand clients in one process take, and some to spare."""


def measure() -> Iterator[str | Line]:
    """Alternate between a few robots alone and the same among the crowd."""
    _raise_files()
    weights = mlp()
    with ExitStack() as stack:
        appliance = stack.enter_context(box(weights, noop()))
        robots = roles(stack, ROBOTS, "pace", address=appliance.address, hz=ROBOT_HZ)
        _p99_us(robots, 1.0)
        alone: list[float] = []
        among: list[float] = []
        added: list[float] = []
        answered = sent = 0.0
        first = memory_kib(appliance.pid)
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            alone.append(_p99_us(robots, ROUND_S))
            before = memory_kib(appliance.pid)["VmRSS"]
            with role("crowd", address=appliance.address, size=CLIENTS, hz=1.0) as crowd:
                crowd.ask(seconds=1.0)
                crowd.tell(seconds=ROUND_S + 1)
                among.append(_p99_us(robots, ROUND_S))
                answer = crowd.hear()
                answered, sent = answered + answer["answered"], sent + answer["sent"]
                after = memory_kib(appliance.pid)["VmRSS"]
            if not number:  # later ones find the memory of the first
                added.append((after - before) / CLIENTS)
        workers = _workers_mib(appliance)
    parts = ", ".join(f"{name} {kib / 1024:.0f}" for name, kib in first.items() if name != "VmRSS")
    yield Line(
        name="memory",
        measured="resident memory of the core, models loaded in a worker",
        unit="MB",
        ours=(first["VmRSS"] * 1024 / 1e6,),
        limit=Limit("figure", "<=", 120.0),
        note=f"{parts} MiB; the worker has {workers:.0f} MiB, {len(weights.onnx) >> 20} of weights",
    )
    yield Line(
        name="",
        measured=f"added by each of {CLIENTS:,} connected clients at 1 Hz",
        unit="KB",
        ours=[kib * 1.024 for kib in added],
        limit=Limit("figure", "<=", 60.0),
        note=f"{answered:,.0f} of {sent:,.0f} answered",
    )
    yield Line(
        name="",
        measured=f"p99 of a {ROBOT_HZ:.0f} Hz robot among them ({ROBOTS} such robots)",
        unit="µs",
        ours=among,
        beside=alone,
        beside_name="without them",
        limit=Limit("ratio", "<=", 2.0),
    )


def _p99_us(robots: Sequence[Child], seconds: float) -> float:
    """Let the robots run at the same time; return the p99 of all their round trips."""
    for robot in robots:
        robot.tell(seconds=seconds)
    times = sorted(time_us for robot in robots for time_us in robot.hear()["times_us"])
    return times[int(0.99 * (len(times) - 1))]


def _raise_files() -> None:
    """Let this process and its children open enough descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _workers_mib(appliance: Box) -> float:
    return sum(worker["rss_bytes"] for worker in appliance.status()["workers"]) / (1 << 20)
