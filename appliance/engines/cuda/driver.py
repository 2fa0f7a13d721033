"""Whether there is a GPU. Asks the driver itself, with nothing installed but Python.

It makes no context. Still a process that asked cannot be forked and its copy use the GPU.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from attrs import frozen

from appliance.errors import DeviceMissing

CPU = "cpu"
_CUDA = re.compile(r"cuda(?::(\d+))?")
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_INTEGRATED = 18
"""CU_DEVICE_ATTRIBUTE_INTEGRATED."""
_NAME_BYTES, _PCI_BYTES = 100, 32


@frozen
class DeviceFound:
    """A GPU.

    Attributes:
        ordinal: Its number, as the driver counts those that this process may see.
        capability: Its compute capability, such as "9.0".
        driver: The newest CUDA that the driver knows, such as "13.0".
    """

    ordinal: int
    name: str
    capability: str
    driver: str


def ordinal_of(device: str) -> int | None:
    """Return which GPU a worker's `device` means; None: the CPU.

    Raises:
        DeviceMissing: It is neither `cpu` nor `cuda` nor `cuda:N`.
    """
    if device == CPU:
        return None
    match = _CUDA.fullmatch(device)
    if match is None:
        raise DeviceMissing(f"device {device!r}: allowed: cpu, cuda, cuda:N")
    return int(match[1] or 0)


def find_device(ordinal: int = 0) -> DeviceFound:
    """Return what the driver says of a GPU.

    Raises:
        DeviceMissing: There is no driver, or no such GPU: what is missing, and what to do.
    """
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceMissing(
            "no NVIDIA driver: libcuda.so.1 cannot be loaded; install the driver, or run where "
            "there is a GPU"
        ) from error
    code: int = driver.cuInit(0)
    count = ctypes.c_int(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value < 1:
        raise DeviceMissing(
            f"the NVIDIA driver finds no GPU (CUDA error {code}); see `nvidia-smi`, whether this "
            "user may open /dev/nvidia*, and whether CUDA_VISIBLE_DEVICES hides it"
        )
    if ordinal >= count.value:
        raise DeviceMissing(
            f"there is no GPU {ordinal}: the NVIDIA driver finds {count.value}, counted from 0"
        )
    device, version, major, minor = (ctypes.c_int(0) for _ in range(4))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    codes = (
        driver.cuDeviceGet(ctypes.byref(device), ordinal),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(codes):
        raise DeviceMissing(f"the NVIDIA driver does not describe GPU {ordinal}: {list(codes)}")
    return DeviceFound(
        ordinal=ordinal,
        name=name.value.decode(errors="replace"),
        capability=f"{major.value}.{minor.value}",
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


@frozen
class Location:
    """Where a GPU is.

    Attributes:
        pci: Its address, such as "0000:3b:00.0": other tools count GPUs in another order.
        is_integrated: It shares the CPU's memory.
    """

    pci: str
    is_integrated: bool


def locate(ordinal: int) -> Location:
    """Return where the GPU is that has a number here.

    Raises:
        DeviceMissing: There is no driver, or no such GPU, or it has no address.
    """
    find_device(ordinal)
    driver: Any = ctypes.CDLL("libcuda.so.1")
    device, integrated = ctypes.c_int(0), ctypes.c_int(0)
    pci = ctypes.create_string_buffer(_PCI_BYTES)
    codes = (
        driver.cuDeviceGet(ctypes.byref(device), ordinal),
        driver.cuDeviceGetAttribute(ctypes.byref(integrated), _INTEGRATED, device),
        driver.cuDeviceGetPCIBusId(pci, _PCI_BYTES, device),
    )
    if any(codes):
        raise DeviceMissing(f"the NVIDIA driver does not locate GPU {ordinal}: {list(codes)}")
    return Location(pci.value.decode(errors="replace"), bool(integrated.value))
