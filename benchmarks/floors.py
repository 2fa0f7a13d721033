"""Roles that answer: the least that each job takes, in the same language and transport.

Plain blocking sockets, nothing decoded, nobody else to serve.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, SOCK_SEQPACKET, socketpair

import numpy as np
import zmq

from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.worker import MAX_DATAGRAM
from benchmarks.stdio import answer, serve

BURST = 64
"""Messages taken in one go, as the appliance does."""

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


def bare_path(*, address: str, size: int) -> None:
    """Do with each burst what nobody can leave out who speaks the wire through these libraries.

    Take it, parse the envelopes and read what they say, copy the payloads into shared memory,
    describe them to a worker in one datagram, and answer each. Nothing is checked, nobody is
    remembered, nothing is decided, counted or timed.
    """
    socket: zmq.Socket[bytes] = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    arena = memoryview(mmap.mmap(-1, BURST * size))
    core, worker = socketpair(AF_UNIX, SOCK_SEQPACKET)
    receive, send = socket.recv, super(zmq.Socket, socket).send

    def message() -> list[bytes]:
        return [receive(zmq.NOBLOCK) for _ in range(4)]

    def step() -> None:
        socket.poll()
        burst: list[list[bytes]] = []
        with suppress(zmq.Again):
            while len(burst) < BURST:
                burst.append(message())
        stage = worker_pb2.Stage()
        sequences: list[int] = []
        for index, (_, _, envelope, payload) in enumerate(burst):
            observation = session_pb2.Observation.FromString(envelope)
            sequences.append(_read(observation))
            arena[index * size : (index + 1) * size] = payload
            feed = stage.rows.add().feeds.add()
            feed.length = size
            feed.offset = index * size
        core.send(stage.SerializeToString())
        worker.recv(MAX_DATAGRAM)
        for index, (client, _, _, _) in enumerate(burst):
            response = session_pb2.ModelResponse()
            response.response_id = f"floor-{sequences[index]}"
            response.timestamp_ns = time.time_ns()
            response.sequence = sequences[index]
            response.timing.batch_size = len(burst)
            response.tensors.add(key="action", byte_length=size)
            output = bytes(arena[index * size : (index + 1) * size])
            for part in (client, b"", response.SerializeToString()):
                send(part, zmq.SNDMORE)
            send(output)

    serve(step)


def _read(observation: session_pb2.Observation) -> int:
    """Read what any server has to know; return the sequence number."""
    _ = (observation.client.id, observation.model_id, observation.protocol_version)
    _ = (observation.kind, observation.keep, observation.lateness, observation.wants_status)
    _ = (observation.age_us, observation.round_trip_us, observation.latency_budget_us)
    _ = (observation.steps_remaining, observation.step_period_us, observation.episode)
    for tensor in observation.tensors:
        _ = (tensor.key, tensor.dtype, tensor.encoding, tuple(tensor.shape))
        _ = (tensor.byte_offset, tensor.byte_length, tensor.age_us)
    return observation.sequence


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


def bare_load(*, model: str) -> None:
    """Load a model, as a worker does, from its directory; answer with how long that takes."""
    from appliance.engines.arena import ArenaView  # noqa: PLC0415  only this role needs them
    from appliance.engines.load import load  # noqa: PLC0415

    manifest = Path(model) / "model.toml"
    path = worker_pb2.ModelPath(
        name="model",
        version="1",
        manifest=manifest.read_text("utf-8"),
        manifest_path=str(manifest),
        directory=f"{model}/1",
    )

    def run() -> dict[str, float]:
        loaded = load(path, ArenaView(mmap.mmap(-1, mmap.PAGESIZE)), lambda _step: None)
        return {"load_s": loaded.load_ns / 1e9}

    answer(run)
