"""The health of a Jetson's GPU, from sysfs. Blocking: sensors on a slow bus take milliseconds.

On Orin with JetPack 5 and 6 NVML does not say how busy the GPU is, nor why it is slow. Paths are
found by what the kernel says is there, as numbers of hwmon, zones and cooling devices change from
board to board and from boot to boot.

```
class/devfreq/17000000.gpu/{cur_freq,max_freq}        Hz; device/load in tenths of a percent
class/thermal/thermal_zone*/{type,temp,trip_point_*}  gpu-thermal, in thousandths of a degree
class/thermal/cooling_device*/{type,cur_state}        gpu-throttle-alert, devfreq-17000000.gpu
class/hwmon/hwmon*/{in*_label,in*_input,curr*_input}  ina3221: mV and mA of VDD_IN or VDD_*
class/hwmon/hwmon*/{oc*_event_cnt,oc*_throt_en}       soctherm_oc: much current, little voltage
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from appliance.health.reading import DeviceHealth, Hold

GPU_NAMES = re.compile(r"\d+\.(gpu|ga10b|gv11b)|gpu-gpc-0")
"""Of its devfreq: Orin with JetPack 6, with 5, Xavier, Thor."""

OFFLINE_C = -200.0
"""A sensor says less while the GPU is switched off."""

BUSY_PERCENT = 5.0
"""Share of the time from which on it is not idle."""

ALL_RAILS = ("VDD_IN", "VIN")
"""Labels of the rail that has all the others behind it."""

NVPMODEL = Path("var/lib/nvpmodel/status")
MODEL = Path("proc/device-tree/model")

_HZ, _MILLI, _MICRO = 1e6, 1e3, 1e6


@define(eq=False)
class JetsonGpu:
    """A Jetson's GPU. See the module's docstring.

    Args:
        device: As workers name it.
        root: Of the file system.
        devfreq: Its directory.
    """

    device: str
    root: Path
    devfreq: Path
    _overcurrents: int | None = field(default=None, init=False)

    @classmethod
    def find(cls, device: str, root: Path) -> JetsonGpu | None:
        """Return it; None: this is no Jetson, or none that is known."""
        for path in sorted((root / "sys/class/devfreq").glob("*")):
            if GPU_NAMES.fullmatch(path.name):
                return cls(device, root, path)
        return None

    def read(self) -> DeviceHealth:
        """Read it. What cannot be read is None."""
        load = _number(self.devfreq / "device/load")
        temperature_c, slow_from_c = self._temperature()
        total, free = self._memory()
        return DeviceHealth(
            device=self.device,
            source="sysfs",
            name=_text(self.root / MODEL).rstrip("\0"),
            is_idle=load is None or load / 10 < BUSY_PERCENT,
            holds=tuple(self._holds()),
            utilisation_percent=None if load is None else load / 10,
            temperature_c=temperature_c,
            slow_from_c=slow_from_c,
            clock_mhz=_number(self.devfreq / "cur_freq", _HZ),
            max_clock_mhz=self._max_clock_mhz(),
            memory_used_bytes=None if total is None or free is None else total - free,
            memory_total_bytes=total,
            power_w=self._power_w(),
            power_mode=self._power_mode(),
        )

    def _max_clock_mhz(self) -> float | None:
        """Return the most that the chip could; `max_freq` is the power mode's, and held down."""
        steps = [int(word) for word in _text(self.devfreq / "available_frequencies").split()]
        return max(steps) / _HZ if steps else _number(self.devfreq / "max_freq", _HZ)

    def _temperature(self) -> tuple[float | None, float | None]:
        """Return the temperature, and from which on it is slowed down."""
        for zone in self._all("sys/class/thermal", "thermal_zone*"):
            if _text(zone / "type").lower() not in ("gpu-thermal", "gpu-therm"):
                continue
            found_c = _number(zone / "temp", _MILLI)
            trips_c = [
                degrees
                for kind in sorted(zone.glob("trip_point_*_type"))
                if _text(kind) == "passive"
                and (degrees := _number(_sibling(kind, "temp"), _MILLI)) is not None
            ]
            is_on = found_c is not None and found_c > OFFLINE_C
            return found_c if is_on else None, min(trips_c, default=None)
        return None, None

    def _holds(self) -> Iterator[Hold]:
        alerts = {"gpu-throttle-alert", f"devfreq-{self.devfreq.name}"}
        if any(
            _text(device / "type") in alerts and (_number(device / "cur_state") or 0) > 0
            for device in self._all("sys/class/thermal", "cooling_device*")
        ):
            yield "thermal"
        counted = [
            int(count)
            for monitor in self._monitors("soctherm_oc")
            for path in monitor.glob("oc*_event_cnt")
            if _number(monitor / path.name.replace("event_cnt", "throt_en")) != 0
            and (count := _number(path)) is not None
        ]
        before, self._overcurrents = self._overcurrents, sum(counted) if counted else None
        if before is not None and self._overcurrents is not None and self._overcurrents > before:
            yield "power"

    def _power_w(self) -> float | None:
        """Return what the whole module takes, or its measured rails together."""
        rails: dict[str, float] = {}
        for monitor in self._monitors("ina3221"):
            for label in sorted(monitor.glob("in*_label")):
                number = label.name.removeprefix("in").removesuffix("_label")
                volts = _number(monitor / f"in{number}_input", _MILLI)
                amperes = _number(monitor / f"curr{number}_input", _MILLI)
                if volts is not None and amperes is not None:
                    rails[_text(label)] = volts * amperes
        whole = next((rails[name] for name in ALL_RAILS if name in rails), None)
        return whole if whole is not None or not rails else sum(rails.values())

    def _memory(self) -> tuple[int | None, int | None]:
        """Return how much memory the box has, and how much of it can be had."""
        found = dict(
            re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", self._meminfo(), re.MULTILINE)
        )
        total, free = (found.get(name) for name in ("MemTotal", "MemAvailable"))
        return total and int(total) * 1024, free and int(free) * 1024

    def _meminfo(self) -> str:
        return _text(self.root / "proc/meminfo")

    def _power_mode(self) -> int | None:
        match = re.fullmatch(r"pmode:(\d+)", _text(self.root / NVPMODEL))
        return int(match[1]) if match else None

    def _monitors(self, name: str) -> Iterator[Path]:
        for monitor in self._all("sys/class/hwmon", "hwmon*"):
            if _text(monitor / "name") == name:
                yield monitor

    def _all(self, directory: str, pattern: str) -> list[Path]:
        return sorted((self.root / directory).glob(pattern))


def _sibling(path: Path, what: str) -> Path:
    return path.with_name(path.name.removesuffix("type") + what)


def _text(path: Path) -> str:
    """Return what a file says; empty if it cannot be read: a sensor may be off."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path, per: float = 1.0) -> float | None:
    with suppress(ValueError):
        return float(_text(path)) / per
    return None
