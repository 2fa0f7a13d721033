"""All worker slots of the box, for the one task that gives them batches.

`stage`, `go` and `revoke` are synchronous and do not block. They never fail for the worker's
sake: a worker that cannot take a message is ended, and its `WorkerDown` follows. What is sent to
a generation that is no longer there goes nowhere: its `WorkerDown` has been told, or will be.
`on_event` is never called from within them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

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
            arena: The slot at index i counts its rows in ledger i.
            on_event: Called synchronously, in order; must not raise.
            on_log: Called with a slot's name and a line that its process wrote.
            clock: Monotonic nanoseconds.
            restart: When a worker that ended is started again.
            stop_grace_s: Between asking a worker to go and killing it.

        Raises:
            ValueError: Two slots have one name, or the arena has too few ledgers.
        """
        self._fork_server = ForkServer()
        around = Surroundings(
            arena=arena,
            fork_server=self._fork_server,
            restart=restart,
            stop_grace_s=stop_grace_s,
            on_event=on_event,
            on_log=on_log,
            clock=clock,
        )
        self._supervisors: dict[str, Supervisor] = {}
        for index, slot in enumerate(slots):
            if slot.name in self._supervisors:
                raise ValueError(f"two slots are called {slot.name!r}")
            self._supervisors[slot.name] = Supervisor(slot, arena.ledger_offset(index), around)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a process in every slot until cancelled; then end them all and return.

        Started at once, before any worker is up. No process of ours remains afterwards.
        """
        try:
            async with trio.open_nursery() as nursery:
                for supervisor in self._supervisors.values():
                    nursery.start_soon(supervisor.supervise)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    for supervisor in self._supervisors.values():
                        supervisor.stop()
        finally:
            await self._fork_server.close()

    def stage(self, worker: WorkerRef, message: worker_pb2.Stage) -> None:
        """Give a READY worker a batch, to be executed at once (`message.go`) or on `go`.

        Raises:
            LocalProtocolError: It is not READY, holds that batch already, or has no such model.
        """
        self._supervisors[worker.slot].stage(worker.generation, message)

    def go(self, worker: WorkerRef, batch_id: int, latest_start_ns: int = 0) -> None:
        """Let a worker execute a staged batch; one `BatchFinished` follows, or `WorkerDown`.

        Args:
            latest_start_ns: It is skipped rather than started later; 0: never.

        Raises:
            LocalProtocolError: It is not staged there.
        """
        self._supervisors[worker.slot].go(worker.generation, batch_id, latest_start_ns)

    def revoke(self, worker: WorkerRef, batch_id: int) -> None:
        """Take a staged batch back. The worker may still read its rows, but writes nothing.

        Raises:
            LocalProtocolError: It is not staged there.
        """
        self._supervisors[worker.slot].revoke(worker.generation, batch_id)

    def statistics(self) -> tuple[WorkerStatistics, ...]:
        """Return a snapshot of every slot, in their order."""
        return tuple(supervisor.statistics() for supervisor in self._supervisors.values())
