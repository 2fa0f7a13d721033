"""The core's side of the fork server: it is started when first needed, and again when it is gone.

The core becomes the subreaper of what descends from it, so that workers, whose parent ends at
once, are its children. See `appliance.engines.forkserver` for what that is good for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

import trio
from attrs import define, field
from trio.lowlevel import FdStream

from appliance.timeslice import LOADING_NS, set_time_slice
from appliance.wire.pb import worker_pb2
from appliance.wire.worker import MAX_DATAGRAM
from appliance.workers.process import WorkerProcess

_SET_CHILD_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""

_PATIENCE_S = 60.0
"""For the first answer it imports a lot, perhaps from a slow card."""


@define(eq=False)
class _Running:
    process: trio.Process
    socket: socket.socket


@define(eq=False)
class ForkServer:
    """Starts workers, one at a time. `close` has to be called in the end."""

    _running: _Running | None = field(default=None, init=False)
    _one_at_a_time: trio.Lock = field(factory=trio.Lock, init=False)
    _groups: set[int] = field(factory=set[int], init=False)

    async def start_worker(
        self, name: str, control_fd: int, arena_fd: int, environment: Mapping[str, str]
    ) -> WorkerProcess:
        """Start a worker process.

        Args:
            name: For ps and top.
            control_fd: The worker's end of its control socket; like the arena, to be copied.
            environment: Added to the core's own.

        Raises:
            OSError: It cannot be started.
        """
        order = worker_pb2.Fork(name=name, environment=environment)
        async with self._one_at_a_time:
            self._reap_orphans()
            pipes = [os.pipe() for _ in range(3)]
            (stdin, lifeline), (stdout, written), (stderr, complained) = pipes
            theirs = (stdin, written, complained)
            ours = [FdStream(fd) for fd in (lifeline, stdout, stderr)]
            try:
                pid = await self._fork(order, [control_fd, arena_fd, *theirs])
                return self._adopt(pid, *ours)
            except BaseException:
                for stream in ours:
                    await trio.aclose_forcefully(stream)
                raise
            finally:
                for fd in theirs:
                    os.close(fd)

    async def _fork(self, order: worker_pb2.Fork, fds: list[int]) -> int:
        running = await self._started()
        try:
            socket.send_fds(running.socket, [order.SerializeToString()], fds)
            with trio.fail_after(_PATIENCE_S):
                await trio.lowlevel.wait_readable(running.socket)
            answer = running.socket.recv(MAX_DATAGRAM)
        except trio.TooSlowError:
            await self.close()
            raise OSError(f"the fork server did not answer for {_PATIENCE_S:g} s") from None
        except BaseException:
            await self.close()  # what it still says would be taken for the next answer
            raise
        if not answer:
            await self.close()
            raise OSError("the fork server is gone")
        forked = worker_pb2.Forked.FromString(answer)
        if forked.error:
            raise OSError(forked.error)
        return forked.pid

    async def _started(self) -> _Running:
        """Return the fork server that runs, or start one.

        Raises:
            OSError: It cannot be started.
        """
        if self._running is not None and self._running.process.returncode is None:
            return self._running
        await self.close()
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
        self._running = _Running(process, ours)
        return self._running

    def _adopt(self, pid: int, lifeline: FdStream, *outputs: FdStream) -> WorkerProcess:
        """Take over a worker.

        Raises:
            OSError: No descriptor is left to watch it by.
        """

        def reap() -> int:
            _, status = os.waitpid(pid, 0)
            self._groups.add(pid)
            self._reap_orphans()
            return os.waitstatus_to_exitcode(status)

        try:
            return WorkerProcess(pid, lifeline=lifeline, outputs=outputs, reap=reap)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def _reap_orphans(self) -> None:
        """Reap what workers started and left behind: killed with them, and children of ours now.

        Nobody says when they are dead, so those that are not yet are left to the next time. While
        there is one of a group, its number is nobody else's.
        """
        self._groups = {group for group in self._groups if _has_children(group)}

    async def close(self) -> None:
        """End it; workers stay. Idempotent."""
        self._reap_orphans()
        running, self._running = self._running, None
        if running is None:
            return
        running.socket.close()
        running.process.kill()
        with trio.CancelScope(shield=True):
            await running.process.wait()
            assert running.process.stdin is not None
            await trio.aclose_forcefully(running.process.stdin)


def _has_children(group: int) -> bool:
    """Reap the dead of a process group; return whether any live."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
