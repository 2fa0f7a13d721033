"""A real worker process, and the least of a core that drives it: socketpair, memfd, lifeline."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.models.repository import Repository
from appliance.wire.arrays import encode_strings
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import ModelSpec
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding
from appliance.wire.worker import MAX_DATAGRAM, spec_from_ready

PATIENCE_S = 60.0
"""Nothing here waits this long; it ends a test whose worker says nothing."""

LEDGER_OFFSET = 4096
FIRST_BLOCK = 8192
ALIGNMENT = 64

DTYPES = {numpy_dtype: dtype for dtype, numpy_dtype in NUMPY_DTYPES.items()}


Start = Callable[..., "WorkerProcess"]
"""Starts a worker process and, given a repository, loads all of it."""


class WorkerProcess:
    """Starts `python -m appliance.engines`; use it as a context manager.

    Attributes:
        specs: Of the models that loaded, by name.
        failed: Why the others did not, by name.
        loading: Steps that were reported, in order.
    """

    def __init__(
        self,
        *,
        arena_bytes: int = 64 << 20,
        stderr: Any = None,
        module: str = "appliance.engines",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.specs: dict[str, ModelSpec] = {}
        self.ready: dict[str, worker_pb2.ModelReady] = {}
        self.failed: dict[str, str] = {}
        self.loading: list[tuple[str, str]] = []
        self.arena_bytes = arena_bytes
        self._names: list[str] = []
        self._next = FIRST_BLOCK
        self._batch = 0
        self._arena_fd = os.memfd_create("arena")
        os.ftruncate(self._arena_fd, arena_bytes)
        self.memory = mmap.mmap(self._arena_fd, arena_bytes)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(PATIENCE_S)
        command = [sys.executable, "-m", module]
        self.process = subprocess.Popen(
            [*command, "--control-fd", str(theirs.fileno()), "--arena-fd", str(self._arena_fd)],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            pass_fds=(theirs.fileno(), self._arena_fd),
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        theirs.close()
        assert self.receive().hello.pid == self.process.pid

    def __enter__(self) -> WorkerProcess:  # noqa: PYI034  Self is not in Python 3.10
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.control.close()
        self.process.kill()
        self.process.communicate()
        os.close(self._arena_fd)

    # ------------------------------------------------------------------------- messages

    def send(self, message: worker_pb2.ToWorker) -> None:
        self.control.send(message.SerializeToString())

    def receive(self) -> worker_pb2.FromWorker:
        """Return the worker's next message; EOFError if it has gone."""
        try:
            datagram = self.control.recv(MAX_DATAGRAM + 1)
        except ConnectionResetError:
            datagram = b""
        if not datagram:
            raise EOFError(f"the worker has gone: {self.process.wait(PATIENCE_S)}")
        return worker_pb2.FromWorker.FromString(datagram)

    def start_loading(self, root: Path, device: str = "cpu") -> None:
        """Send Load for every model of the repository `root`."""
        load = worker_pb2.Load(
            device=device, arena_bytes=self.arena_bytes, ledger_offset=LEDGER_OFFSET
        )
        for index, entry in enumerate(Repository(root).scan()):
            self._names.append(entry.name)
            load.models.add(
                index=index,
                name=entry.name,
                version=entry.version,
                manifest=entry.manifest,
                manifest_path=str(entry.manifest_path),
                directory=str(entry.directory),
            )
        self.send(worker_pb2.ToWorker(load=load))

    def load(self, root: Path, device: str = "cpu") -> None:
        """Load every model of the repository `root` and wait for Ready."""
        self.start_loading(root, device)
        while True:
            message = self.receive()
            kind = message.WhichOneof("message")
            if kind == "ready":
                return
            if kind == "model_ready":
                name = self._names[message.model_ready.model]
                self.ready[name] = message.model_ready
                self.specs[name] = spec_from_ready(message.model_ready)
            elif kind == "model_failed":
                self.failed[self._names[message.model_failed.model]] = message.model_failed.message
            else:
                self.loading.append((message.loading.model, message.loading.step))

    # --------------------------------------------------------------------------- memory

    def allocate(self, length: int) -> worker_pb2.Block:
        """Take memory; nothing is ever given back."""
        offset = self._next
        self._next += -(-max(length, 1) // ALIGNMENT) * ALIGNMENT
        assert self._next <= self.arena_bytes
        return worker_pb2.Block(offset=offset, length=length)

    def store(self, data: bytes) -> worker_pb2.Block:
        block = self.allocate(len(data))
        self.memory[block.offset : block.offset + block.length] = data
        return block

    def read(self, block: worker_pb2.Block) -> bytes:
        return self.memory[block.offset : block.offset + block.length]

    def ledger(self, name: str) -> tuple[int, int, int]:
        """Return rows started, finished and failed of a model."""
        page = np.frombuffer(self.memory, np.uint64, 192, LEDGER_OFFSET).reshape(64, 3)
        started, finished, failed = page[self._names.index(name)].tolist()
        return started, finished, failed

    # -------------------------------------------------------------------------- batches

    def feed(self, value: NDArray[Any] | str) -> worker_pb2.Feed:
        """Store a raw tensor, or a string as metadata is stored."""
        if isinstance(value, str):
            data, dtype, shape = encode_strings([value]), DType.STRING, (1,)
        else:
            data, dtype, shape = value.tobytes(), DTYPES[value.dtype], value.shape
        return self.feed_bytes(data, dtype=dtype, shape=shape)

    def feed_bytes(
        self,
        data: bytes,
        *,
        dtype: DType = DType.UINT8,
        encoding: Encoding = Encoding.RAW,
        shape: tuple[int, ...] = (),
    ) -> worker_pb2.Feed:
        block = self.store(data)
        return worker_pb2.Feed(
            offset=block.offset, length=block.length, dtype=dtype, encoding=encoding, shape=shape
        )

    def stage(
        self,
        name: str,
        rows: list[worker_pb2.Row] | list[list[worker_pb2.Feed]],
        *,
        go: bool = True,
        latest_start_ns: int = 0,
        output_bytes: int | None = None,
    ) -> int:
        """Send a batch; return its id."""
        self._batch += 1
        made = [
            row if isinstance(row, worker_pb2.Row) else worker_pb2.Row(feeds=row) for row in rows
        ]
        if output_bytes is None:
            output_bytes = self.specs[name].output_bytes_per_row * len(made)
        stage = worker_pb2.Stage(
            batch_id=self._batch,
            model=self._names.index(name),
            rows=made,
            output_offset=self.allocate(output_bytes).offset,
            output_bytes=output_bytes,
            go=go,
            latest_start_ns=latest_start_ns,
        )
        self.send(worker_pb2.ToWorker(stage=stage))
        return self._batch

    def go(self, batch_id: int, latest_start_ns: int = 0) -> None:
        go = worker_pb2.Go(batch_id=batch_id, latest_start_ns=latest_start_ns)
        self.send(worker_pb2.ToWorker(go=go))

    def revoke(self, batch_id: int) -> None:
        self.send(worker_pb2.ToWorker(revoke=worker_pb2.Revoke(batch_id=batch_id)))

    def done(self) -> worker_pb2.Done:
        """Return the next Done; the message has to be one."""
        message = self.receive()
        assert message.WhichOneof("message") == "done", message
        return message.done

    def run(self, name: str, *rows: dict[str, Any]) -> worker_pb2.Done:
        """Run a batch of raw rows, each `{input name: array or string}`."""
        order = [item.name for item in self.specs[name].inputs]
        feeds = [[self.feed(row[key]) for key in order] for row in rows]
        self.stage(name, feeds)
        return self.done()

    def output(self, done: worker_pb2.Done, key: str, rows: int) -> NDArray[Any]:
        """Return a fixed-size output of a batch of `rows` rows."""
        assert not done.error, done.error
        output = next(output for output in done.outputs if output.key == key)
        dtype = NUMPY_DTYPES[DType(output.dtype)]
        data = self.memory[output.offset : output.offset + output.row_length * rows]
        return np.frombuffer(data, dtype).reshape(rows, *output.row_shape)
