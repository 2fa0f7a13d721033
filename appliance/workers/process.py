"""The operating system's side of one worker process: start, watch, end, reap.

It gets a session of its own (a signal to the core's terminal is not for it), the control socket
and the arena by file descriptor, and a pipe on standard input that is never written: its end
tells the worker that the core is gone, however that came about. (PR_SET_PDEATHSIG would not do:
it follows the thread that started the process, and Trio's threads come and go.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import trio

from appliance.timeslice import LOADING_NS, set_time_slice
from appliance.workers.output import Lines

_CHUNK_BYTES = 1 << 16

UNKNOWN = -256
"""An exit status that nobody could tell."""


class WorkerProcess:
    """A started process. `close` has to be called in the end.

    Attributes:
        pid: Its process id, and soon after its start that of its process group.
    """

    def __init__(
        self,
        pid: int,
        *,
        lifeline: trio.abc.AsyncResource,
        outputs: Sequence[trio.abc.ReceiveStream],
        reap: Callable[[], Awaitable[int]],
    ) -> None:
        """Take over a process; nothing is taken if that fails.

        Args:
            lifeline: The other end of its standard input.
            outputs: Those of its standard output and error.
            reap: Called once, when it has exited; has it reaped and returns its exit status, minus
                the signal that ended it, or UNKNOWN.

        Raises:
            OSError: No descriptor is left to watch it by.
        """
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self._pipes = (lifeline, *outputs)
        self._outputs = outputs
        self._lines = [Lines() for _ in outputs]
        self._reap = reap
        self._reaped = False

    async def relay_output(self, on_line: Callable[[str], None]) -> None:
        """Hand over what it writes, line by line, until nobody can write any more."""
        async with trio.open_nursery() as nursery:
            for output, lines in zip(self._outputs, self._lines, strict=True):
                nursery.start_soon(_relay, output, lines, on_line)

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines it wrote to standard error."""
        return tuple(self._lines[-1].tail)

    async def wait_exited(self) -> None:
        """Return when it has exited. It is not reaped, so its process group is still its own."""
        await trio.lowlevel.wait_readable(self._pidfd)

    def kill(self) -> None:
        """Kill it, if it is not reaped, and all that it started and left in its group."""
        if self._reaped:
            return
        # If its parent died, somebody else reaps it. Then the number may be another's by now.
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, 0)
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has only just been forked, and has no group yet
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def reap(self) -> int:
        """Wait for its end; return its exit status, minus the signal that ended it, or UNKNOWN."""
        await self.wait_exited()
        status = await self._reap()
        self._reaped = True
        return status

    async def close(self) -> None:
        """Kill and reap it if that is not done, and close the pipes."""
        try:
            if not self._reaped:
                self.kill()
                await self.reap()
        finally:
            os.close(self._pidfd)
            for pipe in self._pipes:
                await trio.aclose_forcefully(pipe)


async def start_program(
    command: Sequence[str], *, pass_fds: Sequence[int], environment: Mapping[str, str]
) -> WorkerProcess:
    """Start a program as a worker process.

    Raises:
        OSError: It cannot be started.
    """
    process = await trio.lowlevel.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    set_time_slice(LOADING_NS, process.pid)  # it has ours; while models load, others come first
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        return WorkerProcess(
            process.pid,
            lifeline=process.stdin,
            outputs=(process.stdout, process.stderr),
            reap=process.wait,
        )
    except OSError:
        process.kill()
        await process.wait()
        raise


async def _relay(
    stream: trio.abc.ReceiveStream, lines: Lines, on_line: Callable[[str], None]
) -> None:
    while chunk := await stream.receive_some(_CHUNK_BYTES):
        for line in lines.feed(bytes(chunk), time.monotonic_ns()):
            on_line(line)
    for line in lines.end():
        on_line(line)


def describe_exit(status: int, stderr: Sequence[str]) -> str:
    """Say in one line how a process ended, with its last word if it had one."""
    if status == UNKNOWN:
        return "ended, and so did the fork server, which would know how"
    if status < 0:
        return f"killed by {_signal_name(-status)}"
    last = next((line.strip() for line in reversed(stderr) if line.strip()), "")
    said = f": {last[:200]}" if status and last else ""
    return f"exited with status {status}{said}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
