"""Compresses images in one thread, so that whoever observes never does.

The one thread of the SDK, there only where `images` was asked for: a process would have to be given
each image through shared memory, which was measured to take the caller six to ten times as long,
and the codec lets go of the GIL. It shares nothing with its owner but two queues, each of at most
one item for each model (the core gives no second one before the first is back), and an eventfd,
readable when something is done. It knows no ZeroMQ.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue

from appliance.client.images import Done, Job, do

CLOSE_S = 1.0
"""How long closing waits for an image that is being compressed; it ends by itself after that."""


class Encoder:
    """The owner's side of the thread.

    Attributes:
        descriptor: Readable when something may be done.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._done: deque[Done] = deque()
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # It writes to a descriptor of its own, which nobody else has by then.
        own = os.dup(self.descriptor)
        self._thread = threading.Thread(
            target=_run, args=(self._jobs, self._done, own), name="appliance images", daemon=True
        )
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have a job done; never waits."""
        self._jobs.put(job)

    def done(self) -> Iterator[Done]:
        """Yield what is done, each once."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)  # before looking: what comes later is told anew
        while self._done:
            yield self._done.popleft()

    def close(self) -> None:
        """End the thread after what it is at: milliseconds, `CLOSE_S` at most."""
        self._jobs.put(None)
        self._thread.join(CLOSE_S)
        os.close(self.descriptor)


def _run(jobs: SimpleQueue[Job | None], done: deque[Done], descriptor: int) -> None:
    try:
        while (job := jobs.get()) is not None:
            done.append(do(job))
            del job  # or its pixels would stay until the next one comes
            os.eventfd_write(descriptor, 1)
    finally:
        os.close(descriptor)
