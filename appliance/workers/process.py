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
from collections.abc import Callable, Mapping, Sequence

import trio

from appliance.timeslice import set_time_slice
from appliance.workers.output import Lines

_CHUNK_BYTES = 1 << 16


class WorkerProcess:
    """A started process. `close` has to be called in the end.

    Attributes:
        pid: Its process id, and that of its process group.
    """

    def __init__(self, process: trio.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._stdout = Lines()
        self._stderr = Lines()
        self._reaped = False

    async def relay_output(self, on_line: Callable[[str], None]) -> None:
        """Hand over what it writes, line by line, until nobody can write any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_relay, self._process.stdout, self._stdout, on_line)
            nursery.start_soon(_relay, self._process.stderr, self._stderr, on_line)

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines it wrote to standard error."""
        return tuple(self._stderr.tail)

    async def wait_exited(self) -> None:
        """Return when it has exited. It is not reaped, so its process group is still its own."""
        await trio.lowlevel.wait_readable(self._pidfd)

    def kill(self) -> None:
        """Kill it, if it is not reaped, and all that it started and left in its group."""
        if self._reaped:  # the number may be another's by now
            return
        os.killpg(self.pid, signal.SIGKILL)

    async def reap(self) -> int:
        """Wait for its end and return its exit status, or minus the signal that ended it."""
        status = await self._process.wait()
        self._reaped = True
        return status

    async def close(self) -> None:
        """Kill and reap it if that is not done, and close the pipes."""
        try:
            self.kill()
            await self.reap()
        finally:
            os.close(self._pidfd)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                assert stream is not None
                await trio.aclose_forcefully(stream)


async def start_process(
    command: Sequence[str], *, pass_fds: Sequence[int], environment: Mapping[str, str]
) -> WorkerProcess:
    """Start a worker process.

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
    set_time_slice(0, process.pid)  # it has ours; while models load, others come first
    try:
        return WorkerProcess(process)
    except OSError:  # no descriptor is left to watch it by
        process.kill()
        await process.wait()
        raise


async def _relay(
    stream: trio.abc.ReceiveStream | None, lines: Lines, on_line: Callable[[str], None]
) -> None:
    assert stream is not None
    while chunk := await stream.receive_some(_CHUNK_BYTES):
        for line in lines.feed(bytes(chunk), time.monotonic_ns()):
            on_line(line)
    for line in lines.end():
        on_line(line)


def describe_exit(status: int, stderr: Sequence[str]) -> str:
    """Say in one line how a process ended, with its last word if it had one."""
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
