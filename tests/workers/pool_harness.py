"""Runs a WorkerPool over real processes and lets tests wait for what it tells."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio

from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import worker_pb2
from appliance.workers.arena import Arena
from appliance.workers.events import BatchFinished, WorkerUp
from appliance.workers.pool import WorkerPool
from appliance.workers.slot import HostedModel, Slot, WorkerStatistics

FAKE = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))
PATIENCE_S = 60
OUTPUT_BYTES = 64

Event = TypeVar("Event")


class ManualClock:
    """Real time, and what the test adds to it."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.ahead_ns

    def advance(self, seconds: float) -> None:
        self.ahead_ns += int(seconds * 1e9)


def fake_slot(
    *models: str | HostedModel, name: str = "cpu", switches: Sequence[str] = (), **others: Any
) -> Slot:
    """A slot with a fake worker; nothing in it is overdue unless the test moves the clock."""
    return Slot(
        name=name,
        models=tuple(
            model if isinstance(model, HostedModel) else HostedModel(name=model, version="1")
            for model in models or ("echo",)
        ),
        command=(*FAKE, *switches),
        **{"start_timeout_ns": 10**12, "hang_floor_ns": 10**12, **others},
    )


class House:
    """A running pool, and all that it told."""

    def __init__(self, slots: Sequence[Slot], **others: Any) -> None:
        self.arena = Arena(1 << 20)
        self.clock = ManualClock()
        self._events, self._source = trio.open_memory_channel(math.inf)
        self._lines, self._line_source = trio.open_memory_channel(math.inf)
        self.pool = WorkerPool(
            slots,
            self.arena,
            on_event=self._events.send_nowait,
            on_log=lambda slot, line: self._lines.send_nowait((slot, line)),
            clock=self.clock,
            **others,
        )
        self._batch_ids = itertools.count(1)

    async def event(self) -> Any:
        """Return the next event, whatever it is."""
        return await self._source.receive()

    async def next(self, kind: type[Event], slot: str | None = None) -> Event:
        """Return the next event of that kind (and slot), letting others pass."""
        while True:
            event = await self._source.receive()
            if isinstance(event, kind) and slot in (None, event.worker.slot):
                return event

    async def until(self, condition: Callable[[WorkerStatistics], bool]) -> None:
        """Return when the first slot's statistics satisfy `condition`."""
        while not condition(self.pool.statistics()[0]):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)

    async def line(self) -> tuple[str, str]:
        return await self._line_source.receive()

    async def up(self, slot: str | None = None) -> WorkerRef:
        return (await self.next(WorkerUp, slot)).worker

    def batch(self, *rows: bytes, go: bool = True, batch_id: int | None = None) -> worker_pb2.Stage:
        """Write rows into the arena and return the message that stages them."""
        output = self.arena.allocator.allocate(OUTPUT_BYTES)
        stage = worker_pb2.Stage(
            batch_id=next(self._batch_ids) if batch_id is None else batch_id,
            model=0,
            output_offset=output.offset,
            output_bytes=output.bytes,
            go=go,
        )
        for row in rows:
            block = self.arena.allocator.allocate(len(row))
            (offset,) = self.arena.write(block, row)
            stage.rows.add().feeds.add(offset=offset, length=len(row))
        return stage

    async def run(self, worker: WorkerRef, *rows: bytes) -> list[bytes]:
        """Execute a batch of rows and return what came out of them."""
        self.pool.stage(worker, self.batch(*rows))
        finished = await self.next(BatchFinished, worker.slot)
        (output,) = finished.done.outputs
        return [
            bytes(self.arena.view(output.offset + i * output.row_length, output.row_length)).rstrip(
                b"\0"
            )
            for i in range(len(rows))
        ]

    def pid(self, slot: int = 0) -> int:
        pid = self.pool.statistics()[slot].pid
        assert pid is not None
        return pid

    def hold_until_exit(self) -> None:
        """Hold up the event loop, and with it the pool, until the first slot's process exits."""
        pidfd = os.pidfd_open(self.pid())
        select.select([pidfd], [], [])
        os.close(pidfd)


@contextlib.asynccontextmanager
async def house(*slots: Slot, **others: Any) -> AsyncIterator[House]:
    """A pool over `slots`, ended when the block is left."""
    with trio.fail_after(PATIENCE_S):
        home = House(slots or (fake_slot(),), **others)
        async with trio.open_nursery() as nursery:
            await nursery.start(home.pool.run)
            yield home
            nursery.cancel_scope.cancel()
        home.arena.close()


def exists(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int) -> None:
    """Return when a process that is not ours has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
