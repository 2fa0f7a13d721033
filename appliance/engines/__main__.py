"""The processes that run models; standard input is the lifeline.

```
python -m appliance.engines --fork-server-fd N             the fork server, and by copy each worker
python -m appliance.engines --control-fd N --arena-fd M    one worker
python -m appliance.engines --probe cuda:0                 can a worker have this device?
```
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

from appliance.engines import heap, lifeline
from appliance.errors import ApplianceError, DeviceLost

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by linear algebra libraries when they are loaded. Workers share the cores."""


def main() -> int:
    """Serve until the core says Stop or is gone; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m appliance.engines")
    parser.add_argument("--fork-server-fd", type=int)
    parser.add_argument("--control-fd", type=int)
    parser.add_argument("--arena-fd", type=int)
    parser.add_argument("--probe", metavar="DEVICE")
    arguments = parser.parse_args()
    control_fd, arena_fd = arguments.control_fd, arguments.arena_fd
    if arguments.probe is not None:
        return _probe(arguments.probe)
    if arguments.fork_server_fd is None and None in (control_fd, arena_fd):
        parser.error("the following arguments are required: --control-fd, --arena-fd")
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    # Its wheels report to their vendor, over the network, unless told not to before they load.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        if arguments.fork_server_fd is not None:
            lifeline.arm(sys.stdin.fileno())
            from appliance.engines import forkserver  # noqa: PLC0415  numpy reads the variables

            # It returns in each worker, and in the fork server at its end.
            born = forkserver.serve(socket.socket(fileno=arguments.fork_server_fd))
            if born is None:
                return 0
            control_fd, arena_fd = born.control_fd, born.arena_fd
        return _work(control_fd, arena_fd)
    except DeviceLost as error:
        print(f"worker: {error}", file=sys.stderr, flush=True)  # noqa: T201  the core reads it
        os._exit(1)  # whatever is given back to such a device hangs, or aborts
    except (ApplianceError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)  # noqa: T201  the core reads it
        return 1


def _probe(device: str) -> int:
    """Take a device and leave it; return 0 if it can be had, else say why not."""
    from appliance.engines.device import open_named  # noqa: PLC0415  numpy reads the variables

    try:
        open_named(device).close()
    except ApplianceError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _work(control_fd: int, arena_fd: int) -> int:
    """Be a worker."""
    for fd in (control_fd, arena_fd):
        os.set_inheritable(fd, False)  # noqa: FBT003  what a model starts must not hold them
    lifeline.arm(sys.stdin.fileno())
    heap.keep_freed()
    from appliance.engines.loop import Worker  # noqa: PLC0415  numpy reads the variables

    with socket.socket(fileno=control_fd) as control:
        Worker(control, arena_fd).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
