"""The core's side of the fork server: it is started when first needed, and again when it is gone.

See `appliance.engines.forkserver` for what it is good for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import trio
from attrs import define, field
from trio.lowlevel import FdStream

from appliance.timeslice import LOADING_NS, set_time_slice
from appliance.wire.pb import worker_pb2
from appliance.wire.worker import MAX_DATAGRAM
from appliance.workers.process import UNKNOWN, WorkerProcess

_START_S = 60.0
"""Until the first answer: it imports a lot, perhaps from a slow card."""

_PATIENCE_S = 5.0
"""Until any other."""

_END_S = 5.0
"""Between SIGKILL and its end."""


@define(eq=False)
class _Running:
    process: trio.Process
    socket: socket.socket
    has_answered: bool = False


@define(eq=False)
class ForkServer:
    """Starts and reaps workers, one at a time. `close` has to be called in the end."""

    _running: _Running | None = field(default=None, init=False)
    _one_at_a_time: trio.Lock = field(factory=trio.Lock, init=False)

    async def start_worker(
        self, name: str, control_fd: int, arena_fd: int, environment: Mapping[str, str]
    ) -> WorkerProcess:
        """Start a worker process.

        Args:
            name: For ps and top.
            control_fd: The worker's end of its control socket; like the arena, to be copied.
            environment: Added to the core's own, when the worker has begun: too late for what
                numpy and the C library read when they start.

        Raises:
            OSError: It cannot be started.
        """
        order = worker_pb2.ToForkServer(fork=worker_pb2.Fork(name=name, environment=environment))
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, lifeline = _pipe(theirs, ours)
            output, stdout = _pipe(ours, theirs)
            errors, stderr = _pipe(ours, theirs)
            fds = (control_fd, arena_fd, stdin, stdout, stderr)
            async with self._one_at_a_time:
                try:
                    server, answer = await self._ask(order, fds)
                except ConnectionError:  # it had died, and nobody had noticed
                    server, answer = await self._ask(order, fds)
            if answer.error:
                raise OSError(answer.error)
            process = WorkerProcess(
                answer.pid,
                lifeline=FdStream(lifeline),
                outputs=(FdStream(output), FdStream(errors)),
                reap=lambda: self._reap(server, answer.pid),
            )
            ours.pop_all()
            return process

    async def _reap(self, server: _Running, pid: int) -> int:
        """Return how a worker that has exited ended; UNKNOWN if its parent is gone."""
        async with self._one_at_a_time:
            if self._running is not server:
                return UNKNOWN
            try:
                _, answer = await self._ask(worker_pb2.ToForkServer(reap=pid))
            except OSError:
                return UNKNOWN
            return UNKNOWN if answer.error else answer.status

    async def _ask(
        self, order: worker_pb2.ToForkServer, fds: Sequence[int] = ()
    ) -> tuple[_Running, worker_pb2.FromForkServer]:
        """Return the answer to one request, and of which fork server it is.

        One that does not answer is ended, as what it still says would be taken for the next answer.

        Raises:
            ConnectionError: It is gone.
            OSError: It cannot be started, or does not answer.
        """
        running = self._running
        if running is None or running.process.returncode is not None:
            await self.close()
            running = self._running = await _start()
        try:
            answer = await _exchange(running, order.SerializeToString(), fds)
        except BaseException:
            await self.close()
            raise
        running.has_answered = True
        return running, worker_pb2.FromForkServer.FromString(answer)

    async def close(self) -> None:
        """End it; workers stay. Idempotent."""
        running, self._running = self._running, None
        if running is None:
            return
        running.socket.close()
        running.process.kill()
        with trio.move_on_after(_END_S, shield=True):
            await running.process.wait()
        assert running.process.stdin is not None
        await trio.aclose_forcefully(running.process.stdin)


def _pipe(reads: ExitStack, writes: ExitStack) -> tuple[int, int]:
    """Return the ends of a new pipe, each to be closed with its stack."""
    ends = os.pipe()
    for stack, fd in zip((reads, writes), ends, strict=True):
        stack.callback(os.close, fd)
    return ends


async def _exchange(running: _Running, request: bytes, fds: Sequence[int]) -> bytes:
    """Send a request and return the answer.

    Raises:
        ConnectionError: It is gone.
        TimeoutError: It does not answer.
    """
    patience_s = _PATIENCE_S if running.has_answered else _START_S
    socket.send_fds(running.socket, [request], fds)
    with trio.move_on_after(patience_s) as waiting:
        await trio.lowlevel.wait_readable(running.socket)
    if waiting.cancelled_caught:
        raise TimeoutError(f"the fork server did not answer for {patience_s:g} s")
    answer = running.socket.recv(MAX_DATAGRAM)
    if not answer:
        raise ConnectionResetError("the fork server is gone")
    return answer


async def _start() -> _Running:
    """Start the fork server.

    Raises:
        OSError: It cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)  # noqa: FBT003
    with theirs:
        fd = theirs.fileno()
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "appliance.engines", f"--fork-server-fd={fd}"],
                stdin=subprocess.PIPE,
                pass_fds=(fd,),
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except BaseException:
            ours.close()
            raise
    # It has the core's, and its copies will have its own; while models load, others go first.
    set_time_slice(LOADING_NS, process.pid)
    return _Running(process, ours)
