"""A process that has imported what all workers need, and serves nobody: each worker is its copy.

Starting Python and importing takes a fifth of a second of processor time on a fast machine and a
second on a slow one; a copy takes a hundredth. So a worker that died is soon back, and the others
do not notice much of it. What the copies read is in memory once. No model, no engine and no device
is touched here: a copy would have nothing of them to share.

It is the parent of the workers and tells the core how they ended. Should it die, they live on.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
from attrs import frozen

from appliance.wire.pb import worker_pb2
from appliance.wire.worker import MAX_DATAGRAM

DESCRIPTORS = 5
NAME_BYTES = 15
"""Linux keeps as many of a thread's name."""


@frozen
class Born:
    """What a new worker finds."""

    control_fd: int
    arena_fd: int


def serve(requests: socket.socket) -> Born | None:
    """Do as the core asks: make copies of this process. Returns in each of them, too.

    Returns:
        In a copy, what it needs to be a worker. In the fork server itself None, when the core has
        closed its end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, there would be nothing to reap
    importlib.import_module("appliance.engines.loop")  # what each copy is to run
    gc.collect()
    gc.freeze()  # the collector of a copy leaves alone, and so shared, what was there before
    while True:
        datagram, fds, _, _ = socket.recv_fds(requests, MAX_DATAGRAM, DESCRIPTORS)
        if not datagram:
            return None
        order = worker_pb2.ToForkServer.FromString(datagram)
        reply = worker_pb2.FromForkServer()
        try:
            if order.WhichOneof("message") == "reap":
                _, status = os.waitpid(order.reap, 0)
                reply.status = os.waitstatus_to_exitcode(status)
            else:
                pid = os.fork()
                if pid == 0:
                    requests.close()
                    return _become_worker(order.fork, fds)
                reply.pid = pid
        except OSError as error:
            reply.error = f"fork server: {error.strerror}"
        for fd in fds:
            os.close(fd)
        requests.send(reply.SerializeToString())


def _become_worker(fork: worker_pb2.Fork, fds: list[int]) -> Born:
    """Leave the fork server's session, and take on what a worker is given."""
    os.setsid()
    # Above the standard ones, which may have been closed in the core, and so are among these.
    control_fd, arena_fd, *standard = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds)
    for fd in fds:
        os.close(fd)
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.update(fork.environment)
    with suppress(OSError):
        Path("/proc/self/comm").write_bytes(fork.name.encode()[:NAME_BYTES])
    np.random.seed()  # noqa: NPY002  models may use it: no two copies draw the same numbers
    return Born(control_fd, arena_fd)
