"""The worker process's one loop: load what it is told, then one batch after the other.

```
Hello -> (Load) -> Loading..., ModelReady | ModelFailed for each -> Ready
(Stage go) -> gather, execute -> Done         (Stage) -> gather; (Go) -> execute -> Done
(Revoke) -> forget                            (Stop), or the core's end closed -> return
```

A batch that may go but not be started any more by now is skipped, and Done.

An engine on a device computes by itself. While it does, the next message is listened for: a batch
that is staged is gathered (copied to the device) meanwhile, and one that may go is put behind the
one that runs, so that the device goes on without a gap. Two are submitted at most. Those of one
model are Done in their turn; one of another, which the device runs beside it, may be Done first.

A model that fails to load fails alone; so does a row that cannot be read, and a batch on which the
model raises. SystemExit and KeyboardInterrupt from a running model end the process, as any crash
does: the core starts another one. So does a device that cannot be had, and one that is lost.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
import traceback
from pathlib import Path

from attrs import evolve

from appliance.engines.arena import LEDGER_MODELS, ArenaView
from appliance.engines.base import Buffers, DeviceEngine
from appliance.engines.device import ON_CPU, open_named
from appliance.engines.flying import Flying
from appliance.engines.gather import Gathered, cut
from appliance.engines.model import LoadedModel, release
from appliance.engines.overlap import GatherPace
from appliance.engines.residents import Residents
from appliance.engines.staged import Staged, Submitted, done_of, let_go
from appliance.errors import ApplianceError, DeviceLost, EngineError, Outcome, PeerProtocolError
from appliance.timeslice import SERVING_NS, set_time_slice
from appliance.wire.pb import worker_pb2
from appliance.wire.worker import MAX_DATAGRAM, WORKER_PROTOCOL, spec_to_ready

MAX_STAGED = 4
"""Batches gathered and waiting for Go; the core keeps one."""

MAX_SUBMITTED = 2
"""Batches on a device: one runs, one follows."""

LONGEST_ERROR = 2048

LONGEST_OF_ROW = 512
"""Where it is said of each row of a batch, as all are in one message."""


class Worker:
    """Serves one core over `control`, until it says Stop or is gone."""

    def __init__(self, control: socket.socket, arena_fd: int) -> None:
        self._control = control
        self._arena_fd = arena_fd
        self._datagram = memoryview(bytearray(MAX_DATAGRAM + 1))
        self._staged: dict[int, Staged] = {}
        self._flying = Flying()
        self._reported: dict[int, str] = {}
        self._times_ns: dict[int, dict[int, int]] = {}
        self._pace = GatherPace()
        self._device = ON_CPU

    def run(self) -> None:
        """Serve.

        Raises:
            PeerProtocolError: The core said something that makes no sense.
            DeviceMissing, ExtraMissing: The device cannot be had.
            DeviceLost: The device failed for good. Whatever was opened is left as it is.
            OSError: The channel broke.
        """
        self._send(
            worker_pb2.FromWorker(hello=worker_pb2.Hello(protocol=WORKER_PROTOCOL, pid=os.getpid()))
        )
        message = self._receive()
        if message is None or message.WhichOneof("message") == "stop":
            return
        if message.WhichOneof("message") != "load":
            raise PeerProtocolError(f"expected load, came {message.WhichOneof('message')}")
        self._device = open_named(message.load.device)
        try:
            self._load(message.load)
            self._serve()
        except DeviceLost:
            raise
        except BaseException:
            self._device.close()
            raise
        self._models.close()
        self._device.close()

    def _serve(self) -> None:
        """Do as the core says, until it says Stop or is gone."""
        while (message := self._next()) is not None:
            kind = message.WhichOneof("message")
            if kind == "stage":
                self._stage(message.stage)
            elif kind == "go":
                self._go(message.go)
            elif kind == "revoke":
                revoked = self._staged.pop(message.revoke.batch_id, None)
                if revoked is not None:
                    let_go(revoked)
            elif kind == "ping":
                self._send(worker_pb2.FromWorker(pong=worker_pb2.Pong()))
            elif kind == "stop":
                break
            else:
                raise PeerProtocolError(f"expected a batch, came {kind}")
        self._finish_all()

    def _next(self) -> worker_pb2.ToWorker | None:
        """Return the next message; meanwhile finish what a device has done."""
        while self._flying:
            done = self._flying.wait_or_hear(self._control)
            if done is None:
                break
            self._finish(done)
        return self._receive()

    # ----------------------------------------------------------------------------- loading

    def _load(self, order: worker_pb2.Load) -> None:
        arena = ArenaView.of_fd(self._arena_fd, order.arena_bytes)
        is_pinned = self._device.pin(arena.all)
        self._ledger = arena.ledger(order.ledger_offset)
        self._models = Residents(arena, self._device, order.memory_bytes)
        for done, path in enumerate(order.models):
            self._load_model(path, done / len(order.models))
        # What loading left behind lives as long as the process: the collector need not look.
        gc.collect()
        gc.freeze()
        for thread in Path("/proc/self/task").iterdir():  # models may have started some
            set_time_slice(SERVING_NS, int(thread.name))
        ready = worker_pb2.Ready(resident=self._models.resident, unpinned=not is_pinned)
        self._send(worker_pb2.FromWorker(ready=ready))

    def _load_model(self, path: worker_pb2.ModelPath, progress: float) -> None:
        def on_step(step: str) -> None:
            loading = worker_pb2.Loading(model=path.name, progress=progress, step=step)
            self._send(worker_pb2.FromWorker(loading=loading))

        try:
            if path.index >= LEDGER_MODELS:
                raise EngineError(f"a worker holds at most {LEDGER_MODELS} models")  # noqa: TRY301
            loaded = self._models.load(path, on_step)
        except DeviceLost:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  a model's own code may raise anything
            message = self._explain(path.index, error)
            failed = worker_pb2.ModelFailed(model=path.index, message=message)
            self._send(worker_pb2.FromWorker(model_failed=failed))
            return
        self._times_ns[path.index] = loaded.times_ns
        self._flying.is_overtaken |= loaded.model.is_urgent
        engine = loaded.model.engine
        ready = spec_to_ready(
            loaded.model.resolved.spec,
            model=path.index,
            times_ns=loaded.times_ns,
            load_ns=loaded.load_ns,
            memory_bytes=loaded.memory_bytes,
            is_urgent=loaded.model.is_urgent,
            without_graphs=engine.without_graphs if isinstance(engine, DeviceEngine) else "",
            images_on_cpu=engine.images_on_cpu if isinstance(engine, DeviceEngine) else "",
        )
        self._send(worker_pb2.FromWorker(model_ready=ready))

    # ----------------------------------------------------------------------------- batches

    def _stage(self, stage: worker_pb2.Stage) -> None:
        """Gather a batch, and execute it if it may go; load its model for it, if that had to leave.

        Where it may not go yet, both wait until it may: what runs now may need the memory.
        """
        model = self._models.get(stage.model)
        is_urgent = model is not None and model.is_urgent
        if self._flying and not (
            is_urgent or self._pace.fits(stage.model, len(stage.rows), self._flying.remaining_ns())
        ):
            self._finish(self._flying.wait())
        while self._flying and model is not None and not model.has_room:
            self._finish(self._flying.wait())
        if stage.go and 0 < stage.latest_start_ns < time.monotonic_ns():
            self._models.used(stage.model)
            self._skip(stage.batch_id)
            return
        if self._models.is_evicted(stage.model):
            if stage.go:
                self._execute_loading(stage)
            else:
                self._keep(Staged(stage, None, "", 0))
            return
        staged = self._gather(stage, model)
        if stage.go:
            self._models.used(stage.model)
            self._execute(staged)
        else:
            self._keep(staged)

    def _execute_loading(self, stage: worker_pb2.Stage) -> None:
        """Load the model of a batch, gather and execute it; all its rows fail if that does."""
        self._finish_all()
        started_ns, model, problem = time.monotonic_ns(), None, ""
        kept = {each.stage.model for each in self._staged.values() if each.gathered is not None}
        try:
            model = self._models.load_again(stage.model, kept)
        except DeviceLost:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  as above
            problem = self._explain(stage.model, error)
        load_ns = max(1, time.monotonic_ns() - started_ns)
        if model is not None:
            staged = self._gather(stage, model)
            self._execute(evolve(staged, load_ns=load_ns, resident=self._models.resident))
            return
        message = done_of(Staged(stage, None, "", 0), time.monotonic_ns())
        message.done.load_ns = load_ns
        message.done.resident.extend(self._models.resident)
        problem = cut(f"its model could not be loaded again: {problem}", LONGEST_OF_ROW)
        for row in range(len(stage.rows)):  # it is the same for each: none is tried again
            message.done.row_errors.add(
                row=row,
                code=int(Outcome.ENGINE_FAILED),  # pyright: ignore[reportArgumentType]  an integer
                message=problem,
            )
        self._say_done(message)

    def _gather(self, stage: worker_pb2.Stage, model: LoadedModel | None) -> Staged:
        """Gather a batch."""
        started_ns, gathered, error = time.monotonic_ns(), None, ""
        if model is None:
            error = f"model {stage.model} is not loaded"
        else:
            try:
                gathered = model.gather(stage)
            except DeviceLost:
                raise
            except Exception as problem:  # noqa: BLE001  also a MemoryError costs this batch only
                error = self._explain(stage.model, problem)
        gather_ns = time.monotonic_ns() - started_ns
        self._pace.saw(stage.model, len(stage.rows), gather_ns)
        return Staged(stage, gathered, error, gather_ns)

    def _keep(self, staged: Staged) -> None:
        """Let a batch wait until it may go."""
        if len(self._staged) >= MAX_STAGED:
            raise PeerProtocolError(f"more than {MAX_STAGED} batches are staged")
        self._staged[staged.stage.batch_id] = staged

    def _go(self, go: worker_pb2.Go) -> None:
        staged = self._staged.pop(go.batch_id, None)
        if staged is None:
            raise PeerProtocolError(f"go for batch {go.batch_id}, which is not staged")
        index = staged.stage.model
        self._models.used(index)
        if 0 < go.latest_start_ns < time.monotonic_ns():
            let_go(staged)
            self._skip(go.batch_id)
        elif staged.gathered is None and self._models.is_evicted(index):
            self._execute_loading(staged.stage)
        elif staged.gathered is None and not staged.error:  # its model has come meanwhile
            self._execute(self._gather(staged.stage, self._models.get(index)))
        else:
            self._execute(staged)

    def _skip(self, batch_id: int) -> None:
        self._finish_all()
        now_ns = time.monotonic_ns()
        done = worker_pb2.Done(
            batch_id=batch_id, execute_started_ns=now_ns, finished_ns=now_ns, skipped=True
        )
        self._send(worker_pb2.FromWorker(done=done))

    def _execute(self, staged: Staged) -> None:
        """Run a gathered batch, or have it run, behind those that run."""
        gathered = staged.gathered
        if gathered is not None and gathered.buffers is not None and gathered.rows:
            self._submit(staged, gathered, gathered.buffers)
            return
        self._finish_before(staged.stage.model)
        message = done_of(staged, time.monotonic_ns())
        if gathered is not None:
            if gathered.rows:
                index, rows = staged.stage.model, len(gathered.rows)
                self._ledger.started(index, rows)
                self._end(self._model(index), staged, gathered, message.done)
            release(gathered)
        self._say_done(message)

    def _submit(self, staged: Staged, gathered: Gathered, buffers: Buffers) -> None:
        """Have a device run a batch."""
        index, rows = staged.stage.model, len(gathered.rows)
        while len(self._flying) >= MAX_SUBMITTED:
            self._finish(self._flying.wait())
        model = self._model(index)
        self._ledger.started(index, rows)
        submitted_ns = time.monotonic_ns()
        try:
            model.submit(gathered)
        except EngineError as error:
            release(gathered)
            self._finish_before(index)
            self._ledger.failed(index, rows)
            message = done_of(staged, submitted_ns)
            message.done.error = self._explain(index, error)
            self._say_done(message)
            return
        expected_ns = next(
            (ns for size, ns in self._times_ns[index].items() if size >= rows),
            max(self._times_ns[index].values()),
        )
        self._flying.add(Submitted(model, staged, gathered, buffers, expected_ns, submitted_ns))

    def _model(self, index: int) -> LoadedModel:
        """Return the model of a batch that was gathered: it stays until that has run."""
        model = self._models.get(index)
        assert model is not None
        return model

    def _finish_all(self) -> None:
        """Say Done of all that is on a device: the next Done is not theirs."""
        while self._flying:
            self._finish(self._flying.wait())

    def _finish_before(self, index: int) -> None:
        """Say Done of what is on a device and comes before a batch of a model that needs no device.

        If it is urgent that is what runs of its own model, else all.
        """
        model = self._models.get(index)
        if model is None or not model.is_urgent:
            self._finish_all()
        while self._flying.has(index):
            self._finish(self._flying.wait())

    def _finish(self, batch: Submitted) -> None:
        """Wait for a batch that runs on a device, and say Done."""
        message = done_of(batch.staged, batch.since_ns)
        self._end(batch.loaded, batch.staged, batch.gathered, message.done)
        release(batch.gathered)
        self._flying.remove(batch, self._say_done(message))

    def _end(
        self, model: LoadedModel, staged: Staged, gathered: Gathered, done: worker_pb2.Done
    ) -> None:
        """Finish a batch, and count its rows."""
        index, rows = staged.stage.model, len(gathered.rows)
        try:
            model.finish(staged.stage, gathered, done)
        except DeviceLost:
            raise
        except Exception as error:  # noqa: BLE001  a model's own code may raise anything
            self._ledger.failed(index, rows)
            del done.outputs[:]
            done.error = self._explain(index, error)
        else:
            self._ledger.finished(index, rows)

    def _say_done(self, message: worker_pb2.FromWorker) -> int:
        """Say it; return when it was done."""
        finished_ns = message.done.finished_ns = time.monotonic_ns()
        self._send(message)
        return finished_ns

    def _explain(self, model: int, error: BaseException) -> str:
        """Return what to tell of an error; where it came from goes to standard error, once."""
        text = str(error)
        if not isinstance(error, ApplianceError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
            if self._reported.get(model) != text:
                self._reported[model] = text
                traceback.print_exception(error, file=sys.stderr)
        return cut(text, LONGEST_ERROR)

    # ----------------------------------------------------------------------------- channel

    def _send(self, message: worker_pb2.FromWorker) -> None:
        self._control.send(message.SerializeToString())

    def _receive(self) -> worker_pb2.ToWorker | None:
        """Return the next message; None when the core has closed its end."""
        try:
            size = self._control.recv_into(self._datagram)
        except ConnectionResetError:
            return None
        if size == 0:
            return None
        if size > MAX_DATAGRAM:
            raise PeerProtocolError(f"a message of more than {MAX_DATAGRAM} bytes")
        return worker_pb2.ToWorker.FromString(bytes(self._datagram[:size]))
