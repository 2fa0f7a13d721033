"""What is wrong with a device, by one reading, and what to do. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from appliance.health.reading import DeviceHealth, Hold

NEARLY_SLOW_C = 5.0
"""So close to the temperature at which it slows down it is hot."""

HOT_C = 85.0
"""Where the device does not say when it slows down."""

FULL = 0.95
"""Part of its memory in use from which on little more can be loaded."""

HOLDS: Mapping[Hold, str] = {
    "thermal": "heat",
    "power": "the power limit",
    "power_brake": "the power supply",
    "hardware": "the hardware",
}

_ADVICE: Mapping[Hold, str] = {
    "thermal": "look at the fans, the dust and the air around the box",
    "power": "raise the power limit or mode if box and supply allow it (`nvidia-smi -q -d POWER`; "
    "on a Jetson `nvpmodel -q`), and see that the supply is strong enough",
    "power_brake": "look at the power supply: it asks the GPU to slow down",
    "hardware": "`nvidia-smi -q -d PERFORMANCE` may say more",
}

RESET = "drain the appliance and reset the GPU (`nvidia-smi --gpu-reset`) or reboot; replace it if "
"this comes back"

BUS_XID = 79
"""The GPU has fallen off the bus."""


@frozen
class Concern:
    """One thing.

    Attributes:
        is_error: It will not go on like that, or results may be wrong; else it is slow, or tight.
    """

    found: str
    advice: str
    is_error: bool = False


def concerns(reading: DeviceHealth) -> list[Concern]:
    """Return what is wrong, the worst first; empty: nothing."""
    if reading.error:
        return [
            Concern(
                f"its health cannot be read: {reading.error}",
                "`nvidia-smi` should say more; without this nobody notices that it is throttled",
            )
        ]
    found = [*_errors(reading), *_heat(reading), *_memory(reading)]
    return sorted(found, key=lambda concern: not concern.is_error)


def _errors(reading: DeviceHealth) -> Iterator[Concern]:
    if reading.ecc_uncorrected:
        yield Concern(
            f"{reading.ecc_uncorrected} memory errors that ECC could not correct",
            RESET,
            is_error=True,
        )
    if reading.xids:
        often = f", of {reading.xids}" if reading.xids > 1 else ""
        yield Concern(
            f"the driver reported error XID {reading.last_xid}{often}",
            "see `dmesg` and NVIDIA's table of XIDs for what it means; "
            + ("reseat the GPU and look at its power" if reading.last_xid == BUS_XID else RESET),
            is_error=True,
        )


def _heat(reading: DeviceHealth) -> Iterator[Concern]:
    if reading.holds:
        by = " and ".join(HOLDS[hold] for hold in reading.holds)
        at = "" if reading.clock_mhz is None else f", at {reading.clock_mhz:.0f} MHz"
        most = "" if reading.max_clock_mhz is None else f" of {reading.max_clock_mhz:.0f}"
        advice = "; ".join(_ADVICE[hold] for hold in reading.holds)
        yield Concern(f"throttled by {by}{at}{most if at else ''}", advice)
    hot_c = HOT_C if reading.slow_from_c is None else reading.slow_from_c - NEARLY_SLOW_C
    temperature_c = reading.temperature_c
    if temperature_c is not None and temperature_c >= hot_c and "thermal" not in reading.holds:
        yield Concern(f"hot: {temperature_c:.0f} °C", _ADVICE["thermal"])


def _memory(reading: DeviceHealth) -> Iterator[Concern]:
    used, total = reading.memory_used_bytes, reading.memory_total_bytes
    if used is not None and total and used >= FULL * total:
        yield Concern(
            f"almost out of memory: {used / 2**30:.1f} of {total / 2**30:.1f} GiB in use",
            "host fewer models there or smaller buckets, and see what else uses the GPU "
            "(`nvidia-smi`)",
        )
