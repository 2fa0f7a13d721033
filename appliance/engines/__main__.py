"""The processes that run models; standard input is the lifeline.

```
python -m appliance.engines --fork-server-fd N             the fork server, and by copy each worker
python -m appliance.engines --control-fd N --arena-fd M    one worker
```
"""

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
    parser.add_argument("--fork-server-fd", type=int)
    parser.add_argument("--control-fd", type=int)
    parser.add_argument("--arena-fd", type=int)
    arguments = parser.parse_args()
    control_fd, arena_fd = arguments.control_fd, arguments.arena_fd
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
    except (ApplianceError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)  # noqa: T201  the core reads it
        return 1


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
