"""The witness: takes down, on the event loop, what the recordings that run want to have.

It makes one tuple for each message, outcome and batch, and hands it to each sink; everything else
is done later, elsewhere. What it costs is in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from attrs import define, field

from appliance.dispatch.results import MICROSECOND_NS, BatchResult
from appliance.dispatch.ticket import Reply, Ticket
from appliance.errors import MISSES, Outcome
from appliance.recording.buffers import Record, Sink
from appliance.recording.messages import Topic, parse, without_images
from appliance.scheduling.events import Answer, Batch, WorkerRef
from appliance.wire.answers import encode_headers
from appliance.wire.pb import recording_pb2
from appliance.wire.types import Tensor
from appliance.workers.arena import Arena
from appliance.workers.events import (
    STOPPED,
    BatchFinished,
    ModelFailed,
    ModelLoaded,
    PoolEvent,
    WorkerDown,
    WorkerUp,
)

RECORD_BYTES = 1024
"""What a record counts for beside its envelope and its tensors: about what its tuple takes."""

LARGE_BYTES = 8192
"""A larger payload is held in the network's own memory, so its images are left out at once."""

LARGEST_OUTPUT_BYTES = 64 * 1024
"""Larger outputs are left out: nothing larger is copied twice on the event loop."""

_OBSERVATIONS, _OUTCOMES = int(Topic.OBSERVATIONS), int(Topic.OUTCOMES)  # members are slow to find
_BATCHES, _WORKERS = int(Topic.BATCHES), int(Topic.WORKERS)
_OK = int(Outcome.OK)
_EVENTS = recording_pb2.Worker


def _nothing(_now_ns: int) -> None:
    """Do as asked by nobody."""


@define(eq=False)
class Capture:
    """See the module's docstring. It is a `dispatch.witness.Witness`.

    Attributes:
        sinks: Where records go.
        on_miss, on_worker_lost: Called with the time when one of `MISSES` has occurred; when a
            worker's process has ended that nobody had asked to.
    """

    sinks: list[Sink] = field(factory=list["Sink"], init=False)
    on_miss: Callable[[int], None] = field(default=_nothing)
    on_worker_lost: Callable[[int], None] = field(default=_nothing)
    _open: dict[int, tuple[Batch, int]] = field(factory=dict[int, "tuple[Batch, int]"], init=False)
    _headers: tuple[tuple[Tensor, ...], bytes] = field(default=((), b""), init=False)

    def _put(self, record: Record) -> None:
        for sink in self.sinks:
            sink.put(record)

    # ------------------------------------------------------------------------------ requests

    def arrived(
        self, session: bytes, envelope: bytes, payload: bytes | memoryview, now_ns: int
    ) -> None:
        """Keep a message: by reference, for what is large is never copied here."""
        length = len(payload)
        size = RECORD_BYTES + len(envelope) + length
        whole = _OBSERVATIONS, now_ns, size, (session, envelope, payload, length, ())
        slim: Record | None = None
        for sink in self.sinks:
            if sink.images or length < LARGE_BYTES:
                sink.put(whole)
                continue
            if slim is None:
                kept, omitted = without_images(parse(envelope), payload)
                size = RECORD_BYTES + len(envelope) + len(kept)
                slim = _OBSERVATIONS, now_ns, size, (session, envelope, kept, length, omitted)
            sink.put(slim)

    def ended(self, ticket: Ticket, reply: Reply, outcome: Outcome, now_ns: int) -> None:
        """Note how a request ended that took the slow path, or was refused."""
        answer, timing = reply.answer, reply.timing
        batch_id = row = 0
        headers = payload = b""
        omitted = False
        if answer is not None and answer.batch is not None:
            batch_id, row = answer.batch.id, answer.row
        if reply.parts:
            headers = self._encoded(reply.tensors)
            omitted = sum(map(len, reply.parts)) > LARGEST_OUTPUT_BYTES
            payload = b"" if omitted else b"".join(reply.parts)
        self._outcome(
            now_ns,
            ticket,
            (int(outcome), reply.message, reply.late, reply.slack_us, batch_id, row, omitted),
            (
                timing.queue_us,
                timing.batch_us,
                timing.execute_us,
                timing.total_us,
                timing.batch_size,
            ),
            headers,
            payload,
        )
        if outcome in MISSES:
            self.on_miss(now_ns)

    def _encoded(self, tensors: tuple[Tensor, ...]) -> bytes:
        if self._headers[0] is not tensors:  # replies of one batch share them
            self._headers = (tensors, encode_headers(tensors))
        return self._headers[1]

    def answered(
        self, answers: Sequence[Answer], result: BatchResult, arena: Arena, now_ns: int
    ) -> None:
        """Note answers of the fast path, and copy their outputs."""
        batch = answers[0].batch
        assert batch is not None
        assert result.headers is not None
        headers, spans, memory = result.headers.encoded, result.spans(), arena.memory
        omitted = sum(length for _, length in spans) > LARGEST_OUTPUT_BYTES
        batch_us, execute_us = result.batch_us, result.execute_us
        started_ns, batch_id, size = batch.started_ns, batch.id, len(batch.requests)
        for answer in answers:
            request, row = answer.request, answer.row
            ticket: Ticket = request.payload
            received_ns = ticket.received_ns
            payload = b""
            if not omitted:
                payload = b"".join(
                    [memory[at + row * length : at + row * length + length] for at, length in spans]
                )
            slack_us = (request.deadline_ns - now_ns) // MICROSECOND_NS
            self._outcome(
                now_ns,
                ticket,
                (_OK, "", answer.late, slack_us, batch_id, row, omitted),
                (
                    (started_ns - received_ns) // MICROSECOND_NS,
                    batch_us,
                    execute_us,
                    (now_ns - received_ns) // MICROSECOND_NS,
                    size,
                ),
                headers,
                payload,
            )

    def _outcome(
        self,
        now_ns: int,
        ticket: Ticket,
        ended: tuple[Any, ...],
        timing: tuple[int, int, int, int, int],
        headers: bytes,
        payload: bytes,
    ) -> None:
        observation, spec = ticket.observation, ticket.spec
        about = (
            _session(ticket.session),
            ticket.client,
            observation.model_id,
            "" if spec is None else spec.version,
            observation.sequence,
            observation.timestamp_ns,
            observation.episode,
            ticket.received_ns,
        )
        size = RECORD_BYTES + len(payload)
        self._put((_OUTCOMES, now_ns, size, (about, ended, timing, headers, payload)))

    # ----------------------------------------------------------------------- batches, workers

    def staged(self, batch: Batch, now_ns: int) -> None:
        """Remember when a batch was sent."""
        self._open[batch.id] = (batch, now_ns)

    def revoked(self, batch: Batch, now_ns: int) -> None:
        """Note a batch that came to nothing."""
        self._end_batch(batch.id, now_ns, recording_pb2.Batch.REVOKED)

    def reported(self, event: PoolEvent, result: BatchResult | None, now_ns: int) -> None:
        """Note what became of a batch or a worker."""
        worker = event.worker
        if isinstance(event, BatchFinished):
            done = event.done
            if done.skipped:
                self._end_batch(done.batch_id, now_ns, recording_pb2.Batch.REVOKED)
                return
            self._end_batch(
                done.batch_id,
                now_ns,
                recording_pb2.Batch.FINISHED,
                result,
                len(done.row_errors),
                done.error,
            )
        elif isinstance(event, ModelLoaded):
            self._worker(now_ns, worker, _EVENTS.MODEL_LOADED, event.spec.model_id)
        elif isinstance(event, ModelFailed):
            self._worker(now_ns, worker, _EVENTS.MODEL_FAILED, message=event.message)
        elif isinstance(event, WorkerUp):
            self._worker(now_ns, worker, _EVENTS.UP)
        else:
            self._worker_down(event, now_ns)

    def _worker_down(self, event: WorkerDown, now_ns: int) -> None:
        lost = [number for number, (batch, _) in self._open.items() if batch.worker == event.worker]
        for number in lost:
            self._end_batch(number, now_ns, recording_pb2.Batch.LOST)
        self._worker(now_ns, event.worker, _EVENTS.DOWN, message=event.cause)
        if event.cause != STOPPED:
            self.on_worker_lost(now_ns)

    def _end_batch(
        self,
        number: int,
        now_ns: int,
        end: int,
        result: BatchResult | None = None,
        failed: int = 0,
        error: str = "",
    ) -> None:
        batch, staged_ns = self._open.pop(number, (None, 0))
        if batch is None:
            return  # it was staged before anybody looked
        model, worker = batch.lane.model, batch.worker
        about = (
            number,
            model.name,
            model.version,
            worker.slot,
            worker.generation,
            len(batch.requests),
            batch.expected_ns,
        )
        times = (staged_ns, batch.started_ns, 0, 0, 0)
        if result is not None:
            own = result.finished_ns, result.batch_us, result.execute_us
            times = (staged_ns, batch.started_ns, *own)
        self._put((_BATCHES, now_ns, RECORD_BYTES, (about, end, times, failed, error)))

    def _worker(
        self, now_ns: int, worker: WorkerRef, event: int, model: str = "", message: str = ""
    ) -> None:
        fields = (worker.slot, worker.generation, event, model, message)
        self._put((_WORKERS, now_ns, RECORD_BYTES + len(message), fields))

    def forget(self) -> None:
        """Nobody looks any more: what is open now will not be followed to its end."""
        self._open.clear()


def _session(session: Hashable) -> bytes:
    return session if isinstance(session, bytes) else str(session).encode()
