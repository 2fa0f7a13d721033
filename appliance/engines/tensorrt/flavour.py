"""Which TensorRT there is, and in what they differ.

| | package | engines are built |
|---|---|---|
| TensorRT for RTX | `tensorrt_rtx` | without a GPU, for compute capabilities that are named |
| TensorRT | `tensorrt` | on the GPU that is to run them, for it |
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from attrs import frozen

from appliance.errors import EngineError, ExtraMissing

RTX, TENSORRT = "tensorrt_rtx", "tensorrt"
OLDEST = {RTX: (1, 4), TENSORRT: (10, 3)}
"""TensorRT 10.3 is what JetPack 6 has. Run so far: TensorRT for RTX 1.7."""
INSTALL = (
    "pip install 'appliance[gpu]' brings TensorRT for RTX; a Jetson has TensorRT by apt "
    "(python3-libnvinfer)"
)


@frozen
class Flavour:
    """One TensorRT.

    Attributes:
        package: Its name.
        version: As it says.
        api: Its module.
    """

    package: str
    version: str
    api: Any

    @property
    def builds_for_others(self) -> bool:
        """Whether it builds for GPUs that are not there."""
        return self.package == RTX

    @property
    def keeps_timings(self) -> bool:
        """Whether it measures parts of an engine, and can be told what it measured earlier."""
        return self.package == TENSORRT

    @property
    def default_target(self) -> str:
        """What it builds for where no compute capability is named, in words."""
        return "any GPU that it supports" if self.builds_for_others else "the GPU that is there"

    def network_flags(self) -> int:
        """Return the flags of a network whose types are those of the file."""
        return 1 << int(self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def prepare(self, config: Any, capabilities: Sequence[str]) -> None:
        """Set up what is this flavour's own.

        Args:
            config: TensorRT's builder configuration.
            capabilities: Compute capabilities to build for, such as "8.6"; none: what the flavour
                takes by default, or the GPU that is there.

        Raises:
            EngineError: It cannot build for one.
        """
        if self.package != RTX:
            if capabilities:
                raise EngineError(
                    f"{self.package} builds for the GPU that is there; leave capabilities out"
                )
            return
        # Without this, executions cannot be captured in a CUDA graph.
        config.set_flag(self.api.BuilderFlag.REQUIRE_USER_ALLOCATION)
        known = self.capabilities()
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            if capability not in known:
                raise EngineError(
                    f"compute capability {capability!r}: {self.package} {self.version} builds for "
                    f"{', '.join(known)}"
                )
            config.set_compute_capability(known[capability], index)

    def capabilities(self) -> dict[str, Any]:
        """Return the compute capabilities that can be named, and TensorRT's own names for them."""
        members = self.api.ComputeCapability.__members__
        return {
            f"{name[2:-1]}.{name[-1]}": member
            for name, member in members.items()
            if name.startswith("SM")
        }


def find_flavour(load: Callable[[str], Any] = import_module) -> Flavour:
    """Return the TensorRT that is installed; TensorRT for RTX, if both are.

    Raises:
        ExtraMissing: There is none.
        EngineError: It is too old, or cannot be imported.
    """
    for package in (RTX, TENSORRT):
        try:
            api = load(package)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(f"{package} is installed, and cannot be used: {error}") from error
        version: str = api.__version__
        oldest = OLDEST[package]
        if tuple(int(part) for part in version.split(".")[:2]) < oldest:
            shown = ".".join(map(str, oldest))
            raise EngineError(f"{package} {version} is too old: {shown} or newer is needed")
        return Flavour(package, version, api)
    raise ExtraMissing(f"TensorRT is not installed: {INSTALL}")


def find_driver() -> None:
    """Make sure that there is a GPU whose driver works.

    Raises:
        EngineError: There is none: what is missing, and what to do.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(
            "no NVIDIA driver: libcuda.so.1 cannot be loaded; install the driver, or run where "
            "there is a GPU"
        ) from error
    code: int = driver.cuInit(0)
    count = ctypes.c_int(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value < 1:
        raise EngineError(
            f"the NVIDIA driver finds no GPU (CUDA error {code}); see `nvidia-smi`, and whether "
            "this user may open /dev/nvidia*"
        )
