"""The health of the GPUs that workers are to compute on, where no appliance reads it already."""

from __future__ import annotations

import subprocess
import sys

from appliance.config import Config
from appliance.doctor.gathering import processes
from appliance.engines.cuda.driver import CPU
from appliance.errors import PeerProtocolError
from appliance.health.reading import DeviceHealth, from_line


def start_reading(config: Config) -> subprocess.Popen[str] | None:
    """Start a process that reads them once; None: there are none."""
    names = sorted({group.device for group in config.workers} - {CPU})
    if not names:
        return None
    return processes.start(sys.executable, "-m", "appliance.health", "--once", *names)


def readings(
    reader: subprocess.Popen[str] | None, deadline: float
) -> tuple[DeviceHealth, ...] | None:
    """Return what it read; None: it was not done in time, or said nothing."""
    if reader is None:
        return ()
    said = processes.output(reader, deadline)
    try:
        return None if said is None else from_line(said.out)
    except PeerProtocolError:
        return None
