"""Looks at everything, and fills in the facts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs

from appliance.config import Config, load
from appliance.doctor.facts import Facts
from appliance.doctor.gathering import (
    box,
    certificates,
    deployments,
    devices,
    files,
    models,
    ports,
    processes,
    running,
    systemd,
)
from appliance.errors import ConfigError

USUAL_CONFIG = Path("/etc/appliance/appliance.toml")
PATIENCE_S = 5.0
"""For all that other processes look at, at the same time: an unused driver wakes slowly."""

# In a process of its own: a driver that hangs, or a fault in a library, is not to be ours.
DRIVER = """
import ctypes, sys
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit("no NVIDIA driver: libcuda.so.1 cannot be loaded")
count = ctypes.c_int(0)
code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
if code or not count.value:
    sys.exit(f"the NVIDIA driver finds no GPU (CUDA error {code})")
"""
ONNXRUNTIME = "import onnxruntime"


def gather(config_path: str | None, socket_path: str | None, default_socket: str) -> Facts:
    """Look at everything; takes about six seconds at most, and about one where all is well.

    Args:
        config_path: None: the usual one, if it is there.
        socket_path: Of the admin socket; None: as the configuration says.
        default_socket: If that says nothing.
    """
    path = _config_path(config_path)
    deadline = time.monotonic() + PATIENCE_S
    driver, onnxruntime = processes.python(DRIVER), processes.python(ONNXRUNTIME)
    shown = systemd.properties(deadline)
    exposure = systemd.start_judging(shown)
    next_unit = deployments.start_asking()
    config, config_error = _config(path)
    reader = devices.start_reading(config)
    base = _base(shown.get("WorkingDirectory", ""))
    place = socket_path or config.admin.socket or default_socket
    answer = running.ask(place)
    found, repository, repository_error = models.models(config, base)
    facts = Facts(
        config=str(path or ""),
        config_error=config_error,
        config_nodes=tuple(files.nodes(path)) if path else (),
        runs_as=files.runs_as(shown.get("User", ""), answer),
        caller=files.person(os.geteuid()),
        group=files.group(),
        socket=tuple(files.nodes(Path(place))),
        files=tuple(files.configured(config, base)),
        has_certificate=bool(config.ingest.grpc.tls.certificate),
        certificate_error=certificates.certificate_error(config, base),
        wants_gpu=tuple(each.name for each in config.workers if each.device != "cpu"),
        tensorrt=tuple(box.tensorrt()),
        synchronised=box.is_synchronised(),
        ports=tuple(ports.ports(config)),
        disks=tuple(box.disks(config, base)),
        arena_bytes=config.arena.bytes,
        memlock_bytes=box.memlock(shown.get("LimitMEMLOCK", ""), answer),
        models=found,
        repository=repository,
        repository_error=repository_error,
        engines=tuple(models.engines()),
        running=answer,
    )
    read = devices.readings(reader, deadline)
    return attrs.evolve(
        facts,
        unit=systemd.unit(shown, exposure, deadline),
        deployment=deployments.deployment(next_unit, deadline),
        driver_error=processes.complaint(driver, deadline),
        devices=answer.devices or read,
        onnxruntime_error=processes.complaint(onnxruntime, deadline),
    )


def _config_path(named: str | None) -> Path | None:
    if named is not None:
        return Path(named)
    return USUAL_CONFIG if os.path.lexists(USUAL_CONFIG) else None


def _config(path: Path | None) -> tuple[Config, str]:
    try:
        return load(path), ""
    except ConfigError as error:
        return Config(), str(error)


def _base(directory: str) -> Path:
    """Return where relative paths of the configuration begin."""
    return Path(directory.lstrip("!-")) if directory.lstrip("!-").startswith("/") else Path.cwd()
