"""Keeps one slot alive: generation after generation, by the restart policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import trio
from attrs import frozen

from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import worker_pb2
from appliance.workers.arena import Arena
from appliance.workers.channel import Channel, open_channel
from appliance.workers.conversation import Conversation
from appliance.workers.events import PoolEvent, WorkerDown
from appliance.workers.forkserver import ForkServer
from appliance.workers.generation import Ending, Generation
from appliance.workers.hang import HangBound
from appliance.workers.process import WorkerProcess, start_program
from appliance.workers.restart import Life, Quarantine, RestartPolicy
from appliance.workers.slot import Slot, WorkerState, WorkerStatistics

_KILL_GRACE_S = 5.0
"""Between SIGKILL and exit, when stopping. Beyond it, the process hangs in the kernel."""

_HISTORY = 64
"""Lives remembered: more than the restart policy has doublings."""


@frozen(kw_only=True)
class Surroundings:
    """What the slots of a pool share. `WorkerPool` says what each is."""

    arena: Arena
    fork_server: ForkServer
    restart: RestartPolicy
    stop_grace_s: float
    on_event: Callable[[PoolEvent], None]
    on_log: Callable[[str, str], None]
    clock: Callable[[], int]


class Supervisor:
    """One slot. Its synchronous calls never wait.

    Attributes:
        slot: What its processes host.
        page: Of the ledger, in which they count.
        numbers: Gives each generation its number; a successor goes on with it.
        number: Of the present or latest generation; 0 before the first.
        has_served: It is the one that serves the slot, or was.
        has_stopped: Nothing of it runs any more.
        is_silent: Of what it does, only the end of a process is told: another one has taken over
            before it was ready.
    """

    def __init__(self, slot: Slot, page: int, numbers: Iterator[int], around: Surroundings) -> None:
        self.slot = slot
        self.page = page
        self.numbers = numbers
        self.number = 0
        self.has_served = False
        self.has_stopped = False
        self.is_silent = False
        self._ledger_offset = around.arena.ledger_offset(page)
        self._around = around
        self._hang = HangBound(floor_ns=slot.hang_floor_ns, factor=slot.hang_factor)
        self._quarantine = Quarantine(around.restart.loads)
        self._history: deque[Life] = deque(maxlen=_HISTORY)
        self._shield = trio.CancelScope(shield=True)
        self._stop_requested = trio.Event()
        self._lives = 0
        self._is_last = False
        self._present: Generation | None = None
        self._batches = 0  # of ended generations
        self._latest = Ending("", ())

    async def supervise(self) -> None:
        """Run until `stop`, which also bounds how long that takes.

        Shielded: workers are ended in an orderly way even when the core is cancelled.
        """
        around = self._around
        with self._shield:
            while not (self._stop_requested.is_set() or (self._is_last and self._lives)):
                delay_ns = around.restart.delay_ns(self._history, around.clock())
                with trio.move_on_after(delay_ns / 1e9):
                    await self._stop_requested.wait()
                if not self._stop_requested.is_set():
                    await self._live()
        if self._shield.cancelled_caught:
            around.on_log(self.slot.name, f"generation {self.number} does not end when killed")
        self.has_stopped = True

    @property
    def is_ready(self) -> bool:
        """Whether a process is up and may be given batches."""
        return self._state() == "ready"

    def retire(self) -> None:
        """Start no other generation after the present one."""
        self._is_last = True
        if self._present is None:
            self.stop()

    def stop(self) -> None:
        """End the present generation and start no other."""
        self._stop_requested.set()
        grace_s = self._around.stop_grace_s
        self._shield.deadline = trio.current_time() + grace_s + _KILL_GRACE_S
        if self._present is not None:
            self._present.stop(grace_s)

    def stage(self, generation: int, message: worker_pb2.Stage) -> None:
        """See `WorkerPool.stage`."""
        present = self._at(generation)
        if present is not None:
            present.send(present.conversation.stage(message, self._around.clock()))

    def go(self, generation: int, batch_id: int, latest_start_ns: int) -> None:
        """See `WorkerPool.go`."""
        present = self._at(generation)
        if present is not None:
            now_ns = self._around.clock()
            present.send(present.conversation.go(batch_id, latest_start_ns, now_ns))

    def revoke(self, generation: int, batch_id: int) -> None:
        """See `WorkerPool.revoke`."""
        present = self._at(generation)
        if present is not None:
            present.send(present.conversation.revoke(batch_id))

    def _at(self, generation: int) -> Generation | None:
        """Return the generation of that number if it lives; its WorkerDown tells the rest."""
        return self._present if generation == self.number else None

    async def _live(self) -> None:
        """Run one generation, from its start to its WorkerDown."""
        around = self._around
        self.number = next(self.numbers)
        self._lives += 1
        worker = WorkerRef(self.slot.name, self.number)
        conversation = Conversation(
            worker,
            self.slot,
            quarantine=self._quarantine,
            hang=self._hang,
            arena_bytes=around.arena.total,
            ledger_offset=self._ledger_offset,
            now_ns=around.clock(),
        )
        self._latest = await self._run(conversation)
        self._batches += conversation.batches.finished
        self._history.append(
            Life(
                ready_ns=conversation.ready_ns,
                ended_ns=around.clock(),
                finished_batch=conversation.batches.finished > 0,
            )
        )
        if conversation.loading is not None:
            self._quarantine.died(conversation.loading, self._latest.cause)
        self._tell(WorkerDown(worker, self._latest.cause, self._latest.stderr))

    def _tell(self, event: PoolEvent) -> None:
        if not self.is_silent or isinstance(event, WorkerDown):
            self._around.on_event(event)

    async def _run(self, conversation: Conversation) -> Ending:
        around = self._around
        try:
            process, channel = await self._start()
        except OSError as error:
            return Ending(f"cannot be started: {error}", ())
        self._present = Generation(
            process,
            channel,
            conversation,
            on_event=self._tell,
            on_line=lambda line: around.on_log(self.slot.name, line),
            clock=around.clock,
        )
        if self._stop_requested.is_set():  # while it was being started
            self._present.stop(around.stop_grace_s)
        try:
            return await self._present.run()
        finally:
            self._present = None
            channel.close()
            await process.close()

    async def _start(self) -> tuple[WorkerProcess, Channel]:
        channel, theirs = open_channel()
        with theirs:
            control, arena = theirs.fileno(), self._around.arena.fd
            slot = self.slot
            try:
                if slot.command is None:
                    process = await self._around.fork_server.start_worker(
                        slot.name, control, arena, slot.environment
                    )
                else:
                    process = await start_program(
                        [*slot.command, f"--control-fd={control}", f"--arena-fd={arena}"],
                        pass_fds=(control, arena),
                        environment=slot.environment,
                    )
            except BaseException:
                channel.close()
                raise
        return process, channel

    def statistics(self) -> WorkerStatistics:
        """Return a snapshot."""
        present = self._present
        conversation = present.conversation if present is not None else None
        batches = conversation.batches if conversation is not None else None
        return WorkerStatistics(
            slot=self.slot.name,
            device=self.slot.device,
            models=tuple(model.name for model in self.slot.models),
            generation=self.number,
            state=self._state(),
            pid=present.process.pid if present is not None else None,
            restarts=max(0, self._lives - 1),
            last_cause=self._latest.cause,
            last_stderr=self._latest.stderr,
            progress=conversation.progress if conversation is not None else 0.0,
            step=conversation.step if conversation is not None else "",
            batches=self._batches + (batches.finished if batches is not None else 0),
            hang_bound_ns=batches.hang_bound_ns if batches is not None else None,
            busy_since_ns=batches.busy_since_ns if batches is not None else None,
        )

    def _state(self) -> WorkerState:
        if self.has_stopped:
            return "stopped"
        if self._present is not None:
            return self._present.conversation.phase.value
        return "restarting" if self._history else "starting"
