"""The monitor with a reader's real process, on a stand-in for NVIDIA's libraries."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
import trio
from attrs import define, field
from support.fake_driver import POWER_CAP, SW_THERMAL, FakeDriver, needs_stand_ins

from appliance.health import monitor as module
from appliance.health.monitor import HealthMonitor
from appliance.metrics.status import Device

pytestmark = needs_stand_ins

WORKERS = {"gpu-0": "cuda:0", "gpu-1": "cuda", "small-0": "cuda:1", "cpu-0": "cpu"}


@define(eq=False)
class Told:
    """What a monitor says, and a way to wait for it."""

    slowdowns: list[dict[str, float]] = field(factory=list)
    changed: trio.Event = field(factory=trio.Event)

    def take(self, slowdowns: Mapping[str, float]) -> None:
        self.slowdowns.append(dict(slowdowns))
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so, looking after each reading."""
        with trio.fail_after(60):
            while not is_so():
                await self.changed.wait()


@pytest.fixture
def told() -> Told:
    return Told()


def made(driver: FakeDriver, told: Told, **environment: str) -> HealthMonitor:
    return HealthMonitor(
        WORKERS,
        told.take,
        arguments=("--period-ms=20", "--root=/nowhere"),
        environment={
            **os.environ,
            **driver.environment,
            "FAKE_CUDA_DEVICES": "2",
            **environment,
        },
    )


def device(monitor: HealthMonitor, name: str = "cuda:0") -> Device:
    [found] = [each for each in monitor.documents() if each["device"] == name]
    return found


def readers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.is_running() and "appliance.health" in child.cmdline()
    ]


async def test_what_is_read_is_shown_and_throttling_is_told_by_worker(
    driver: FakeDriver, told: Told
) -> None:
    monitor = made(driver, told)
    assert "not read yet" in device(monitor)["error"]
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await told.until(lambda: not device(monitor)["error"])
        found = device(monitor)
        assert (found["workers"], found["clock_mhz"]) == (["gpu-0", "gpu-1"], 1755.0)
        assert (found["holds"], found["slowdown"], found["concerns"]) == ([], 1.0, [])
        assert device(monitor, "cuda:1")["workers"] == ["small-0"]
        free = {"gpu-0": 1.0, "gpu-1": 1.0, "small-0": 1.0}
        assert told.slowdowns[-1] == free

        driver.says(sm=1170, reasons=SW_THERMAL)
        await told.until(lambda: told.slowdowns[-1] != free)
        assert told.slowdowns[-1] == {**free, "gpu-0": 1.5, "gpu-1": 1.5}
        assert device(monitor)["holds"] == ["thermal"]
        assert device(monitor)["slowdown"] == 1.5
        assert device(monitor)["concerns"] == ["throttled by heat, at 1170 MHz of 1980"]

        driver.says()
        await told.until(lambda: told.slowdowns[-1] == free)
        nursery.cancel_scope.cancel()
    assert readers() == []


async def test_errors_that_the_driver_reports_are_shown(driver: FakeDriver, told: Told) -> None:
    monitor = made(driver, told)
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await told.until(lambda: device(monitor)["xids"] == 0)
        driver.says(xids=2, xid=31, uncorrected=1)
        await told.until(lambda: device(monitor)["xids"] == 2)
        found = device(monitor)
        assert (found["last_xid"], found["ecc_uncorrected"]) == (31, 1)
        assert found["concerns"][0].startswith("1 memory errors")
        assert "XID 31" in found["concerns"][1]
        nursery.cancel_scope.cancel()


async def test_a_reader_that_is_killed_is_followed_by_another(
    driver: FakeDriver, told: Told
) -> None:
    driver.says(sm=1000, reasons=POWER_CAP)
    monitor = made(driver, told)
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await told.until(lambda: device(monitor)["slowdown"] > 1)
        [first] = readers()
        first.send_signal(signal.SIGKILL)
        await told.until(lambda: bool(device(monitor)["error"]))
        assert "has ended" in device(monitor)["error"]
        assert told.slowdowns[-1]["gpu-0"] == 1.0  # as nothing is known
        await told.until(lambda: not device(monitor)["error"])
        [second] = readers()
        assert second.pid != first.pid
        nursery.cancel_scope.cancel()


async def test_a_reader_that_hangs_in_the_driver_is_killed(
    driver: FakeDriver, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.3)
    monitor = made(driver, told)
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await told.until(lambda: not device(monitor)["error"])
        [first] = readers()
        driver.says(hang=1)
        await told.until(lambda: bool(device(monitor)["error"]))
        assert "said nothing for too long" in device(monitor)["error"]
        assert first not in readers()
        driver.says()
        await told.until(lambda: not device(monitor)["error"])
        nursery.cancel_scope.cancel()


async def test_without_a_driver_it_is_said_why_and_tried_again(
    driver: FakeDriver, told: Told
) -> None:
    driver.says(nvmlInitWithFlags=9)
    monitor = made(driver, told)
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await told.until(lambda: "management library" in device(monitor)["error"])
        driver.says()
        await told.until(lambda: not device(monitor)["error"])
        nursery.cancel_scope.cancel()


async def test_who_writes_something_else_is_not_believed(
    driver: FakeDriver, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = tmp_path / "liar"
    liar.write_text("#!/bin/sh\necho '{\"devices\": 7}'\nexec sleep 60\n")
    liar.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(liar))
    monitor = made(driver, told)
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await told.until(lambda: "no readings" in device(monitor)["error"])
        nursery.cancel_scope.cancel()


async def test_where_no_worker_computes_on_a_gpu_there_is_no_reader(told: Told) -> None:
    monitor = HealthMonitor({"cpu-0": "cpu"}, told.take)
    with trio.move_on_after(math.inf) as scope:
        await monitor.run()
    assert not scope.cancelled_caught
    assert (monitor.documents(), told.slowdowns) == ([], [])


async def test_a_reader_does_not_outlive_its_core(driver: FakeDriver) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "appliance.health", "--root=/nowhere", "cuda:0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **driver.environment},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.receive_some(1)
    await process.stdin.aclose()
    with trio.fail_after(30):
        assert await process.wait() == -signal.SIGIO
    await process.stdout.aclose()
