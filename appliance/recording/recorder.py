"""The recordings that run: one task each, and the ring. Each file is written by a process.

A recording keeps at most BACKLOG_BYTES that
are not written yet; what comes too fast is dropped and counted, and the file says so. As long as
nobody records, there is no witness, and the hot path does nothing for it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import structlog
import trio
from attrs import define, field

from appliance.config import Recording as RecordingConfig
from appliance.dispatch.endings import Endings
from appliance.errors import RecordingError
from appliance.recording.buffers import Backlog, Ring, Sink
from appliance.recording.capture import Capture
from appliance.recording.flight import FlightRecorder
from appliance.recording.messages import Topic
from appliance.recording.orders import Order, Recording, RecordingDocument
from appliance.recording.writer import Writer

SECOND_NS = 1_000_000_000
MOST_AT_ONCE = 4
REMEMBERED = 32
"""Recordings that are over and can still be asked about."""
BACKLOG_BYTES = 64 << 20
FLUSH_BYTES = BACKLOG_BYTES // 4
FLUSH_NS = SECOND_NS
"""Writing disturbs whoever is served at that moment, so it is seldom: after so long, or so much."""
LOOK_S = 0.1
AFTERMATH_S = 1.0
"""What follows a trigger or an incident and is still in its file."""
FINISH_S = 5.0
"""How long the files may take to be finished when the appliance stops."""
TRIGGER_S = 10.0
"""How far back a triggered recording reaches, unless it is told."""


@define(eq=False)
class Recorder:
    """See the module's docstring.

    Args:
        about: What the files say of this appliance.
        clock: Monotonic nanoseconds.

    Attributes:
        problem: Why the last incident could not be written; empty if it was.
    """

    config: RecordingConfig
    endings: Endings
    about: Callable[[], dict[str, str]]
    clock: Callable[[], int] = time.monotonic_ns
    problem: str = field(default="", init=False)
    _capture: Capture = field(factory=Capture, init=False)
    _flight: FlightRecorder | None = field(default=None, init=False)
    _numbers: count[int] = field(factory=lambda: count(1), init=False)
    _recordings: dict[int, Recording] = field(factory=dict[int, Recording], init=False)
    _stops: dict[int, trio.Event] = field(factory=dict[int, trio.Event], init=False)
    _missed: trio.Event = field(factory=trio.Event, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _incidents: int = field(default=0, init=False)
    _closing: trio.Event = field(factory=trio.Event, init=False)
    _one_is_over: trio.Event = field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._capture.on_miss = self._on_miss
        self._capture.on_worker_lost = self._on_worker_lost
        if self.config.directory:
            self._flight = FlightRecorder(self.config)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the ring, and run what is asked for, until cancelled.

        Raises:
            ConfigError: The ring's directory cannot be used.
        """
        if self._flight is not None:
            self._flight.prepare()
            self._attach(self._flight.ring)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def close(self) -> None:
        """End all recordings, and those of incidents, within FINISH_S."""
        self._closing.set()
        with trio.move_on_after(FINISH_S):
            for stop in self._stops.values():
                stop.set()
            while self._stops or self._incidents:
                self._one_is_over = trio.Event()
                await self._one_is_over.wait()

    async def _aftermath(self) -> None:
        """Wait for what follows an incident, unless the appliance stops."""
        with trio.move_on_after(AFTERMATH_S):
            await self._closing.wait()

    # ------------------------------------------------------------------------------- asking

    async def start(self, document: Mapping[str, Any]) -> RecordingDocument:
        """Begin what is asked for (see `Order`).

        Raises:
            RecordingError: It cannot be done; says why.
        """
        order = Order.read(document)
        if self._nursery is None:
            raise RecordingError("the appliance is not up yet")
        if len(self._stops) >= MOST_AT_ONCE:
            raise RecordingError(f"{MOST_AT_ONCE} recordings run already; stop one of them")
        running = [self._recordings[number].order.path for number in self._stops]
        if order.path in running:
            raise RecordingError(f"{order.path}: is being recorded already")
        now_ns = self.clock()
        recording = Recording(next(self._numbers), order, now_ns, now_ns)
        self._remember(recording)
        writer = self._writer(Path(order.path), images=order.images)
        try:
            await writer.open(self.about())
        except BaseException:
            self._forget(recording)
            await writer.close()
            raise
        recording.started_ns = self.clock()
        if order.trigger:
            span_ns = round((order.seconds or TRIGGER_S) * SECOND_NS)
            ring = Ring(span_ns, BACKLOG_BYTES, images=order.images)
            recording.state = "waiting"
            self._attach(ring)
            self._nursery.start_soon(self._run, recording, writer, self._triggered, ring)
        else:
            backlog = Backlog(BACKLOG_BYTES, images=order.images)
            recording.state = "recording"
            self._attach(backlog)
            self._nursery.start_soon(self._run, recording, writer, self._streamed, backlog)
        return recording.document(recording.started_ns)

    def documents(self) -> list[RecordingDocument]:
        """Return all that is known."""
        now_ns = self.clock()
        return [recording.document(now_ns) for recording in self._recordings.values()]

    def renew(self, document: Mapping[str, Any]) -> RecordingDocument:
        """Return the recording whose `id` is given, and keep it up if it has a lease.

        Raises:
            RecordingError: There is none.
        """
        recording = self._named(document)
        recording.asked_ns = self.clock()
        return recording.document(recording.asked_ns)

    def _named(self, document: Mapping[str, Any]) -> Recording:
        number = document.get("id")
        recording = self._recordings.get(number) if isinstance(number, int) else None
        if recording is None:
            raise RecordingError(f"there is no recording {number!a}, or none any more")
        return recording

    def stop(self, document: Mapping[str, Any]) -> RecordingDocument:
        """End the recording whose `id` is given.

        Raises:
            RecordingError: There is none.
        """
        recording = self._named(document)
        if recording.id in self._stops:
            self._stops[recording.id].set()
        return recording.document(self.clock())

    def _remember(self, recording: Recording) -> None:
        over = [each.id for each in self._recordings.values() if each.is_over]
        for number in over[: max(0, len(self._recordings) - REMEMBERED + 1)]:
            del self._recordings[number]
        self._recordings[recording.id] = recording
        self._stops[recording.id] = trio.Event()

    def _forget(self, recording: Recording) -> None:
        del self._recordings[recording.id], self._stops[recording.id]

    # ----------------------------------------------------------------------------- recording

    async def _run(self, recording: Recording, writer: Writer, task: Any, sink: Sink) -> None:
        log = structlog.get_logger("recording")
        log.info("recording", path=recording.order.path)
        try:
            await task(recording, writer, sink)
            recording.state = "done"
            log.info("recorded", path=recording.order.path, messages=recording.messages)
        except RecordingError as error:
            recording.state, recording.error = "failed", str(error)
            log.error("recording failed", error=str(error))  # noqa: TRY400  it says all
        except Exception as error:  # noqa: BLE001  a fault of ours here is not the robots' affair
            recording.state, recording.error = "failed", f"{type(error).__name__}: {error}"
            log.error("recording failed", exception=traceback.format_exc())  # noqa: TRY400
        finally:
            recording.ended_ns = self.clock()
            recording.messages, recording.bytes = writer.messages, writer.bytes
            del self._stops[recording.id]
            self._one_is_over.set()
            await writer.close()

    async def _streamed(self, recording: Recording, writer: Writer, backlog: Backlog) -> None:
        """Write what comes until it is enough."""
        stop = self._stops[recording.id]
        flushed_ns = recording.started_ns
        try:
            while not self._is_enough(recording):
                with trio.move_on_after(LOOK_S):
                    await stop.wait()
                is_much = backlog.bytes >= FLUSH_BYTES or (
                    0 < recording.order.bytes <= recording.bytes + backlog.bytes
                )
                if is_much or self.clock() - flushed_ns >= FLUSH_NS:
                    await self._flush(recording, writer, backlog)
                    flushed_ns = self.clock()
        finally:
            self._detach(backlog)
        await self._flush(recording, writer, backlog)
        await writer.finish(_totals(recording))

    def _is_enough(self, recording: Recording) -> bool:
        order, now_ns = recording.order, self.clock()
        if self._stops[recording.id].is_set():
            return True
        if order.lease_s and now_ns - recording.asked_ns >= order.lease_s * SECOND_NS:
            return True
        if order.trigger:  # its seconds reach back
            return False
        if order.seconds and now_ns - recording.started_ns >= order.seconds * SECOND_NS:
            return True
        return 0 < order.bytes <= recording.bytes

    async def _flush(self, recording: Recording, writer: Writer, backlog: Backlog) -> None:
        records = backlog.take()
        before, recording.dropped = recording.dropped, backlog.dropped
        messages, lost = (now - then for now, then in zip(backlog.dropped, before, strict=True))
        if messages:
            records.append((int(Topic.DROPPED), self.clock(), 0, (messages, lost)))
        if records:
            await writer.write(records)
        backlog.written(records)
        recording.messages, recording.bytes = writer.messages, writer.bytes

    async def _triggered(self, recording: Recording, writer: Writer, ring: Ring) -> None:
        """Keep the last seconds in memory; write them when something has gone wrong."""
        try:
            missed = await self._wait_for_miss(recording)
            if missed:
                await self._aftermath()
            records = ring.recent(self.clock())
        finally:
            self._detach(ring)
        if not missed:
            await writer.discard()
            raise RecordingError(f"{recording.order.path}: stopped before its trigger occurred")
        recording.state = "writing"
        await writer.write(records)
        await writer.finish(_totals(recording))

    async def _wait_for_miss(self, recording: Recording) -> bool:
        missed = self._missed
        while not missed.is_set():
            if self._is_enough(recording):
                return False
            with trio.move_on_after(LOOK_S):
                await missed.wait()
        return True

    # ----------------------------------------------------------------------------- incidents

    def _on_miss(self, now_ns: int) -> None:
        self._missed.set()
        self._missed = trio.Event()
        if self._flight is not None and self._flight.policy.missed(now_ns):
            self._incident(self._flight, "misses")

    def _on_worker_lost(self, now_ns: int) -> None:
        if self._flight is not None and self._flight.policy.lost(now_ns):
            self._incident(self._flight, "worker-lost")

    def _incident(self, flight: FlightRecorder, why: str) -> None:
        if self._nursery is not None:
            self._incidents += 1
            self._nursery.start_soon(self._write_incident, flight, why)

    async def _write_incident(self, flight: FlightRecorder, why: str) -> None:
        log = structlog.get_logger("recording")
        await self._aftermath()
        records = flight.ring.recent(self.clock())
        writer = self._writer(flight.path(why), images=self.config.images)
        needed = sum(record[2] for record in records)
        try:
            about = {**self.about(), "incident": why}
            await writer.open(about, room=(self.config.total_bytes, needed))
            await writer.write(records)
            await writer.finish({})
            self.problem = ""
            log.warning("incident recorded", path=str(writer.path), cause=why)
        except RecordingError as error:
            self.problem = f"an incident was not recorded: {error}"
            log.error("incident not recorded", cause=why, error=str(error))  # noqa: TRY400
        except Exception as error:  # noqa: BLE001  as above
            self.problem = f"an incident was not recorded: {type(error).__name__}: {error}"
            log.error("incident not recorded", cause=why, exception=traceback.format_exc())  # noqa: TRY400
        finally:
            self._incidents -= 1
            self._one_is_over.set()
            await writer.close()

    # -------------------------------------------------------------------------------- common

    def _attach(self, sink: Sink) -> None:
        self._capture.sinks.append(sink)
        self.endings.witness = self._capture

    def _detach(self, sink: Sink) -> None:
        self._capture.sinks.remove(sink)
        if not self._capture.sinks:
            self.endings.witness = None
            self._capture.forget()

    def _writer(self, path: Path, *, images: bool) -> Writer:
        return Writer(path, images=images, wall_offset_ns=time.time_ns() - self.clock())


def _totals(recording: Recording) -> dict[str, str]:
    messages, lost = recording.dropped
    return {"dropped_messages": str(messages), "dropped_bytes": str(lost)}
