"""What is wrong with a device, and what to do."""

from __future__ import annotations

import pytest
from attrs import evolve

from appliance.health.concerns import concerns
from appliance.health.reading import DeviceHealth

WELL = DeviceHealth(
    device="cuda:0",
    source="nvml",
    is_idle=False,
    temperature_c=61.0,
    slow_from_c=92.0,
    clock_mhz=1755.0,
    max_clock_mhz=1980.0,
    memory_used_bytes=40 << 30,
    memory_total_bytes=140 << 30,
    ecc_corrected=12,
    ecc_uncorrected=0,
    xids=0,
)


@pytest.mark.parametrize(
    ("different", "found", "advice", "is_error"),
    [
        ({"holds": ("thermal",)}, "throttled by heat, at 1755 MHz of 1980", "fans", False),
        (
            {"holds": ("power",), "clock_mhz": None},
            "throttled by the power limit",
            "nvpmodel",
            False,
        ),
        (
            {"holds": ("thermal", "power_brake"), "max_clock_mhz": None},
            "throttled by heat and the power supply, at 1755 MHz",
            "power supply",
            False,
        ),
        ({"temperature_c": 88.0}, "hot: 88 °C", "fans", False),
        ({"temperature_c": 86.0, "slow_from_c": None}, "hot: 86 °C", "fans", False),
        ({"memory_used_bytes": 139 << 30}, "almost out of memory: 139.0 of 140.0 GiB", "fewer", 0),
        ({"ecc_uncorrected": 2}, "2 memory errors that ECC could not correct", "replace", True),
        ({"xids": 1, "last_xid": 79}, "the driver reported error XID 79", "reseat", True),
        ({"xids": 3, "last_xid": 31}, "error XID 31, of 3", "dmesg", True),
        ({"error": "no driver"}, "cannot be read: no driver", "nvidia-smi", False),
    ],
)
def test_each_concern_says_what_is_wrong_and_what_to_do(
    different: dict[str, object], found: str, advice: str, is_error: object
) -> None:
    [concern] = concerns(evolve(WELL, **different))
    assert found in concern.found
    assert advice in concern.advice
    assert concern.is_error == is_error


def test_of_a_device_that_is_well_there_is_none() -> None:
    assert concerns(WELL) == []
    assert concerns(DeviceHealth(device="cuda:0", source="sysfs")) == []


def test_the_worst_comes_first_and_heat_is_told_once() -> None:
    found = concerns(evolve(WELL, temperature_c=95.0, holds=("thermal",), xids=1, last_xid=48))
    assert [concern.is_error for concern in found] == [True, False]
