"""Roles that answer: the least that each job takes, in the same language and transport.

Plain blocking sockets, nothing decoded, nobody else to serve.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import time

import numpy as np
import zmq

from benchmarks.stdio import answer, serve

SECOND_NS = 1_000_000_000
CLOCK_MONOTONIC, ABSOLUTE = 1, 1


def echo_router(*, address: str, inner: str) -> None:
    """First hop: pass each message to the worker at `inner`, and back."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    door, worker = context.socket(zmq.ROUTER), context.socket(zmq.PAIR)
    door.bind(address)
    worker.bind(inner)

    def step() -> None:
        worker.send_multipart(door.recv_multipart())
        door.send_multipart(worker.recv_multipart())

    serve(step)


def echo_worker(*, inner: str) -> None:
    """Second hop: send each message back."""
    socket: zmq.Socket[bytes] = zmq.Context().socket(zmq.PAIR)
    socket.connect(inner)

    def step() -> None:
        socket.send_multipart(socket.recv_multipart())

    serve(step)


def bare_copies(*, address: str, size: int) -> None:
    """Take a large payload, copy it into shared memory and out again, send 3 bytes back."""
    socket: zmq.Socket[bytes] = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    memory = os.memfd_create("floor", os.MFD_CLOEXEC)
    os.ftruncate(memory, size)
    shared = mmap.mmap(memory, size)
    arena = np.frombuffer(shared, np.uint8)
    gathered = np.empty(size, np.uint8)
    gathered.fill(0)  # its pages are there

    def step() -> None:
        frames = socket.recv_multipart(copy=False)
        arena[:] = np.frombuffer(frames[3].buffer, np.uint8)
        gathered[:] = arena
        socket.send_multipart([frames[0].bytes, b"", frames[2].bytes, bytes(3)])

    serve(step)


def bare_timer() -> None:
    """Wait on a timerfd `hz` times a second for `seconds`; answer with its lateness."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer: int = libc.timerfd_create(CLOCK_MONOTONIC, os.O_CLOEXEC)
    times = (ctypes.c_long * 4)()

    def late_ns(deadline_ns: int) -> int:
        times[2], times[3] = divmod(deadline_ns, SECOND_NS)
        libc.timerfd_settime(timer, ABSOLUTE, times, None)
        os.read(timer, 8)
        return time.monotonic_ns() - deadline_ns

    def run(seconds: float, hz: float) -> dict[str, float]:
        start = time.monotonic_ns()
        lateness: list[int] = []
        for index in range(round(seconds * hz)):
            deadline = start + round((index + random.random()) * SECOND_NS / hz)
            if deadline > time.monotonic_ns():
                lateness.append(late_ns(deadline))
        lateness.sort()
        rank = int(0.99 * (len(lateness) - 1))
        return {"count": len(lateness), "p99_us": lateness[rank] / 1000}

    answer(run)
