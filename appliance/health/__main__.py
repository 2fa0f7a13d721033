"""The reader: a line of readings again and again, until standard input is closed.

```
python -m appliance.health cuda:0 cuda:1
python -m appliance.health --once cuda:0
```

It ends by itself where nothing at all can be read, after saying why: a driver that was not there
when it began is not seen by this process any more, but may be by the next one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.engines import lifeline
from appliance.engines.cuda.driver import locate, ordinal_of
from appliance.errors import ApplianceError
from appliance.health.jetson import JetsonGpu
from appliance.health.nvml import Nvml, NvmlDevice
from appliance.health.reading import DeviceHealth, to_line

PERIOD_MS = 250
"""Between two readings: the scheduler is to hear of held clocks within a few batches, and a reading
takes a few milliseconds of one core."""


class Reader:
    """Reads devices, whoever tells of them.

    Args:
        root: Of the file system that has sysfs.
    """

    def __init__(self, devices: Sequence[str], root: Path) -> None:
        self._root = root
        self._nvml: Nvml | None = None
        self._sources = {device: self._source(device) for device in devices}

    def _source(self, device: str) -> NvmlDevice | JetsonGpu | str:
        """Return who tells of a device, or why nobody does."""
        try:
            return self._find(device)
        except ApplianceError as error:
            return str(error)

    def _find(self, device: str) -> NvmlDevice | JetsonGpu:
        """Return who tells of a device.

        Raises:
            DeviceMissing: There is no such device, or no driver.
            ExtraMissing: nvidia-ml-py is not installed.
        """
        where = locate(ordinal_of(device) or 0)
        if where.is_integrated:
            jetson = JetsonGpu.find(device, self._root)
            if jetson is not None:
                return jetson
        if self._nvml is None:
            self._nvml = Nvml()
        return self._nvml.find(device, where.pci)

    def read(self) -> list[DeviceHealth]:
        """Read all of them."""
        return [self._read(device, source) for device, source in self._sources.items()]

    def _read(self, device: str, source: NvmlDevice | JetsonGpu | str) -> DeviceHealth:
        if isinstance(source, str):
            return DeviceHealth(device=device, error=source)
        try:
            return source.read()
        except ApplianceError as error:
            return DeviceHealth(device=device, error=str(error))


def main() -> int:
    """Write readings; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m appliance.health")
    parser.add_argument("devices", nargs="+", metavar="cuda:N")
    parser.add_argument("--once", action="store_true", help="one line, and no more")
    parser.add_argument("--period-ms", type=int, default=PERIOD_MS)
    parser.add_argument("--root", type=Path, default=Path("/"), help="what has sysfs below it")
    arguments = parser.parse_args()
    try:
        if not arguments.once:
            lifeline.arm(sys.stdin.fileno())
        reader = Reader(arguments.devices, arguments.root)
        while True:
            readings = reader.read()
            print(to_line(readings), flush=True)  # noqa: T201  the core reads it
            if arguments.once:
                return 0
            if all(reading.error for reading in readings):
                return 1
            time.sleep(arguments.period_ms / 1000)
    except ApplianceError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
