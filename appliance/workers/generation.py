"""One generation of a worker while it lives: process, channel and conversation together.

Everything that ends it goes one way: `end` notes the cause and kills, `run` sees the process
exit, takes in what it said before, and reaps it. Beside `run` there are the receiver, a periodic
check and the readers of its output; nothing is started per batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
from attrs import frozen

from appliance.errors import PeerProtocolError
from appliance.wire.pb import worker_pb2
from appliance.workers.channel import Channel
from appliance.workers.conversation import Conversation, Send
from appliance.workers.events import STOPPED, PoolEvent
from appliance.workers.process import WorkerProcess, describe_exit

_CHECK_PERIOD_S = 0.1
"""How late an overdue worker may be found."""

_BURST = 64
"""Messages taken in before other tasks get their turn."""

_CLOSED_GRACE_S = 1.0
"""Between a worker's closing its channel and its exit: it may be writing a core dump."""

_OUTPUT_GRACE_S = 0.5
"""For the last output of a process that has exited, should others hold its pipes open."""


@frozen
class Ending:
    """How a generation ended: in one line, and the last lines of its standard error."""

    cause: str
    stderr: tuple[str, ...]


class Generation:
    """A started worker process. The synchronous calls never wait and never raise for its sake."""

    def __init__(
        self,
        process: WorkerProcess,
        channel: Channel,
        conversation: Conversation,
        *,
        on_event: Callable[[PoolEvent], None],
        on_line: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self.process = process
        self.conversation = conversation
        self._channel = channel
        self._on_event = on_event
        self._on_line = on_line
        self._clock = clock
        self._cause = ""
        self._stopping = False
        self._kill_at = math.inf  # Trio's clock

    async def run(self) -> Ending:
        """Live until the process is gone and reaped."""
        async with trio.open_nursery() as readers:
            readers.start_soon(self.process.relay_output, self._on_line)
            async with trio.open_nursery() as listeners:
                listeners.start_soon(self._receive)
                listeners.start_soon(self._check)
                await self.process.wait_exited()
                listeners.cancel_scope.cancel()
            self.process.kill()  # what it has left behind in its group
            while self._take_in():
                pass
            readers.cancel_scope.deadline = trio.current_time() + _OUTPUT_GRACE_S
        status = await self.process.reap()
        stderr = self.process.stderr_tail
        if self._cause:
            return Ending(self._cause, stderr)
        return Ending(STOPPED if self._stopping else describe_exit(status, stderr), stderr)

    def send(self, datagram: bytes) -> None:
        """Send a message; a worker that cannot take it is ended."""
        try:
            self._channel.send(datagram)
        except OSError as error:
            self.end(f"took no more messages: {error.strerror}")

    def end(self, cause: str) -> None:
        """Kill the worker; what it says from now on is not heard. The first cause counts."""
        self._cause = self._cause or cause
        self.process.kill()

    def stop(self, grace_s: float) -> None:
        """Ask the worker to go; it is killed if it has not gone after `grace_s`."""
        self._stopping = True
        self._kill_at = trio.current_time() + grace_s
        self.send(worker_pb2.ToWorker(stop=worker_pb2.Stop()).SerializeToString())

    async def _receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._channel.socket)
            for _ in range(_BURST):
                if not self._take_in():
                    break
            if self._channel.closed:
                await trio.sleep(_CLOSED_GRACE_S)
                self.end("closed its channel and stayed")
                return

    def _take_in(self) -> bool:
        """Take in one message, if there is one; whether there was."""
        if self._cause:
            return False
        datagram = self._channel.receive()
        if datagram is None:
            return False
        try:
            effects = self.conversation.received(datagram, self._clock())
        except PeerProtocolError as error:
            self.end(f"broke the protocol: {error}")
            return False
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.datagram)
            else:
                self._on_event(effect)
        return True

    async def _check(self) -> None:
        """Find a worker that has stopped getting on, or does not go."""
        while True:
            await trio.sleep(_CHECK_PERIOD_S)
            if self.conversation.overdue(self._clock()) is not None:
                while self._take_in():  # it may be the core that was held up
                    pass
                cause = self.conversation.overdue(self._clock())
                if cause is not None:
                    self.end(cause)
            ping = self.conversation.ping(self._clock())
            if ping is not None:
                self.send(ping)
            if trio.current_time() >= self._kill_at:
                self.end("stopped: killed, as it did not go by itself")
