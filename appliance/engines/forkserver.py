"""A process that has imported everything and serves nobody: each worker begins as its copy.

Importing takes a worker a fifth of a second of processor time on a fast machine and a second on a
slow one; a copy takes a hundredth. So a worker that dies is soon back, and the others do not notice
much of it. What the copies read is in memory once. No model, no engine and no device is touched
here: a copy has nothing of them to share.

A worker is the child of a child that ends at once, and is then adopted by the core, which is the
subreaper: it reaps its workers itself, also if the fork server dies.
"""

from __future__ import annotations

import gc
import importlib
import os
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
    """Make a copy of this process for each request; return in each of them.

    Returns:
        In a copy, what it needs to be a worker. In the fork server itself None, when the core has
        closed its end.
    """
    importlib.import_module("appliance.engines.loop")  # what each copy is to run
    gc.collect()
    gc.freeze()  # the collector of a copy leaves alone, and so shared, what was there before
    while True:
        datagram, fds, _, _ = socket.recv_fds(requests, MAX_DATAGRAM, DESCRIPTORS)
        if not datagram:
            return None
        try:
            order = worker_pb2.Fork.FromString(datagram)
            pid = _fork_orphan()
        except OSError as error:
            reply = worker_pb2.Forked(error=f"fork: {error.strerror}")
        else:
            if pid == 0:
                requests.close()
                return _become_worker(order, fds)
            reply = worker_pb2.Forked(pid=pid)
        for fd in fds:
            os.close(fd)
        requests.send(reply.SerializeToString())


def _fork_orphan() -> int:
    """Fork a grandchild and let its parent end; return its process id, and 0 in it.

    Raises:
        OSError: There can be no more processes.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parent = os.fork()
        if parent == 0:
            status = 1
            with suppress(OSError):
                pid = os.fork()
                if pid == 0:
                    return 0
                theirs.send(pid.to_bytes(4, "little"))
                status = 0
            os._exit(status)
        _, status = os.waitpid(parent, 0)
        if status:
            raise BlockingIOError(11, "no more processes can be started")
        return int.from_bytes(ours.recv(4), "little")


def _become_worker(order: worker_pb2.Fork, fds: list[int]) -> Born:
    """Leave the fork server's session, and take on what a worker is given."""
    os.setsid()
    control_fd, arena_fd, *standard = fds
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.update(order.environment)
    with suppress(OSError):
        Path("/proc/self/comm").write_bytes(order.name.encode()[:NAME_BYTES])
    np.random.seed()  # noqa: NPY002  models may use it: no two copies draw the same numbers
    return Born(control_fd, arena_fd)
