"""`python -m appliance.engines --control-fd N --arena-fd M`; standard input is the lifeline."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from appliance.engines import heap, lifeline
from appliance.errors import ApplianceError

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by linear algebra libraries when they are loaded. Workers share the cores."""


def main() -> int:
    """Serve until the core says Stop or is gone; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m appliance.engines")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--arena-fd", type=int, required=True)
    arguments = parser.parse_args()
    for fd in (arguments.control_fd, arguments.arena_fd):
        os.set_inheritable(fd, False)  # noqa: FBT003  what a model starts must not hold them
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    # Its wheels report to their vendor, over the network, unless told not to before they load.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        lifeline.arm(sys.stdin.fileno())
        heap.keep_freed()
        from appliance.engines.loop import Worker  # noqa: PLC0415  numpy reads the variables

        with socket.socket(fileno=arguments.control_fd) as control:
            Worker(control, arguments.arena_fd).run()
    except (ApplianceError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)  # noqa: T201  the core reads it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
