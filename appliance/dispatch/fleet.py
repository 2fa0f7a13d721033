"""What each worker hosts and holds: the pool's events become the scheduler's, and the catalog.

Owner of the workers' output blocks, and of the list of rows that a worker may still read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import structlog
from attrs import Factory, define, field

from appliance.admission.catalog import Catalog, Served
from appliance.dispatch.memory import Memory
from appliance.dispatch.states import State
from appliance.dispatch.ticket import Ticket
from appliance.metrics.ledger import Ledger
from appliance.metrics.registry import Metrics
from appliance.scheduling.events import (
    Batch,
    Event,
    ModelRef,
    WorkerLost,
    WorkerMemory,
    WorkerReady,
    WorkerRef,
)
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import ModelSpec
from appliance.wire.worker import encode_rows
from appliance.workers.allocator import Block
from appliance.workers.arena import FINISHED
from appliance.workers.events import (
    STOPPED,
    ModelFailed,
    ModelLoaded,
    PoolEvent,
    WorkerDown,
    WorkerUp,
)

if TYPE_CHECKING:
    import numpy.typing as npt

LONGEST_NS = 3600 * 10**9
"""Nothing that a worker does takes longer, whatever it says."""

UNPINNED = "the GPU cannot read the arena: rows are copied once more"
ABANDONED = "abandoned"
"""Why rows were for nothing that ran on when the appliance stopped."""


@define(eq=False)
class Sent:
    """A batch sent to a worker, what of the arena it may read, and where its outputs go."""

    batch_id: int
    tickets: list[Ticket]
    states: list[State]
    outputs: Block
    revoked: bool = False
    abandoned: bool = False  # its requests have ended, and it may still be executed


@define(eq=False)
class Host:
    """One life of a worker, as the core needs to know it.

    Attributes:
        models: A position is a model's number on its channel.
        page: Of the ledger, in which it counts.
        indices: The channel's number of each model it has loaded.
        outputs: Where it writes: the outputs of one batch are sent from one block while it
            executes the next one into the other.
        sent: Batches sent and the rows they may read, oldest first.
        memory_bytes, load_ns: What each model it has loaded takes, and how long to load it again.
        urgent: Those whose batches run beside the others'.
        budget_bytes: What those in memory may take; 0: whatever they do.
        resident: Those, the least recently used first.
        remarks: What makes its batches slower than they could be, in words.
    """

    models: list[ModelRef]
    page: int
    indices: dict[ModelRef, int] = field(factory=dict[ModelRef, int])
    times_ns: dict[ModelRef, dict[int, int]] = field(factory=dict[ModelRef, "dict[int, int]"])
    max_batch: dict[ModelRef, int] = field(factory=dict[ModelRef, int])
    outputs: list[Block] = field(factory=list[Block])
    sent: list[Sent] = field(factory=list["Sent"])
    memory_bytes: dict[ModelRef, int] = field(factory=dict[ModelRef, int])
    load_ns: dict[ModelRef, int] = field(factory=dict[ModelRef, int])
    urgent: set[ModelRef] = field(factory=set[ModelRef])
    budget_bytes: int = 0
    resident: tuple[ModelRef, ...] = ()
    remarks: list[str] = field(factory=list[str])

    @property
    def abandoned(self) -> int:
        """Rows that it may still execute for nobody."""
        return sum(len(sent.tickets) for sent in self.sent if sent.abandoned)


@define(eq=False)
class Fleet:
    """See the module's docstring.

    Args:
        slots: The models of each worker slot; a position is a model's number on its channel.
    """

    catalog: Catalog
    memory: Memory
    metrics: Metrics
    ledger: Ledger
    slots: dict[str, list[ModelRef]]
    _pages: dict[str, list[int]] = field(
        default=Factory(
            lambda self: {slot: [page] for page, slot in enumerate(self.slots)}, takes_self=True
        ),
        init=False,
    )  # of the ledger, that each slot's processes count in; the present one is the last
    _promised: dict[str, list[Block]] = field(factory=dict[str, "list[Block]"], init=False)
    _claimed: dict[int, int] = field(factory=dict[int, int], init=False)
    _hosts: dict[WorkerRef, Host] = field(factory=dict[WorkerRef, Host], init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=lambda: structlog.get_logger("fleet"), init=False
    )

    # ------------------------------------------------------------------------- the pool's events

    def on_pool_event(self, event: PoolEvent) -> list[Event]:
        """Take in an event (other than a finished batch); return it as the scheduler's."""
        worker = event.worker
        if worker not in self._hosts and not isinstance(event, WorkerDown):
            slot = worker.slot
            outputs = self._promised.pop(slot, [])
            self._hosts[worker] = Host(self.slots[slot], self._pages[slot][-1], outputs=outputs)
        if isinstance(event, ModelLoaded):
            self._model_loaded(event, self._hosts[worker])
        elif isinstance(event, ModelFailed):
            self._model_failed(event, self._hosts[worker])
        elif isinstance(event, WorkerUp):
            return [self._worker_up(event)]
        elif isinstance(event, WorkerDown):
            return [self._worker_down(event)]
        return []

    def succeed(self, slot: str, models: list[ModelRef], page: int, outputs: list[Block]) -> None:
        """From now on a slot's workers host these models, and count in that ledger.

        Args:
            outputs: Where the next one writes, as `output_blocks` gave them; empty: it hosts none.
        """
        self.slots[slot] = models
        self._promised[slot] = outputs
        pages = self._pages[slot]
        self._pages[slot] = [*(each for each in pages if each != page), page]

    def output_bytes(self, specs: Iterable[ModelSpec]) -> int:
        """Return what a worker that hosts such models needs in the arena."""
        return 2 * max([spec.max_batch * spec.output_bytes_per_row for spec in specs], default=0)

    def _served(self, ref: ModelRef) -> Served | None:
        """Return a model as the doors see it, if that is its version now."""
        served = self.catalog.models.get(ref.name)
        return served if served is not None and served.version == ref.version else None

    def _model_failed(self, event: ModelFailed, host: Host) -> None:
        ref = host.models[event.model]
        served = self._served(ref)
        if served is not None:
            served.error = event.message
        self._log.error(
            "model failed to load", model=ref.name, worker=event.worker.slot, error=event.message
        )

    def _model_loaded(self, event: ModelLoaded, host: Host) -> None:
        ref, spec = host.models[event.model], event.spec
        host.memory_bytes[ref] = event.memory_bytes
        host.load_ns[ref] = min(event.load_ns, LONGEST_NS)
        if event.is_urgent:
            host.urgent.add(ref)
        if event.without_graphs:
            host.remarks.append(f"{ref.name} runs without CUDA graphs: {event.without_graphs}")
        if event.images_on_cpu:
            host.remarks.append(
                f"images for {ref.name} are preprocessed on the CPU: {event.images_on_cpu}"
            )
        served = self._served(ref)
        if served is None:
            return
        needed = spec.max_batch * spec.output_bytes_per_row
        if not host.outputs or host.outputs[0].bytes < needed:
            smaller = host.outputs[0].bytes if host.outputs else 0
            for block in host.outputs:  # first, or there would have to be room for both
                self.memory.arena.allocator.free(block)
            host.outputs = self.output_blocks(needed)
            if not host.outputs:
                host.outputs = self.output_blocks(smaller) if smaller else []
                served.error = (
                    f"the arena has no room for twice {needed} bytes of outputs "
                    f"(max_batch x output bytes of a row); raise arena.bytes"
                )
                return
        host.indices[ref] = event.model
        host.times_ns[ref] = dict(event.times_ns)
        host.max_batch[ref] = spec.max_batch
        served.spec = spec
        served.error = ""

    def output_blocks(self, size: int) -> list[Block]:
        """Return two blocks for the outputs of a worker; none if there is no room for both."""
        allocator = self.memory.arena.allocator
        first = allocator.allocate(size)
        second = allocator.allocate(size) if first is not None else None
        if first is None or second is None:
            if first is not None:
                allocator.free(first)
            return []
        return [first, second]

    def _worker_up(self, event: WorkerUp) -> WorkerReady:
        worker, host = event.worker, self._hosts[event.worker]
        host.budget_bytes = event.budget_bytes
        host.resident = tuple(host.models[index] for index in event.resident)
        if event.unpinned:
            host.remarks.append(UNPINNED)
        for ref in host.indices:
            served = self._served(ref)
            if served is not None:
                served.workers.add(worker)
        self._log.info("worker ready", worker=worker.slot, models=[m.name for m in host.indices])
        memory = None
        if host.budget_bytes:
            memory = WorkerMemory(host.budget_bytes, host.memory_bytes, host.load_ns, host.resident)
        urgent = frozenset(host.urgent)
        return WorkerReady(worker, host.times_ns, host.max_batch, memory, urgent)

    def _worker_down(self, event: WorkerDown) -> WorkerLost:
        host = self._hosts.pop(event.worker, None)
        for served in self.catalog.models.values():
            served.workers.discard(event.worker)
        if host is not None:
            for sent in host.sent:
                self._release(sent)
            for block in host.outputs:
                self.memory.arena.allocator.free(block)
            self._claim(host.page, ABANDONED if host.abandoned else "worker_lost")
        if event.cause == STOPPED:
            self._log.info("worker stopped", worker=event.worker.slot)
        else:
            # Numbers out, so that a cause is a label and not a story.
            self.metrics.count("worker_restarts", re.sub(r"[0-9.]+", "N", event.cause))
            self._log.warning("worker down", worker=event.worker.slot, cause=event.cause)
        return WorkerLost(event.worker)

    def rows(self, slot: str) -> npt.NDArray[np.uint64]:
        """Return a slot's rows by `STARTED | FINISHED | FAILED`, uint64[3]."""
        arena = self.memory.arena
        return np.concatenate([arena.ledger(page) for page in self._pages[slot]]).sum(axis=0)

    def worker_memory(self, slot: str, generation: int) -> WorkerMemory:
        """Return what a worker has in memory; of one that is not up, nothing."""
        host = self._hosts.get(WorkerRef(slot, generation)) or Host([], 0)
        return WorkerMemory(host.budget_bytes, host.memory_bytes, host.load_ns, host.resident)

    def remarks(self, slot: str, generation: int) -> list[str]:
        """Return what makes a worker's batches slower than they could be; each in words."""
        host = self._hosts.get(WorkerRef(slot, generation))
        return [] if host is None else [*host.remarks]

    def model_memory(self, name: str, version: str) -> tuple[list[str], int]:
        """Return the slots that have a model in memory, and what it takes at most."""
        model = ModelRef(name, version)
        hosts = [(ref, host) for ref, host in self._hosts.items() if model in host.memory_bytes]
        resident = sorted({ref.slot for ref, host in hosts if model in host.resident})
        return resident, max((host.memory_bytes[model] for _, host in hosts), default=0)

    def rows_finished(self) -> int:
        """Return how many rows the engines finished, by their own count."""
        return sum(self._finished(page) for pages in self._pages.values() for page in pages)

    def _finished(self, page: int) -> int:
        return int(self.memory.arena.ledger(page)[:, FINISHED].sum())

    def rows_abandoned(self) -> int:
        """Return how many rows may still be finished for nobody."""
        return sum(host.abandoned for host in self._hosts.values())

    def _claim(self, page: int, cause: str) -> None:
        """A worker is gone: what it finished and could not report any more was for nothing."""
        finished = self._finished(page)
        self.ledger.rows_wasted(cause, finished - self._claimed.get(page, 0))
        self._claimed[page] = finished

    # ----------------------------------------------------------------------------- batches

    def stage_message(self, batch: Batch, tickets: list[Ticket], *, go: bool) -> worker_pb2.Stage:
        """Describe a batch to its worker; its rows are held until `release`."""
        host = self._hosts[batch.worker]
        outputs = _free_outputs(host)
        assert outputs is not None
        message = worker_pb2.Stage()  # filled in place: half the time of keyword arguments
        message.batch_id = batch.id
        message.model = host.indices[batch.lane.model]
        message.output_offset = outputs.offset
        message.output_bytes = outputs.bytes
        message.go = go
        message.latest_start_ns = batch.latest_start_ns
        states: list[State] = []
        rows: list[bytes] = []
        for ticket in tickets:
            row = ticket.row
            if ticket.state_key is not None:
                state = self.memory.states.start(ticket.state_key, ticket)
                row += _state_part(state, ticket.state_out)
                if state is not None:
                    states.append(state)
            rows.append(row)
        message.MergeFromString(encode_rows(rows))
        self.memory.hold(tickets)
        host.sent.append(Sent(batch.id, tickets, states, outputs))
        return message

    def has_room(self, worker: WorkerRef) -> bool:
        """Return whether outputs of another batch can be written by now."""
        return _free_outputs(self._hosts[worker]) is not None

    def revoked(self, batch: Batch) -> None:
        """A batch that was sent will not be executed."""
        host = self._hosts.get(batch.worker)
        for sent in host.sent if host else ():
            if sent.batch_id == batch.id:
                sent.revoked = True

    def abandon(self) -> None:
        """All requests have ended: what still runs is for nobody."""
        for host in self._hosts.values():
            for sent in host.sent:
                sent.abandoned = not sent.revoked

    def batch_finished(self, worker: WorkerRef, done: worker_pb2.Done) -> tuple[ModelRef, ...]:
        """Count an executed batch; return what is in its worker's memory if that has changed."""
        host = self._hosts.get(worker)
        if host is None:
            return ()
        resident: tuple[ModelRef, ...] = ()
        if done.load_ns:
            resident = tuple(host.models[index] for index in done.resident)
            self._count_loads(host, resident)
        if not (done.error or done.skipped):
            self._count_rows(host, done)
        return resident

    def _count_loads(self, host: Host, resident: tuple[ModelRef, ...]) -> None:
        for ref in resident:
            if ref not in host.resident:
                self.metrics.count("model_loads", ref.name)
        for ref in host.resident:
            if ref not in resident:
                self.metrics.count("model_evictions", ref.name)
        host.resident = resident

    def _count_rows(self, host: Host, done: worker_pb2.Done) -> None:
        for sent in host.sent:
            if sent.batch_id == done.batch_id:
                rows = len(sent.tickets) - len(done.row_errors)
                model = sent.tickets[0].observation.model_id
                self.metrics.recorder(model).record_batch(rows)
                self._claimed[host.page] = self._claimed.get(host.page, 0) + rows
                if sent.abandoned:
                    self.ledger.rows_wasted(ABANDONED, rows)

    def release(self, worker: WorkerRef, batch_id: int) -> None:
        """Let go of the rows of a finished batch, and of the batches revoked before it.

        A worker takes messages in order: when it has finished a batch, it has left alone what was
        sent and revoked earlier. What was sent earlier may still run.
        """
        host = self._hosts.get(worker)
        if host is None:
            return
        over = [
            sent
            for sent in host.sent
            if sent.batch_id == batch_id or (sent.revoked and sent.batch_id < batch_id)
        ]
        for sent in over:
            host.sent.remove(sent)
            self._release(sent)

    def _release(self, sent: Sent) -> None:
        self.memory.release(sent.tickets)
        for state in sent.states:
            self.memory.states.release(state)


def _free_outputs(host: Host) -> Block | None:
    taken = [sent.outputs for sent in host.sent if not sent.revoked]
    return next((block for block in host.outputs if block not in taken), None)


def _state_part(state: State | None, state_out: list[Block]) -> bytes:
    """Say where the state of an episode lies by now, and where the new one goes."""
    row = worker_pb2.Row()
    for block in state.blocks if state else ():
        row.state_in.add(offset=block.offset, length=block.bytes)
    for block in state_out:
        row.state_out.add(offset=block.offset, length=block.bytes)
    return row.SerializeToString()
