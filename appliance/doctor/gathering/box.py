"""The clock, memory, disks and packages of the box."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from appliance.config import Config
from appliance.doctor.facts import Disk, Running
from appliance.doctor.gathering.models import cache

CACHE_BYTES = 1 << 30
TIME_ERROR = 5  # of adjtimex(2): not synchronised
TENSORRT = ("tensorrt_rtx", "tensorrt")


def is_synchronised() -> bool | None:
    """Return what the kernel says of its clock; None: it does not say."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "adjtimex"):
        return None
    state: int = libc.adjtimex(ctypes.create_string_buffer(512))  # all zeros: changes nothing
    return None if state < 0 else state != TIME_ERROR


def tensorrt() -> Iterator[str]:
    """Yield package and version of each TensorRT that is installed, without importing any."""
    for package in TENSORRT:
        with suppress(metadata.PackageNotFoundError):
            yield f"{package} {metadata.version(package)}"


def memlock(of_unit: str, running: Running) -> int | None:
    """Return how much may be locked in memory, of what runs, else its unit, else here; -1: all."""
    if running.pid:
        limits = text_of(Path(f"/proc/{running.pid}/limits"))
        found = re.search(r"^Max locked memory +(\S+)", limits, re.MULTILINE)
        if found:
            return -1 if found[1] == "unlimited" else int(found[1])
    if of_unit:
        return int(of_unit) if of_unit.isdecimal() and int(of_unit) < 1 << 63 else -1
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return -1 if soft == resource.RLIM_INFINITY else soft


def disks(config: Config, base: Path) -> Iterator[Disk]:
    """Yield the room at each place that is written to, or above it."""
    recording = config.recording
    places = [
        ("models", base / config.models.directory, 0),
        ("engines", cache(), CACHE_BYTES),
    ]
    if recording.directory:
        places.append(("recordings", base / recording.directory, recording.total_bytes))
    for purpose, path, wanted in places:
        there = next(each for each in (path, *path.absolute().parents) if os.path.exists(each))  # noqa: PTH110  False for what may not be seen
        yield Disk(
            purpose=purpose,
            path=str(there),
            free_bytes=shutil.disk_usage(there).free,
            wanted_bytes=wanted,
        )


def text_of(path: Path) -> str:
    """Return what a file of /proc says; nothing if it may not be read, or is gone."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
