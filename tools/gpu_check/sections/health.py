"""NVIDIA's library tells of the GPU that CUDA computes on, and what it tells makes sense."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import attrs

from appliance.engines.cuda.driver import locate, ordinal_of
from appliance.engines.cuda.ports import Cuda
from appliance.health.__main__ import PERIOD_MS, Reader
from appliance.health.reading import DeviceHealth
from tools.gpu_check.finding import Finding, Limit, summary_us
from tools.gpu_check.setting import Failed, Setting

READINGS = 100
MOST_TAKEN_BYTES = 1 << 30
_CLOCK_RATE = 13
"""CU_DEVICE_ATTRIBUTE_CLOCK_RATE, kHz."""
KHZ_A_MHZ = 1000
SAME_MEMORY = Limit("<=", 0.05)
"""CUDA does not count what the driver keeps for itself."""
SEES_TAKEN = Limit("<=", 0.1)
NOT_FASTER = Limit("<=", 1.02)
"""A clock over the highest: it is measured, and rounded."""
LEAST_PEAK, MOST_PEAK = Limit(">=", 0.9), Limit("<=", 1.6)
"""The highest clock over CUDA's, which on some boards is the one that is promised."""
READING_MS = Limit("<=", PERIOD_MS / 10)
HOTTEST_C = 120


def check(setting: Setting, finding: Finding) -> None:
    """Read, take memory, and read again."""
    with setting.opened() as device:
        assert device.cuda is not None
        judge(setting.device, device.cuda, finding, setting.runs(READINGS))


def judge(device: str, cuda: Cuda, finding: Finding, count: int) -> None:
    """Compare readings of a device with what CUDA says of it.

    Raises:
        DeviceMissing: It has no address.
        Failed: Nothing can be read: why.
    """
    reader = Reader([device], Path("/"))
    before = _read(reader)
    finding.details |= {
        "at": locate(ordinal_of(device) or 0).pci,
        "health": attrs.asdict(before),
    }
    if before.source == "nvml":
        named = f"{before.name!r} to NVML, and {cuda.facts.name!r} to CUDA"
        finding.expect(before.name == cuda.facts.name, f"the GPU is {named}")
    _memory(reader, before, cuda, finding)
    _clocks(before, ordinal_of(device) or 0, finding)
    heat = before.temperature_c
    finding.expect(heat is not None and 0 < heat < HOTTEST_C, f"its temperature is {heat} °C")
    times_ns: list[int] = []
    for _ in range(count):
        started = time.monotonic_ns()
        _read(reader)
        times_ns.append(time.monotonic_ns() - started)
    taken = summary_us(times_ns)
    finding.add("a reading, p50", taken["p50"] / 1000, "ms", READING_MS)
    finding.add("a reading, p99", taken["p99"] / 1000, "ms")


def _read(reader: Reader) -> DeviceHealth:
    [health] = reader.read()
    if health.error:
        raise Failed(health.error)
    return health


def _memory(reader: Reader, before: DeviceHealth, cuda: Cuda, finding: Finding) -> None:
    """What is taken by CUDA is missed by whoever tells of the same GPU."""
    total, used = before.memory_total_bytes, before.memory_used_bytes
    if total is None or used is None:
        finding.expect(False, "its memory is not told")  # noqa: FBT003
        return
    has = cuda.facts.memory_bytes
    finding.add("all memory, off from CUDA's by", abs(total - has) / has, "of it", SAME_MEMORY)
    size = min(MOST_TAKEN_BYTES, cuda.free_bytes() // 4)
    taken = cuda.allocate(size)
    seen = (_read(reader).memory_used_bytes or 0) - used
    off = abs(seen - taken.bytes) / taken.bytes
    finding.add(f"{taken.bytes >> 20} MiB taken by CUDA, off by", off, "of it", SEES_TAKEN)


def _clocks(health: DeviceHealth, ordinal: int, finding: Finding) -> None:
    clock, most = health.clock_mhz, health.max_clock_mhz
    if not clock or not most:
        finding.expect(False, f"its clocks are {clock} and at most {most} MHz")  # noqa: FBT003
        return
    finding.add("clock", clock, "MHz")
    finding.add("clock over the highest", clock / most, "", NOT_FASTER)
    peak = peak_mhz(ordinal)
    if peak:
        finding.add("highest clock over CUDA's, at least", most / peak, "", LEAST_PEAK)
        finding.add("highest clock over CUDA's, at most", most / peak, "", MOST_PEAK)


def peak_mhz(ordinal: int) -> float:
    """Return the clock that CUDA knows of a GPU, MHz; 0: it knows none."""
    driver: Any = ctypes.CDLL("libcuda.so.1")
    device, khz = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetAttribute(ctypes.byref(khz), _CLOCK_RATE, device)
    return khz.value / KHZ_A_MHZ
