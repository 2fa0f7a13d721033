"""NVIDIA's libraries made of C, that say what a test wants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from attrs import frozen

from appliance.health.reading import DeviceHealth, from_line

HERE = Path(__file__).parent

needs_stand_ins = pytest.mark.skipif(
    shutil.which("cc") is None or find_spec("pynvml") is None,
    reason="there is no C compiler, or no nvidia-ml-py",
)

H200: Mapping[str, int] = {
    "temperature": 61,
    "slow_from": 92,
    "sm": 1755,
    "max_sm": 1980,
    "memory_clock": 3201,
    "power": 312_450,
    "power_limit": 700_000,
    "used": 87,
    "memory_used": 40 << 30,
    "memory_total": 140 << 30,
    "reasons": 0,
    "corrected": 0,
    "uncorrected": 0,
}
"""Busy, and well."""

GPU_IDLE, POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 1, 4, 8, 32, 64, 128
"""Bits of `reasons`."""


@frozen
class FakeDriver:
    """Libraries in a directory, and the file that says what they say."""

    libraries: Path
    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to load them."""
        return {"LD_LIBRARY_PATH": str(self.libraries), "FAKE_NVML": str(self.file)}

    def says(self, values: Mapping[str, int] = H200, **others: int) -> None:
        """Say this from now on. `name__1` is the second GPU's `name`."""
        lines = (f"{name.replace('__', ':')}={value}" for name, value in (values | others).items())
        new = self.file.with_suffix(".new")
        new.write_text("\n".join([*lines, ""]))
        new.replace(self.file)


def make_libraries(directory: Path, *definitions: str) -> Path:
    """Compile them."""
    for source, library in (
        ("fake_libcuda.c", "libcuda.so.1"),
        ("fake_libnvml.c", "libnvidia-ml.so.1"),
    ):
        target = directory / library
        command = ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", *definitions]
        subprocess.run([*command, "-o", target, HERE / source, "-ldl"], check=True)
    return directory


def read(
    driver: FakeDriver, *devices: str, root: Path = Path("/nowhere"), **environment: str
) -> list[DeviceHealth]:
    """Return what a reader says once."""
    arguments = ["--once", f"--root={root}", *(devices or ("cuda:0",))]
    done = subprocess.run(
        [sys.executable, "-m", "appliance.health", *arguments],
        env={**os.environ, **driver.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(from_line(done.stdout))
