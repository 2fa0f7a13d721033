"""All worker slots of the box, for the one task that gives them batches.

`stage`, `go` and `revoke` are synchronous and do not block. They never fail for the worker's
sake: a worker that cannot take a message is ended, and its `WorkerDown` follows. What is sent to
a generation that is no longer there goes nowhere: its `WorkerDown` has been told, or will be.
`on_event` is never called from within them.

A slot can be given other models while it is served: `succeed` starts a process with them beside
the one that serves, `take_over` puts it into its place once it is up, and `dismiss` ends the former
when it has nothing to do any more. `abandon` gives the attempt up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count

import trio

from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import worker_pb2
from appliance.workers.arena import Arena
from appliance.workers.events import PoolEvent
from appliance.workers.forkserver import ForkServer
from appliance.workers.restart import RestartPolicy
from appliance.workers.slot import Slot, WorkerStatistics
from appliance.workers.supervisor import Supervisor, Surroundings


class WorkerPool:
    """Owns the worker processes; used from one Trio thread."""

    def __init__(
        self,
        slots: Sequence[Slot],
        arena: Arena,
        *,
        on_event: Callable[[PoolEvent], None],
        on_log: Callable[[str, str], None] = lambda _slot, _line: None,
        clock: Callable[[], int] = time.monotonic_ns,
        restart: RestartPolicy = RestartPolicy(),  # noqa: B008 - frozen
        stop_grace_s: float = 1.0,
    ) -> None:
        """Start nothing yet.

        Args:
            slots: One worker process each, at a time.
            arena: The slot at index i counts its rows in ledger i; its successor, and each second
                one, in ledger i behind those of all slots.
            on_event: Called synchronously, in order; must not raise.
            on_log: Called with a slot's name and a line that its process wrote.
            clock: Monotonic nanoseconds.
            restart: When a worker that ended is started again.
            stop_grace_s: Between asking a worker to go and killing it.

        Raises:
            ValueError: Two slots have one name, or the arena has too few ledgers.
        """
        self._fork_server = ForkServer()
        self._around = Surroundings(
            arena=arena,
            fork_server=self._fork_server,
            restart=restart,
            stop_grace_s=stop_grace_s,
            on_event=on_event,
            on_log=on_log,
            clock=clock,
        )
        self._supervisors: dict[str, Supervisor] = {}
        self._successors: dict[str, Supervisor] = {}
        self._leaving: list[Supervisor] = []
        self._nursery: trio.Nursery | None = None
        self._has_left = trio.Event()
        for index, slot in enumerate(slots):
            if slot.name in self._supervisors:
                raise ValueError(f"two slots are called {slot.name!r}")
            supervisor = Supervisor(slot, index, count(1), self._around)
            supervisor.has_served = True
            self._supervisors[slot.name] = supervisor

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a process in every slot until cancelled; then end them all and return.

        Started at once, before any worker is up. No process of ours remains afterwards.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for supervisor in self._supervisors.values():
                    nursery.start_soon(self._supervise, supervisor)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None
                    for supervisor in self._all():
                        supervisor.stop()
        finally:
            await self._fork_server.close()

    async def _supervise(self, supervisor: Supervisor) -> None:
        await supervisor.supervise()
        if supervisor in self._leaving:
            self._leaving.remove(supervisor)
        self._has_left.set()
        self._has_left = trio.Event()

    def _all(self) -> list[Supervisor]:
        return [*self._supervisors.values(), *self._successors.values(), *self._leaving]

    # ------------------------------------------------------------------------------ succession

    def slots(self) -> list[Slot]:
        """Return what each slot is, in their order."""
        return [supervisor.slot for supervisor in self._supervisors.values()]

    def succeed(self, slot: Slot) -> int:
        """Start a process for a slot's new models beside the one that serves.

        Its events are told as those of any worker (see `is_successor`).

        Returns:
            The ledger it counts its rows in.
        """
        assert self._nursery is not None
        assert slot.name not in self._successors
        former, every = self._supervisors[slot.name], len(self._supervisors)
        page = former.page + every if former.page < every else former.page - every
        supervisor = Supervisor(slot, page, former.numbers, self._around)
        self._successors[slot.name] = supervisor
        self._nursery.start_soon(self._supervise, supervisor)
        return page

    def is_successor(self, worker: WorkerRef) -> bool:
        """Return whether a worker has not taken over, and may never do."""
        serving = self._supervisors[worker.slot]
        return serving.number != worker.generation and any(
            other.number == worker.generation and not other.has_served
            for other in (*self._successors.values(), *self._leaving)
            if other.slot.name == worker.slot
        )

    def take_over(self, slot: str) -> WorkerRef | None:
        """Put a slot's successor into its place.

        Returns:
            Who serves there still, and is to be dismissed; None: nobody does.
        """
        former = self._supervisors[slot]
        self._supervisors[slot] = successor = self._successors.pop(slot)
        successor.has_served = True
        serves = former.is_ready
        former.retire()
        self._leaving.append(former)
        if not serves:
            former.is_silent = True
            former.stop()
        return WorkerRef(slot, former.number) if serves else None

    def dismiss(self, worker: WorkerRef) -> None:
        """End a worker whose successor has taken over."""
        supervisor = self._supervisor(worker)
        if supervisor in self._leaving:
            supervisor.stop()

    def abandon(self, slot: str) -> None:
        """End a slot's successor, if it has one."""
        successor = self._successors.pop(slot, None)
        if successor is not None:
            successor.stop()
            self._leaving.append(successor)

    async def wait_left(self) -> None:
        """Wait until of each slot there are no processes but those that serve."""
        while self._leaving:
            await self._has_left.wait()

    # --------------------------------------------------------------------------------- batches

    def stage(self, worker: WorkerRef, message: worker_pb2.Stage) -> None:
        """Give a READY worker a batch, to be executed at once (`message.go`) or on `go`.

        Raises:
            LocalProtocolError: It is not READY, holds that batch already, or has no such model.
        """
        self._supervisor(worker).stage(worker.generation, message)

    def go(self, worker: WorkerRef, batch_id: int, latest_start_ns: int = 0) -> None:
        """Let a worker execute a staged batch; one `BatchFinished` follows, or `WorkerDown`.

        Args:
            latest_start_ns: It is skipped rather than started later; 0: never.

        Raises:
            LocalProtocolError: It is not staged there.
        """
        self._supervisor(worker).go(worker.generation, batch_id, latest_start_ns)

    def revoke(self, worker: WorkerRef, batch_id: int) -> None:
        """Take a staged batch back. The worker may still read its rows, but writes nothing.

        Raises:
            LocalProtocolError: It is not staged there.
        """
        self._supervisor(worker).revoke(worker.generation, batch_id)

    def _supervisor(self, worker: WorkerRef) -> Supervisor:
        serving = self._supervisors[worker.slot]
        if serving.number == worker.generation:
            return serving
        for other in self._leaving:
            if other.slot.name == worker.slot and other.number == worker.generation:
                return other
        return serving

    def statistics(self) -> tuple[WorkerStatistics, ...]:
        """Return a snapshot of every slot, in their order."""
        return tuple(supervisor.statistics() for supervisor in self._supervisors.values())
