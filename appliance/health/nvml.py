"""A device's health, as NVIDIA's management library tells it. Blocking; imports nvidia-ml-py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any

from attrs import define, field

from appliance.errors import DeviceMissing, ExtraMissing
from appliance.health.reading import DeviceHealth, Hold

MODULE = "pynvml"

MOST_EVENTS = 64
"""Of the driver's reports that are taken in with one reading; the others come with the next."""

BUSY_PERCENT = 5
"""Share of the time from which on a device is not idle."""

_MILLI = 1000

_HOLDS: tuple[tuple[str, Hold], ...] = (
    ("nvmlClocksThrottleReasonSwThermalSlowdown", "thermal"),
    ("nvmlClocksThrottleReasonHwThermalSlowdown", "thermal"),
    ("nvmlClocksThrottleReasonSwPowerCap", "power"),
    ("nvmlClocksThrottleReasonHwPowerBrakeSlowdown", "power_brake"),
)


class Nvml:
    """The library, loaded and begun.

    Attributes:
        api: Its module.
    """

    def __init__(self) -> None:
        """Load it.

        Raises:
            ExtraMissing: nvidia-ml-py is not installed.
            DeviceMissing: The driver is not there.
        """
        try:
            self.api: Any = import_module(MODULE)
        except ModuleNotFoundError as error:
            raise ExtraMissing(
                "nvidia-ml-py is not installed: pip install 'appliance[gpu]'"
            ) from error
        try:
            self.api.nvmlInit()
        except self.api.NVMLError as error:
            raise DeviceMissing(f"NVIDIA's management library: {error}") from error
        self._events = self.ask(self.api.nvmlEventSetCreate)
        self._watched: list[NvmlDevice] = []

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a call gives; None if this device or driver does not know it.

        Raises:
            DeviceMissing: The device is gone.
        """
        api = self.api
        try:
            return call(*arguments)
        except api.NVMLError as error:
            if error.value in (api.NVML_ERROR_GPU_IS_LOST, api.NVML_ERROR_RESET_REQUIRED):
                raise DeviceMissing(f"{error}; it has to be reset, or the box rebooted") from error
            return None

    def find(self, device: str, pci: str) -> NvmlDevice:
        """Return the device at a PCI address.

        Raises:
            DeviceMissing: There is none, or it is gone.
        """
        try:
            handle = self.api.nvmlDeviceGetHandleByPciBusId(pci.encode())
        except self.api.NVMLError as error:
            raise DeviceMissing(f"the GPU at {pci}: {error}") from error
        found = NvmlDevice(self, device, handle)
        self._watched.append(found)
        if self._events is not None and self._register(handle):
            found.xids = 0
        return found

    def _register(self, handle: Any) -> bool:
        """Have the driver's reports of a device collected; return whether it has any."""
        kind = self.api.nvmlEventTypeXidCriticalError
        try:
            self.api.nvmlDeviceRegisterEvents(handle, kind, self._events)
        except self.api.NVMLError:
            return False
        return True

    def listen(self) -> None:
        """Take in what the driver reported since; does not wait."""
        if self._events is None:
            return
        for _ in range(MOST_EVENTS):
            event = self.ask(self.api.nvmlEventSetWait_v2, self._events, 0)
            if event is None:  # nothing more
                return
            for device in self._watched:
                if device.is_at(event.device):
                    device.xids = (device.xids or 0) + 1
                    device.last_xid = int(event.eventData)


@define(eq=False)
class NvmlDevice:
    """One device.

    Attributes:
        xids: How many errors the driver reported; None: it reports none.
        last_xid: The latest one.
    """

    _nvml: Nvml
    device: str
    _handle: Any
    xids: int | None = field(default=None, init=False)
    last_xid: int | None = field(default=None, init=False)

    def is_at(self, handle: Any) -> bool:
        """Return whether that is its handle."""
        return _address(handle) == _address(self._handle)

    def read(self) -> DeviceHealth:
        """Read it.

        Raises:
            DeviceMissing: It is gone.
        """
        nvml, api, handle = self._nvml, self._nvml.api, self._handle
        nvml.listen()
        reasons = self._first(
            "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons"
        )
        used = nvml.ask(api.nvmlDeviceGetUtilizationRates, handle)
        memory = nvml.ask(api.nvmlDeviceGetMemoryInfo, handle)
        utilisation = None if used is None else float(used.gpu)
        is_idle = bool((reasons or 0) & api.nvmlClocksThrottleReasonGpuIdle)
        return DeviceHealth(
            device=self.device,
            source="nvml",
            name=_text(nvml.ask(api.nvmlDeviceGetName, handle)),
            is_idle=is_idle or (utilisation is not None and utilisation < BUSY_PERCENT),
            holds=self._holds(reasons or 0),
            utilisation_percent=utilisation,
            temperature_c=_float(
                nvml.ask(api.nvmlDeviceGetTemperature, handle, api.NVML_TEMPERATURE_GPU)
            ),
            slow_from_c=_float(
                nvml.ask(
                    api.nvmlDeviceGetTemperatureThreshold,
                    handle,
                    api.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
                )
            ),
            clock_mhz=_float(nvml.ask(api.nvmlDeviceGetClockInfo, handle, api.NVML_CLOCK_SM)),
            max_clock_mhz=_float(
                nvml.ask(api.nvmlDeviceGetMaxClockInfo, handle, api.NVML_CLOCK_SM)
            ),
            memory_clock_mhz=_float(
                nvml.ask(api.nvmlDeviceGetClockInfo, handle, api.NVML_CLOCK_MEM)
            ),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            power_w=_float(nvml.ask(api.nvmlDeviceGetPowerUsage, handle), _MILLI),
            power_limit_w=_float(nvml.ask(api.nvmlDeviceGetEnforcedPowerLimit, handle), _MILLI),
            ecc_corrected=self._ecc(api.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ecc_uncorrected=self._ecc(api.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            xids=self.xids,
            last_xid=self.last_xid,
        )

    def _first(self, *names: str) -> Any:
        """Return what the first of several names of one call gives: drivers rename them."""
        for name in names:
            call = getattr(self._nvml.api, name, None)
            found = None if call is None else self._nvml.ask(call, self._handle)
            if found is not None:
                return found
        return None

    def _holds(self, reasons: int) -> tuple[Hold, ...]:
        api = self._nvml.api
        holds: dict[Hold, None] = {}
        for name, hold in _HOLDS:
            if reasons & getattr(api, name):
                holds[hold] = None
        if reasons & api.nvmlClocksThrottleReasonHwSlowdown and not holds.keys() & {
            "thermal",
            "power_brake",
        }:  # it comes with those, too
            holds["hardware"] = None
        return tuple(holds)

    def _ecc(self, kind: int) -> int | None:
        api = self._nvml.api
        found = self._nvml.ask(
            api.nvmlDeviceGetTotalEccErrors, self._handle, kind, api.NVML_VOLATILE_ECC
        )
        return None if found is None else int(found)


def _text(found: Any) -> str:
    if isinstance(found, bytes):
        return found.decode(errors="replace")
    return "" if found is None else str(found)


def _float(found: Any, per: int = 1) -> float | None:
    return None if found is None else float(found) / per


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
