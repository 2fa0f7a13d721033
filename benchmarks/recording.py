"""What robots notice of a recording, and what taking down costs the core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.box import Box, box, image, noop
from benchmarks.children import Child, role
from benchmarks.report import Limit, Line

ROUNDS = 5
SLICES = 4
"""In each round, of each kind, in turn."""
SLICE_S = 2.0
ROBOTS, ROBOT_HZ = 6, 50.0
CAMERAS, CAMERA_HZ = 2, 10.0
PUMPS, WINDOW = 2, 32
PUMP_S = 2.0
RING = """
[recording]
directory = "{directory}"
misses = 0
"""


def measure() -> Iterator[str | Line]:
    """Alternate between recording and not; for the cost, also with the ring."""
    yield from _robots(cameras=False)
    yield from _robots(cameras=True)
    yield from _cost()


def _robots(*, cameras: bool) -> Iterator[str | Line]:
    what = f"{ROBOTS} robots of {ROBOT_HZ:.0f} Hz, 1 KB"
    if cameras:
        what += f", beside {CAMERAS} that send a raw 640x480 image {CAMERA_HZ:.0f} times a second"
    with ExitStack() as stack:
        appliance = stack.enter_context(box(noop(), image()))
        robots = _fleet(stack, appliance.address, cameras=cameras)
        numbers = count()
        _ask(robots)
        with_it: list[float] = []
        without: list[float] = []
        written = 0
        for number in range(ROUNDS):
            yield f"{'with' if cameras else 'without'} images, round {number + 1} of {ROUNDS}"
            recorded: list[float] = []
            plain: list[float] = []
            for _ in range(SLICES):
                plain += _ask(robots)
                recording = appliance.record(f"{next(numbers)}.mcap")
                recorded += _ask(robots)
                written += _stop(appliance, recording)
            with_it.append(_p99(recorded))
            without.append(_p99(plain))
    yield Line(
        name="" if cameras else "recording",
        measured=f"p99 of {what}, while all is recorded",
        unit="µs",
        ours=with_it,
        beside=without,
        beside_name="without",
        limit=Limit("ratio", "<=", 1.1),
        note=f"{written / 1e6 / (ROUNDS * SLICES * SLICE_S):.1f} MB/s written",
    )


def _cost() -> Iterator[str | Line]:
    """Saturate three cores in turn: one that records, one with a ring, one with neither."""
    with ExitStack() as stack:
        plain = stack.enter_context(box(noop()))
        ringed = stack.enter_context(box(noop(), config=RING.format(directory=plain.directory)))
        numbers = count()
        pumps = {
            each.address: [
                stack.enter_context(role("pump", address=each.address, number=i, window=WINDOW))
                for i in range(PUMPS)
            ]
            for each in (plain, ringed)
        }
        neither: list[float] = []
        ring: list[float] = []
        file: list[float] = []
        for number in range(ROUNDS):
            yield f"cost, round {number + 1} of {ROUNDS}"
            neither.append(_cost_us(plain, pumps[plain.address]))
            ring.append(_cost_us(ringed, pumps[ringed.address]))
            recording = plain.record(f"{next(numbers)}.mcap")
            file.append(_cost_us(plain, pumps[plain.address]))
            _stop(plain, recording)
    for what, ours in (("the ring is kept", ring), ("it is written to a file", file)):
        yield Line(
            name="",
            measured=f"processor time of the core for one observation of a flood, while {what}",
            unit="µs",
            ours=ours,
            beside=neither,
            beside_name="without",
        )


def _fleet(stack: ExitStack, address: str, *, cameras: bool) -> list[tuple[Child, bool]]:
    """Return the robots, and which of them are measured."""
    fleet = [
        (stack.enter_context(role("pace", address=address, number=each, hz=ROBOT_HZ)), True)
        for each in range(ROBOTS)
    ]
    for each in range(ROBOTS, ROBOTS + CAMERAS if cameras else ROBOTS):
        options: dict[str, Any] = {"model": "image", "key": "camera", "dtype": "UINT8"}
        camera = role(
            "pace", address=address, number=each, hz=CAMERA_HZ, shape=[480, 640, 3], **options
        )
        fleet.append((stack.enter_context(camera), False))
    return fleet


def _ask(robots: Sequence[tuple[Child, bool]]) -> list[float]:
    for robot, _ in robots:
        robot.tell(seconds=SLICE_S)
    times = [(robot.hear()["times_us"], measured) for robot, measured in robots]
    return [time_us for each, measured in times if measured for time_us in each]


def _cost_us(appliance: Box, pumps: Sequence[Child]) -> float:
    before = appliance.cpu_s()
    for pump in pumps:
        pump.tell(seconds=PUMP_S)
    answers = sum(pump.hear()["total"] for pump in pumps)
    return (appliance.cpu_s() - before) / answers * 1e6


def _stop(appliance: Box, number: int) -> int:
    """End a recording; return how large it became."""
    recording = appliance.end_recording(number)
    Path(recording["path"]).unlink(missing_ok=True)
    return recording["bytes"]


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]
