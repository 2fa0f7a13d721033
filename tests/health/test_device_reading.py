"""The reader's process, with the real nvidia-ml-py on a stand-in for NVIDIA's libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_driver import (
    GPU_IDLE,
    H200,
    HW_SLOWDOWN,
    HW_THERMAL,
    POWER_BRAKE,
    POWER_CAP,
    SW_THERMAL,
    FakeDriver,
    make_libraries,
    needs_stand_ins,
    read,
)

from appliance.errors import PeerProtocolError
from appliance.health.reading import DeviceHealth, from_line, to_line

pytestmark = needs_stand_ins


def test_a_device_that_is_well(driver: FakeDriver) -> None:
    [found] = read(driver)
    assert found == DeviceHealth(
        device="cuda:0",
        source="nvml",
        name="Fake GPU 0",
        is_idle=False,
        utilisation_percent=87.0,
        temperature_c=61.0,
        slow_from_c=92.0,
        clock_mhz=1755.0,
        max_clock_mhz=1980.0,
        memory_clock_mhz=3201.0,
        memory_used_bytes=40 << 30,
        memory_total_bytes=140 << 30,
        power_w=312.45,
        power_limit_w=700.0,
        ecc_corrected=0,
        ecc_uncorrected=0,
        xids=0,
    )


@pytest.mark.parametrize(
    ("reasons", "holds"),
    [
        (0, ()),
        (GPU_IDLE, ()),
        (2, ()),  # clocks that an administrator has set
        (SW_THERMAL, ("thermal",)),
        (HW_SLOWDOWN | HW_THERMAL | SW_THERMAL, ("thermal",)),
        (POWER_CAP, ("power",)),
        (HW_SLOWDOWN | POWER_BRAKE, ("power_brake",)),
        (HW_SLOWDOWN, ("hardware",)),
        (HW_SLOWDOWN | POWER_CAP, ("power", "hardware")),
        (POWER_CAP | SW_THERMAL, ("thermal", "power")),
    ],
)
def test_what_holds_the_clocks_down(
    driver: FakeDriver, reasons: int, holds: tuple[str, ...]
) -> None:
    driver.says(reasons=reasons)
    [found] = read(driver)
    assert (found.holds, found.is_idle) == (holds, reasons == GPU_IDLE)


def test_newer_drivers_call_the_reasons_by_another_name(tmp_path: Path) -> None:
    driver = FakeDriver(make_libraries(tmp_path, "-DNEW_NAMES"), tmp_path / "says")
    driver.says(reasons=SW_THERMAL)
    [found] = read(driver)
    assert found.holds == ("thermal",)


def test_what_a_device_does_not_tell_is_not_made_up(driver: FakeDriver) -> None:
    driver.says({}, nvmlEventSetCreate=3, nvmlDeviceGetName=3)
    [found] = read(driver)
    assert found == DeviceHealth(device="cuda:0", source="nvml", is_idle=False)
    driver.says(nvmlDeviceRegisterEvents=3, nvmlDeviceGetPowerUsage=4)
    [found] = read(driver)
    assert (found.xids, found.power_w, found.temperature_c) == (None, None, 61.0)


def test_memory_errors_and_reports_of_the_driver(driver: FakeDriver) -> None:
    driver.says(corrected=12, uncorrected=1, xids=3, xid=63)
    [found] = read(driver)
    assert (found.ecc_corrected, found.ecc_uncorrected) == (12, 1)
    assert (found.xids, found.last_xid) == (3, 63)


def test_each_device_is_found_by_where_it_is(driver: FakeDriver) -> None:
    driver.says(H200, temperature__1=40, xids__1=1, xid__1=31)
    second, first = read(driver, "cuda:1", "cuda", FAKE_CUDA_DEVICES="2")
    assert (first.name, first.temperature_c, first.xids) == ("Fake GPU 0", 61.0, 0)
    assert (second.name, second.temperature_c, second.last_xid) == ("Fake GPU 1", 40.0, 31)


@pytest.mark.parametrize(
    ("says", "environment", "why"),
    [
        ({}, {"FAKE_CUDA_FAIL": "cuInit=999"}, "finds no GPU (CUDA error 999)"),
        ({}, {"FAKE_CUDA_DEVICES": "0"}, "finds no GPU"),
        ({}, {"FAKE_CUDA_FAIL": "cuDeviceGetPCIBusId=1"}, "does not locate GPU 0"),
        ({"nvmlInitWithFlags": 9}, {}, "management library: "),
        ({"nvmlDeviceGetHandleByPciBusId_v2": 6}, {}, "the GPU at 0000:3b:00.0: "),
        ({"nvmlDeviceGetUtilizationRates": 15}, {}, "has to be reset"),
    ],
)
def test_where_nothing_can_be_read_it_says_why(
    driver: FakeDriver, says: dict[str, int], environment: dict[str, str], why: str
) -> None:
    driver.says(H200, **says)
    [found] = read(driver, **environment)
    assert why in found.error
    assert found == DeviceHealth(device="cuda:0", error=found.error)


def test_a_device_that_is_lost_leaves_the_other_readable(driver: FakeDriver) -> None:
    driver.says(H200, nvmlDeviceGetUtilizationRates__1=15, temperature__1=40)
    first, second = read(driver, "cuda:0", "cuda:1", FAKE_CUDA_DEVICES="2")
    assert not first.error
    assert "GPU is lost" in second.error


def test_without_the_library_it_says_so(tmp_path: Path) -> None:
    driver = FakeDriver(make_libraries(tmp_path), tmp_path / "says")
    (tmp_path / "libnvidia-ml.so.1").unlink()
    [found] = read(driver)
    assert "management library" in found.error


# ------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "null",
        "{",
        '{"devices": 3}',
        '{"devices": [{}]}',
        '{"devices": [{"device": "cuda:0", "holds": ["magic"]}]}',
        '{"devices": [{"device": "cuda:0", "temperature_c": "hot"}]}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(PeerProtocolError):
        from_line(line)


def test_a_line_brings_all_of_it() -> None:
    reading = DeviceHealth(device="cuda:1", source="sysfs", holds=("power",), power_mode=2)
    assert from_line(to_line([reading])) == (reading,)
