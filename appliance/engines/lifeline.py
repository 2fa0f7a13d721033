"""A worker does not outlive its core, whatever it is doing.

Standard input is a pipe that the core never writes to. When the core ends, the kernel closes the
other end and, because of `O_ASYNC`, sends SIGIO to this process at that moment. Its default action
ends the process, so no code of ours has to run: a worker stuck in native code goes too.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat

from appliance.errors import WorkerNotReady


def arm(fd: int) -> None:
    """End this process as soon as nobody can write to the pipe `fd` any more.

    Raises:
        WorkerNotReady: `fd` is no pipe, or its other end is closed already.
    """
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise WorkerNotReady("standard input is no pipe; a worker is started by the appliance")
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    # It may have been closed before the signal was armed.
    poll = select.poll()
    poll.register(fd, 0)  # POLLHUP is always reported
    if poll.poll(0):
        raise WorkerNotReady("the appliance is gone already")
