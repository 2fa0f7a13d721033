"""A whole core without worker processes: bytes in, staged batches out, results in, bytes out.

Everything between the door's socket and the pool is real; the clock is set by hand, and the test
plays the workers. Two cores that are told the same must do the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import attrs
import zmq
from zmq.utils.monitor import parse_monitor_message

from appliance.admission.admission import Admission
from appliance.admission.catalog import Catalog, Served
from appliance.config import Config
from appliance.dispatch.access_log import AccessLog
from appliance.dispatch.dispatcher import Dispatcher
from appliance.dispatch.endings import Endings
from appliance.dispatch.fleet import Fleet
from appliance.dispatch.intake import Intake
from appliance.dispatch.memory import Memory
from appliance.dispatch.timeline import Excerpt, Position
from appliance.io.notify import Notifier
from appliance.keys.files import ClientKeys
from appliance.metrics.histogram import Histogram
from appliance.metrics.ledger import Ledger
from appliance.metrics.registry import Metrics
from appliance.scheduling import Scheduler
from appliance.scheduling.events import Arrived, Event, ModelRef, Request, WorkerRef
from appliance.sessions.door import ZmqDoor
from appliance.sessions.gate import Gate
from appliance.sessions.replies import Replies
from appliance.structure import structure
from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Kind, Observation, Response
from appliance.workers.arena import Arena
from appliance.workers.events import BatchFinished, ModelLoaded, WorkerUp

WORKER = WorkerRef("cpu-0", 1)
PATIENCE_MS = 5000
MS = 1_000_000
SECOND_NS = 1000 * MS


class Pool:
    """Takes down what a worker is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def stage(self, worker: WorkerRef, message: worker_pb2.Stage) -> None:
        self.told.append(message)

    def go(self, worker: WorkerRef, batch_id: int, latest_start_ns: int) -> None:
        self.told.append(worker_pb2.Go(batch_id=batch_id, latest_start_ns=latest_start_ns))

    def revoke(self, worker: WorkerRef, batch_id: int) -> None:
        self.told.append(worker_pb2.Revoke(batch_id=batch_id))


class Spy:
    """Stands before the dispatcher and takes down what is posted, as it was then."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.turn = dispatcher.turn
        self.posted: list[Any] = []
        self._post = dispatcher.post

    def post(self, event: Event) -> None:
        self.posted.append(_seen(event.request) if isinstance(event, Arrived) else event)
        self._post(event)


def _seen(request: Request) -> dict[str, Any]:
    """Return all that is to be known of a request and its ticket, but whom they belong to."""
    ticket = request.payload
    seen = {a.name: getattr(request, a.name) for a in attrs.fields(Request) if a.name != "payload"}
    for attribute in attrs.fields(type(ticket)):
        if attribute.name not in {"door", "route", "prefix"}:
            seen[f"ticket.{attribute.name}"] = getattr(ticket, attribute.name)
    return {**seen, "types": {name: type(value) for name, value in seen.items()}}


def _counted(histogram: Histogram) -> tuple[dict[int, int], int, int, int]:
    counts = {bucket: count for bucket, count in enumerate(histogram.counts) if count}
    return counts, histogram.total, histogram.max, histogram.clamped


class Core:
    """One core, with a worker that has `spec` loaded."""

    def __init__(
        self,
        address: str,
        spec: ModelSpec,
        document: dict[str, Any] | None = None,
        *,
        fast_path: bool = True,
        row_ns: int = MS,
        arena_bytes: int = 1 << 22,
        gate: Gate | None = None,
    ) -> None:
        self.now_ns = SECOND_NS
        self.tick_ns = 0  # each look at the clock of the door takes so long
        self.pool = Pool()
        self.told: list[Any] = self.pool.told
        self._heard = 0
        self._disconnected = 0
        self._staged: dict[int, worker_pb2.Stage] = {}
        self.spec = spec
        self.catalog = Catalog({spec.model_id: Served(spec.model_id, spec.version)})
        self.metrics, self.ledger = Metrics(), Ledger()
        self.metrics.add_model(spec.model_id)
        self.ledger.add_model(spec.model_id)
        self.arena = Arena(arena_bytes, ledger_slots=1)
        memory = Memory(self.arena)
        ref = ModelRef(spec.model_id, spec.version)
        fleet = Fleet(self.catalog, memory, self.metrics, self.ledger, {WORKER.slot: [ref]})
        endings = Endings(self.ledger, self.metrics, memory, AccessLog(0))
        transport = {"bind": [address], "fast_path": fast_path}
        self.config = structure({**(document or {}), "transport": transport}, Config, "test")
        scheduler = Scheduler(
            self.config.scheduling.max_queue_size, self.config.scheduling.overflow_policy
        )
        self.dispatcher = Dispatcher(
            scheduler, fleet, endings, Notifier(), clock=lambda: self.now_ns
        )
        pool: Any = self.pool
        self.dispatcher.pool = pool
        self.admission = Admission(
            self.config, self.catalog, lambda *_: scheduler.planned_ns(ref, 1)
        )
        spy: Any = Spy(self.dispatcher)
        self.posted: list[Any] = spy.posted
        self.door = ZmqDoor(
            self.config.transport,
            Intake(self.admission, memory, endings, spy),
            Replies(self.catalog, "box", 7),
            gate,
            clock=self._clock,
        )
        self.dispatcher.answer_rows = self.door.answer_rows
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._robots: dict[bytes, zmq.Socket[bytes]] = {}
        (self.address,) = self.door.open()
        self.load(spec, row_ns)

    def _clock(self) -> int:
        self.now_ns += self.tick_ns
        return self.now_ns

    def load(self, spec: ModelSpec, row_ns: int = MS) -> None:
        """Let the worker say that it has loaded `spec` and is ready."""
        times_ns = {size: size * row_ns for size in (1, spec.max_batch)}
        self.dispatcher.on_pool_event(ModelLoaded(WORKER, 0, spec, times_ns))
        self.dispatcher.on_pool_event(WorkerUp(WORKER))

    # --------------------------------------------------------------------------- the robots

    def robot(self, name: bytes, keys: ClientKeys | None = None) -> zmq.Socket[bytes]:
        """Return the socket of a robot, connected the first time."""
        if name not in self._robots:
            socket = self._context.socket(zmq.DEALER)
            if keys is not None:
                socket.set(zmq.CURVE_SERVERKEY, keys.server_key.encode())
                socket.set(zmq.CURVE_PUBLICKEY, keys.public_key.encode())
                socket.set(zmq.CURVE_SECRETKEY, keys.secret_key.encode())
            socket.set(zmq.ROUTING_ID, name)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVTIMEO, PATIENCE_MS)
            socket.connect(self.address)
            self._robots[name] = socket
        return self._robots[name]

    def ask(self, name: bytes, *parts: bytes) -> None:
        """Let a robot send one message, and the door take it."""
        self.robot(name).send_multipart(parts)
        assert self.door._raw.poll(PATIENCE_MS), "nothing came"
        self.door._take_burst()

    def leave(self, name: bytes) -> None:
        """Let a robot go, and the door's socket notice."""
        before = self.disconnected()
        self._robots.pop(name).close()
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while self.disconnected() == before:
            assert time.monotonic() < deadline, "its leaving was not noticed"

    def disconnected(self) -> int:
        """Return how many connections have ended so far."""
        reports = self.door._monitor._reports._socket
        while reports.poll(1):
            event = parse_monitor_message(reports.recv_multipart())["event"]
            self._disconnected += event == zmq.EVENT_DISCONNECTED
        return self._disconnected

    def heard(self, name: bytes) -> list[tuple[Response, bytes]]:
        """Return what a robot was sent since; the last of it is the answer to a heartbeat."""
        beat = Observation(kind=Kind.HEARTBEAT, protocol_version=1, client_id="beat")
        self.ask(name, b"", encode_observation(beat), b"")
        heard: list[tuple[Response, bytes]] = []
        while not heard or heard[-1][0].kind is not Kind.HEARTBEAT:
            empty, envelope, payload = self.robot(name).recv_multipart()
            assert empty == b""
            heard.append((decode_response(envelope, len(payload)), payload))
        return heard

    # --------------------------------------------------------------------------- the worker

    def finish(self, took_us: int = 700, failed: Sequence[int] = ()) -> bool:
        """Let the worker execute what it was told to; return whether there was anything.

        Its output `y` repeats the first 16 bytes of each row's first input.
        """
        stage = self._next()
        if stage is None:
            return False
        done = worker_pb2.Done(
            batch_id=stage.batch_id,
            gather_ns=50_000,
            execute_started_ns=self.now_ns + 60_000,
            finished_ns=self.now_ns + took_us * 1000,
        )
        for index, row in enumerate(stage.rows):
            source = self.arena.view(row.feeds[0].offset, min(16, row.feeds[0].length))
            at = stage.output_offset + 16 * index
            self.arena.memory[at : at + 16] = bytes(source).ljust(16, b".")
        done.outputs.add(
            key="y",
            dtype=session_pb2.UINT8,
            row_shape=[16],
            offset=stage.output_offset,
            row_length=16,
        )
        for row in failed:
            done.row_errors.add(row=row, code=session_pb2.INVALID, message="bad row")
        self.now_ns += took_us * 1000 + 20_000
        self.dispatcher.on_pool_event(BatchFinished(WORKER, done))
        return True

    def _next(self) -> worker_pb2.Stage | None:
        """Return the first batch that was started and is not finished."""
        while self._heard < len(self.told):
            message = self.told[self._heard]
            self._heard += 1
            if isinstance(message, worker_pb2.Stage):
                self._staged[message.batch_id] = message
            if isinstance(message, worker_pb2.Go) or getattr(message, "go", False):
                return self._staged.pop(message.batch_id)
        return None

    def skip(self) -> None:
        """Let the worker come too late to what it was told to execute."""
        stage = self._next()
        assert stage is not None
        done = worker_pb2.Done(batch_id=stage.batch_id, finished_ns=self.now_ns, skipped=True)
        self.dispatcher.on_pool_event(BatchFinished(WORKER, done))

    # -------------------------------------------------------------------------------- asking

    @property
    def fast(self) -> int:
        """Observations that took the fast path so far."""
        return self.door._arrivals.fast if self.door._arrivals is not None else 0

    def books(self) -> dict[str, Any]:
        """Return everything that was counted."""
        sessions = [
            {
                a.name: getattr(session, a.name)
                for a in attrs.fields(type(session))
                if a.name not in {"forms", "unused_forms", "learns_ns"}
            }
            for session in self.door.table
        ]
        histograms = {
            f"{name} {each.name}": _counted(getattr(recorder, each.name))
            for name, recorder in self.metrics._recorders.items()
            for each in attrs.fields(type(recorder))[1:]
        }
        return {
            "sessions": sessions,
            **histograms,
            "ledger": [
                (name, count.asked, count.ended, count.late, count.outcomes())
                for name, count in (*self.ledger.models.items(), ("all", self.ledger.overall))
            ],
            "wasted": self.ledger.wasted,
            "lost": self.ledger.replies_lost,
            "arena": self.arena.allocator.statistics(),
            "timeline": self.timeline(),
        }

    def timeline(self) -> Excerpt:
        """Return all of the timeline."""
        timeline = self.dispatcher.endings.timeline
        return timeline.read(Position(), self.now_ns, batches=10_000, rows=10_000, endings=10_000)

    def close(self) -> None:
        for robot in self._robots.values():
            robot.close()
        self.door.close()
        self._context.term()
        self.door._context.term()
        self.dispatcher.close()
        self.arena.close()
