"""The worker process's one loop: load what it is told, then one batch after the other.

```
Hello -> (Load) -> Loading..., ModelReady | ModelFailed for each -> Ready
(Stage go) -> gather, execute -> Done         (Stage) -> gather; (Go) -> execute -> Done
(Revoke) -> forget                            (Stop), or the core's end closed -> return
```

A batch that may go but not be started any more by now is skipped, and Done.

A model that fails to load fails alone; so does a row that cannot be read, and a batch on which the
model raises. SystemExit and KeyboardInterrupt from a running model end the process, as any crash
does: the core starts another one.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
import traceback
from pathlib import Path

from appliance.engines.arena import LEDGER_MODELS, ArenaView
from appliance.engines.gather import Gathered, cut
from appliance.engines.load import load
from appliance.engines.model import LoadedModel
from appliance.errors import ApplianceError, EngineError, PeerProtocolError
from appliance.timeslice import SERVING_NS, set_time_slice
from appliance.values import value
from appliance.wire.pb import worker_pb2
from appliance.wire.worker import MAX_DATAGRAM, WORKER_PROTOCOL, spec_to_ready

MAX_STAGED = 4
"""Batches gathered and waiting for Go; the core keeps one."""

LONGEST_ERROR = 2048


@value
class _Staged:
    """A gathered batch; `error` says why there is nothing to execute."""

    stage: worker_pb2.Stage
    gathered: Gathered | None
    error: str
    gather_ns: int


class Worker:
    """Serves one core over `control`, until it says Stop or is gone."""

    def __init__(self, control: socket.socket, arena_fd: int) -> None:
        self._control = control
        self._arena_fd = arena_fd
        self._datagram = memoryview(bytearray(MAX_DATAGRAM + 1))
        self._models: dict[int, LoadedModel] = {}
        self._staged: dict[int, _Staged] = {}
        self._reported: dict[int, str] = {}

    def run(self) -> None:
        """Serve.

        Raises:
            PeerProtocolError: The core said something that makes no sense.
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
        self._load(message.load)
        while (message := self._receive()) is not None:
            kind = message.WhichOneof("message")
            if kind == "stage":
                self._stage(message.stage)
            elif kind == "go":
                self._go(message.go)
            elif kind == "revoke":
                self._staged.pop(message.revoke.batch_id, None)
            elif kind == "stop":
                break
            else:
                raise PeerProtocolError(f"expected a batch, came {kind}")
        for model in self._models.values():
            model.engine.close()

    # ----------------------------------------------------------------------------- loading

    def _load(self, order: worker_pb2.Load) -> None:
        arena = ArenaView.of_fd(self._arena_fd, order.arena_bytes)
        self._ledger = arena.ledger(order.ledger_offset)
        for done, path in enumerate(order.models):
            self._load_model(path, arena, done / len(order.models))
        # What loading left behind lives as long as the process: the collector need not look.
        gc.collect()
        gc.freeze()
        for thread in Path("/proc/self/task").iterdir():  # models may have started some
            set_time_slice(SERVING_NS, int(thread.name))
        self._send(worker_pb2.FromWorker(ready=worker_pb2.Ready()))

    def _load_model(self, path: worker_pb2.ModelPath, arena: ArenaView, progress: float) -> None:
        def on_step(step: str) -> None:
            loading = worker_pb2.Loading(model=path.name, progress=progress, step=step)
            self._send(worker_pb2.FromWorker(loading=loading))

        try:
            if path.index >= LEDGER_MODELS:
                raise EngineError(f"a worker holds at most {LEDGER_MODELS} models")  # noqa: TRY301
            loaded = load(path, arena, on_step)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a model's own code may raise anything
            message = self._explain(path.index, error)
            failed = worker_pb2.ModelFailed(model=path.index, message=message)
            self._send(worker_pb2.FromWorker(model_failed=failed))
            return
        self._models[path.index] = loaded.model
        ready = spec_to_ready(
            loaded.model.resolved.spec,
            model=path.index,
            times_ns=loaded.times_ns,
            load_ns=loaded.load_ns,
        )
        self._send(worker_pb2.FromWorker(model_ready=ready))

    # ----------------------------------------------------------------------------- batches

    def _stage(self, stage: worker_pb2.Stage) -> None:
        """Gather a batch, and execute it if it may go."""
        started_ns = time.monotonic_ns()
        if stage.go and 0 < stage.latest_start_ns < started_ns:
            self._skip(stage.batch_id)
            return
        gathered, error = None, ""
        model = self._models.get(stage.model)
        if model is None:
            error = f"model {stage.model} is not loaded"
        else:
            try:
                gathered = model.gather(stage)
            except Exception as problem:  # noqa: BLE001  also a MemoryError costs this batch only
                error = self._explain(stage.model, problem)
        staged = _Staged(stage, gathered, error, time.monotonic_ns() - started_ns)
        if stage.go:
            self._execute(staged)
        elif len(self._staged) >= MAX_STAGED:
            raise PeerProtocolError(f"more than {MAX_STAGED} batches are staged")
        else:
            self._staged[stage.batch_id] = staged

    def _go(self, go: worker_pb2.Go) -> None:
        staged = self._staged.pop(go.batch_id, None)
        if staged is None:
            raise PeerProtocolError(f"go for batch {go.batch_id}, which is not staged")
        if 0 < go.latest_start_ns < time.monotonic_ns():
            self._skip(go.batch_id)
        else:
            self._execute(staged)

    def _skip(self, batch_id: int) -> None:
        now_ns = time.monotonic_ns()
        done = worker_pb2.Done(
            batch_id=batch_id, execute_started_ns=now_ns, finished_ns=now_ns, skipped=True
        )
        self._send(worker_pb2.FromWorker(done=done))

    def _execute(self, staged: _Staged) -> None:
        """Run a gathered batch, count its rows, say Done."""
        stage, gathered = staged.stage, staged.gathered
        message = worker_pb2.FromWorker()
        done = message.done
        done.batch_id = stage.batch_id
        done.gather_ns = staged.gather_ns
        done.execute_started_ns = time.monotonic_ns()
        done.error = staged.error
        if gathered is not None:
            if gathered.rows:
                self._run(stage, gathered, done)
            for failure in gathered.failures:
                done.row_errors.add(
                    row=failure.row,
                    code=int(failure.outcome),  # pyright: ignore[reportArgumentType]  an integer
                    message=failure.message,
                )
        done.finished_ns = time.monotonic_ns()
        self._send(message)

    def _run(self, stage: worker_pb2.Stage, gathered: Gathered, done: worker_pb2.Done) -> None:
        index, rows = stage.model, len(gathered.rows)
        self._ledger.started(index, rows)
        try:
            self._models[index].execute(stage, gathered, done)
        except Exception as error:  # noqa: BLE001  a model's own code may raise anything
            self._ledger.failed(index, rows)
            del done.outputs[:]
            done.error = self._explain(index, error)
        else:
            self._ledger.finished(index, rows)

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
