"""One device's health at one moment. PURE: plain data, and the line that brings it to the core."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import attrs
from attrs import frozen

from appliance.errors import ConfigError, PeerProtocolError
from appliance.structure import structure

Hold = Literal["thermal", "power", "power_brake", "hardware"]
"""What holds the clocks down: heat; the power limit, or a supply too weak; a signal of the power
supply; the hardware for another reason. Not an administrator's choice of clocks."""

MOST_LINE_BYTES = 1 << 16
"""Of a line; one device has less than a kilobyte."""


@frozen(kw_only=True)
class DeviceHealth:
    """What could be read of a device. None: the device or its driver does not say.

    Attributes:
        device: `cuda:N`, as workers name it.
        source: Who says it; empty: nobody could.
        error: Why nothing could be read; empty if something was.
        is_idle: It has little to do, so that low clocks mean nothing.
        holds: What holds its clocks down now; empty: nothing.
        clock_mhz: Of its multiprocessors now.
        max_clock_mhz: The most that it could have.
        slow_from_c: The temperature at which it begins to slow down.
        memory_used_bytes: On a Jetson, whose memory the CPU shares, of the whole box.
        power_w: On a Jetson, of the whole module.
        ecc_corrected, ecc_uncorrected: Memory errors since the driver was loaded.
        xids: Errors that the driver reported (XID) since its health is read.
        last_xid: The number of the latest; NVIDIA has a table of them.
        power_mode: Number of a Jetson's power mode.
    """

    device: str
    source: Literal["", "nvml", "sysfs"] = ""
    name: str = ""
    error: str = ""
    is_idle: bool = True
    holds: tuple[Hold, ...] = ()
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    slow_from_c: float | None = None
    clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xids: int | None = None
    last_xid: int | None = None
    power_mode: int | None = None


@frozen(kw_only=True)
class _Readings:
    devices: tuple[DeviceHealth, ...]


def to_line(readings: Sequence[DeviceHealth]) -> str:
    """Write readings of all devices as one line."""
    return json.dumps({"devices": [attrs.asdict(each) for each in readings]})


def from_documents(documents: Sequence[Mapping[str, object]]) -> tuple[DeviceHealth, ...]:
    """Read the devices of a status document, which says more of each.

    Raises:
        PeerProtocolError: They are something else.
    """
    names = [each.name for each in attrs.fields(DeviceHealth)]
    try:
        devices = [{name: each[name] for name in names if name in each} for each in documents]
        return structure({"devices": devices}, _Readings, "devices").devices
    except (TypeError, ConfigError) as error:
        raise PeerProtocolError(f"no devices: {error}") from error


def from_line(line: str) -> tuple[DeviceHealth, ...]:
    """Read what `to_line` wrote.

    Raises:
        PeerProtocolError: It is something else.
    """
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise PeerProtocolError("readings: a JSON object is expected")
        return structure(cast("dict[str, object]", document), _Readings, "readings").devices
    except (ValueError, RecursionError, ConfigError) as error:
        raise PeerProtocolError(f"no readings: {error}") from error
